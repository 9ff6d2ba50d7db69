"""A token bucket: so much a minute, and a minute's worth at once. Pure: the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE = 60.0  # seconds


@dataclass(slots=True)
class Bucket:
    """What somebody may still take.

    More than is left may be taken, since nobody knows before how long an answer gets; then it stays empty until
    that is made up for.

    Attributes:
        per_minute: flows in, evenly, and is the most that the bucket holds.
        level: what was in it at `at`; below 0 is owed.
        at: seconds, on any clock that does not go back.

    Example:
        >>> bucket = Bucket.full(60, now=0.0)
        >>> bucket.take(90, now=0.0)
        >>> bucket.left(now=10.0), bucket.wait(now=10.0)
        (-20.0, 21.0)
    """

    per_minute: float
    level: float
    at: float

    @staticmethod
    def full(per_minute: float, now: float) -> Bucket:
        """One from which nothing was taken yet."""
        return Bucket(per_minute, per_minute, now)

    def left(self, now: float) -> float:
        """What is in it."""
        return min(self.per_minute, self.level + max(0.0, now - self.at) * self.per_minute / _MINUTE)

    def take(self, amount: float, now: float) -> None:
        """Take this much out, or put it back where it is below 0."""
        self.level = min(self.per_minute, self.left(now) - amount)
        self.at = max(now, self.at)

    def wait(self, now: float) -> float:
        """Seconds until there is one to take."""
        return max(0.0, (1 - self.left(now)) * _MINUTE / self.per_minute)
