"""A class as its teacher sees it, in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magistral_nb.sharing.usage import Usage
from magistral_nb.views.table_view import aligned
from magistral_nb.views.wording import duration

if TYPE_CHECKING:
    from magistral_nb.sharing.key_ring import KeyRing
    from magistral_nb.sharing.usage import Report

_HEAD = ("student", "asked", "refused", "prompt tokens", "completion tokens", "now", "last asked")


def table(name: str, report: Report | None, ring: KeyRing, *, now: float) -> str:
    """Who uses how much, and how many wait; whoever has a key is in it.

    Args:
        name: of the server.
        report: the proxy's own; None where none was written yet.
        ring: the keys.
        now: seconds since the epoch.
    """
    if report is None:
        head = f"Server {name!r} is not shared yet: its proxy has not begun."
    elif not report.proxy.is_alive():
        head = f"Server {name!r} is not shared now: its proxy has ended."
    else:
        seats = f"{report.running} of {report.seats} seats are taken"
        head = f"Server {name!r} is shared: {seats}, {report.waiting or 'nobody'} {_waits(report.waiting)}."
    used = {} if report is None else report.students
    students = [*ring.keys, *(student for student in used if student not in ring.keys)]
    rows = [_row(student, used.get(student, Usage()), student in ring.keys, now) for student in students]
    return f"{head}\n{aligned([_HEAD, *rows])}"


def _waits(number: int) -> str:
    return "wait" if number > 1 else "waits"


def _row(student: str, usage: Usage, has_key: bool, now: float) -> tuple[str, ...]:  # noqa: FBT001 - private
    state = [f"{usage.running} running"] if usage.running else []
    state += [f"{usage.waiting} {_waits(usage.waiting)}"] if usage.waiting else []
    return (
        student,
        f"{usage.requests:,}",
        f"{usage.refused:,}" if usage.refused else "",
        f"{usage.prompt_tokens:,}",
        f"{usage.completion_tokens:,}",
        ", ".join(state) if has_key else "revoked",
        "" if usage.last_asked is None else f"{duration(now - usage.last_asked)} ago",
    )
