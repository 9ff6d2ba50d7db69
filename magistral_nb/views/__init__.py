"""What is seen. Views take events and progress; they know no HTTP and ask nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.answers.answer import Answer
    from magistral_nb.asking.draft import Progress
    from magistral_nb.asking.events import Event


class View(Protocol):
    """Shows one question while its stream runs."""

    def update(self, events: Sequence[Event], progress: Progress) -> None:
        """Take in what arrived since the last call, perhaps nothing; called about 20 times a second."""

    def close(self, answer: Answer) -> None:
        """The stream has ended, by itself or not: show what stays."""
