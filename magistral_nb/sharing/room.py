"""The class as it sits: who is let in, who waits, who is answered, and what each has used."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.sharing.bucket import Bucket
from magistral_nb.sharing.fair_queue import FairQueue, Turn
from magistral_nb.sharing.refused import Refused
from magistral_nb.sharing.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from magistral_nb.sharing.share import Share

MOST_OPEN = 16  # requests of one student, with those that wait: a sweep of samples, and no flood
_PROMPT_SHARE = 0.25  # of a completion's token is what one of a prompt counts: many are computed at once
_REFUSED = 0.01  # of a minute's tokens, which a request costs that is refused: it took time to read
_BUSY_SECONDS = 5.0  # after which a student with too many requests may try again


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way.

    Attributes:
        student: whose it is.
        turn: its place in the queue; None before it queues.
        place: (place, how many wait), while it waits.
        news: set when the place has changed or the turn has come.
        is_counted: some of its tokens were charged.
        ended: why it was ended by somebody else than the student.
    """

    student: str
    turn: Turn | None = None
    place: tuple[int, int] = (0, 0)
    is_counted: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Future[Refused] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_admitted(self) -> bool:
        """Whether it has its seats."""
        return self.turn is not None and self.turn.admitted

    def end(self, why: Refused) -> None:
        """End it, wherever it stands."""
        if not self.ended.done():
            self.ended.set_result(why)


class Room:
    """The seats of one class.

    Attributes:
        usage: by student; since the first time that the server was shared.
    """

    def __init__(
        self,
        share: Share,
        seats: int,
        usage: Mapping[str, Usage],
        clock: Callable[[], float] = time.monotonic,
        *,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """An empty room.

        Args:
            share: what the teacher decided.
            seats: requests that are answered at once.
            usage: as an earlier proxy has left it; nothing runs or waits any more.
            clock: seconds, never going back.
            is_held: whether nobody is given a seat now, as the server is about to come back.
        """
        self.share = share
        self.usage = dict(usage)
        for each in self.usage.values():
            each.running = each.waiting = 0
        self._clock, self._is_held = clock, is_held
        self._queue = FairQueue(seats=seats, per_student=share.per_student)
        self._buckets: dict[str, Bucket] = {}
        self._open: Counter[str] = Counter()
        self._jobs: dict[Job, None] = {}

    @property
    def seats(self) -> int:
        """Requests that are answered at once."""
        return self._queue.seats

    def resize(self, seats: int) -> None:
        """Have another number of seats, as the server tells what it has room for."""
        self._queue.resize(seats)
        self.arrange()

    @property
    def running(self) -> int:
        """Seats that are taken."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._queue.waiting

    @property
    def most_samples(self) -> int:
        """Answers that one request may ask for."""
        return self._queue.per_student

    @contextmanager
    def let_in(self, student: str) -> Iterator[Job]:
        """A request of this student, until the block ends; whatever it holds then is given back.

        Raises:
            Refused: the student has too many requests already, or has used this minute's tokens.
        """
        usage = self.usage.setdefault(student, Usage())
        if self._open[student] >= MOST_OPEN:
            usage.refused += 1
            raise Refused(429, f"You have {MOST_OPEN} requests open: wait for one.", retry_after=_BUSY_SECONDS)
        if (wait := self._bucket(student).wait(self._clock())) > 0:
            usage.refused += 1
            limit = f"{self.share.tokens_per_minute:,} tokens a minute"
            raise Refused(429, f"You have used up your {limit}: ask again in {wait:.0f} s.", retry_after=wait)
        usage.last_asked = time.time()
        job = Job(student)
        self._open[student] += 1
        self._jobs[job] = None
        try:
            yield job
        except Refused as refused:
            if job.turn is None and refused.status < 500:  # noqa: PLR2004 - the student's own fault
                usage.refused += 1
                self._bucket(student).take(_REFUSED * self.share.tokens_per_minute, self._clock())
            raise
        finally:
            del self._jobs[job]
            self._open[student] -= 1
            if not self._open[student]:
                del self._open[student]
            if job.turn is not None:
                self._queue.leave(job.turn)
                self.arrange()

    def queue(self, job: Job, samples: int) -> None:
        """Let it wait for its turn, which may come at once."""
        self.usage[job.student].requests += 1
        job.turn = self._queue.join(job.student, samples)
        self.arrange()

    def queue_again(self, job: Job) -> None:
        """Let it wait once more, after its turn came to nothing."""
        if job.turn is not None:
            self._queue.leave(job.turn)
            job.turn = self._queue.join(job.student, job.turn.seats)
            self.arrange()

    def arrange(self) -> None:
        """Give free seats away, and tell those who wait where they stand now."""
        now = self._clock()
        if not self._is_held():
            self._queue.admit(now)
        places = {turn: place for place, turn in enumerate(self._queue.order(now), 1)}
        running, waiting = Counter[str](), Counter[str]()
        for job in self._jobs:
            if job.turn is None:
                continue
            if job.is_admitted:
                running[job.student] += job.turn.seats
                job.news.set()
                continue
            waiting[job.student] += 1
            place = places[job.turn], len(places)
            if place != job.place:
                job.place = place
                job.news.set()
        for student, usage in self.usage.items():
            usage.running, usage.waiting = running[student], waiting[student]

    def charge(self, job: Job, completion_tokens: float, prompt_tokens: int) -> None:
        """Count tokens that a student has had, or give back where they are below 0."""
        job.is_counted = True
        now, tokens = self._clock(), completion_tokens + _PROMPT_SHARE * prompt_tokens
        self._bucket(job.student).take(tokens, now)
        self._queue.charge(job.student, tokens, now)
        usage = self.usage[job.student]
        usage.completion_tokens += round(completion_tokens)
        usage.prompt_tokens += prompt_tokens

    def end(self, why: Refused, *, but: Container[str] = ()) -> None:
        """End all that is on its way, but for these students."""
        for job in self._jobs:
            if job.student not in but:
                job.end(why)

    def places(self, student: str) -> list[int]:
        """Where this student's requests stand in the queue."""
        waiting = [job for job in self._jobs if job.student == student and job.turn and not job.is_admitted]
        return sorted(job.place[0] for job in waiting)

    def tokens_left(self, student: str) -> int:
        """What this student may still use this minute."""
        return max(0, int(self._bucket(student).left(self._clock())))

    def _bucket(self, student: str) -> Bucket:
        if student not in self._buckets:
            self._buckets[student] = Bucket.full(self.share.tokens_per_minute, self._clock())
        return self._buckets[student]
