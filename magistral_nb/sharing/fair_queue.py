"""Who is answered next. Pure: no socket, no task, and the clock is passed in.

Whoever has fewest requests running goes first, of those whoever has had fewest tokens lately, of those whoever came
first. To ask more often brings nobody forward: a student's second request counts as if the first one ran already.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

_HALF_LIFE = 600.0  # seconds until what somebody has had counts half: an hour later a long thought is forgotten
_ASKED = 1.0  # token that a seat alone counts, so that who hangs up before the first one does not come first for ever


@dataclass(slots=True, eq=False)
class Turn:
    """One request, from when it queues until it leaves.

    Attributes:
        student: whose it is.
        seats: that it takes, one for each answer that it asks for.
        number: of its arrival.
        admitted: it has its seats.
    """

    student: str
    seats: int
    number: int
    admitted: bool = False


class FairQueue:
    """The seats of a class, and who waits for one.

    Example:
        >>> queue = FairQueue(seats=1, per_student=1)
        >>> ada, again, ben = queue.join("ada", 1), queue.join("ada", 1), queue.join("ben", 1)
        >>> queue.admit(now=1.0) == [ada], queue.order(now=1.0) == [ben, again]
        (True, True)
    """

    def __init__(self, *, seats: int, per_student: int) -> None:
        """An empty one.

        Args:
            seats: requests that are answered at once.
            per_student: of these, one student's at most.
        """
        self.seats, self._per_student = seats, per_student
        self._waiting: dict[Turn, None] = {}  # in the order of their arrival
        self._taken: Counter[str] = Counter()  # seats, by student
        self._had: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted
        self._arrivals = 0

    @property
    def per_student(self) -> int:
        """Of these seats, one student's at most."""
        return min(self._per_student, self.seats)

    def resize(self, seats: int) -> None:
        """Have another number of seats; who sits, stays, and who waits for more than there are is content with all."""
        self.seats = seats
        for turn in self._waiting:
            turn.seats = min(turn.seats, self.per_student)

    @property
    def running(self) -> int:
        """Seats that are taken."""
        return self._taken.total()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def join(self, student: str, seats: int) -> Turn:
        """Queue; `admit` says when it is this one's turn.

        Args:
            student: who asks.
            seats: that are needed; nobody gets more than `per_student`.
        """
        self._arrivals += 1
        turn = Turn(student, min(seats, self.per_student), self._arrivals)
        self._waiting[turn] = None
        return turn

    def leave(self, turn: Turn) -> None:
        """Give the seats back, or stop waiting for them."""
        if turn.admitted:
            turn.admitted = False
            self._taken[turn.student] -= turn.seats
            self._taken += Counter()  # forgets who has none
        else:
            self._waiting.pop(turn, None)

    def admit(self, now: float) -> list[Turn]:
        """Give the free seats to those whose turn it is.

        A request that needs more seats than are free is not passed over by a smaller one, or it might wait for ever;
        one whose student has all the seats that one may have is.
        """
        admitted: list[Turn] = []
        blocked: set[str] = set()
        for turn in self.order(now):
            if turn.student in blocked or self._taken[turn.student] + turn.seats > self.per_student:
                blocked.add(turn.student)
            elif self.running + turn.seats > self.seats:
                break
            else:
                del self._waiting[turn]
                self._taken[turn.student] += turn.seats
                turn.admitted = True
                self.charge(turn.student, _ASKED * turn.seats, now)
                admitted.append(turn)
        self._taken += Counter()
        return admitted

    def order(self, now: float) -> list[Turn]:
        """Those who wait, as they would be admitted if none of those who run ended."""
        ahead = Counter(self._taken)
        ranks: dict[Turn, tuple[int, float, int]] = {}
        for turn in self._waiting:
            ranks[turn] = (ahead[turn.student], self.had(turn.student, now), turn.number)
            ahead[turn.student] += turn.seats
        return sorted(ranks, key=ranks.__getitem__)

    def charge(self, student: str, tokens: float, now: float) -> None:
        """Note that a student has had these tokens."""
        self._had[student] = (max(0.0, self.had(student, now) + tokens), now)

    def had(self, student: str, now: float) -> float:
        """Tokens that a student has had, the older ones counting less."""
        tokens, at = self._had.get(student, (0.0, now))
        return tokens * math.exp2((at - now) / _HALF_LIFE)
