"""When a reader should rest, so that small pieces gather and are read many at a time."""

from __future__ import annotations

PAUSE_SECONDS = 0.03  # below a view's own beat: nobody sees it

_WAITED_SECONDS = 60e-6  # what lies in the client's buffer comes in 10 to 40 microseconds
_COLD = 2  # pieces; the first after a pause comes slowly from anywhere
_WORTH = 4  # pieces that a pause has to gather
_SKIPPED = 100  # pieces, after a pause that was not worth it


class Pace:
    """Decides after each piece of a stream whether to pause before the next.

    At hundreds of pieces a second most of the client's time would go into waking up for each. Only a reader
    that has caught up, and so has to wait, may rest; where its pauses gather little, as in a slow stream or
    where other threads make it look as if it waited, it reads on: a hundred pieces for each such pause.

    Example:
        >>> pace = Pace()
        >>> [pace.pause_pays(0.001) for _ in range(5)]
        [False, False, False, True, False]
    """

    __slots__ = ("_patience", "_pieces")

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._pieces = 0  # since the last pause
        self._patience = _WORTH  # pieces before another is thought of

    def pause_pays(self, waited: float) -> bool:
        """A piece has come after so many seconds."""
        self._pieces += 1
        if waited < _WAITED_SECONDS or self._pieces < self._patience:
            return False
        if self._pieces < _WORTH:
            self._patience = _SKIPPED
            return False
        self._pieces, self._patience = 0, _COLD
        return True
