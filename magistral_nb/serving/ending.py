"""What became of a server that is no longer there, in words: why, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.serving.failures import Change
    from magistral_nb.serving.registry import ServerState

_BARE = {"unknown", "signal"}  # diagnoses whose remedy is to read the log


def boot_failure(state: ServerState) -> str:
    """Why a boot failed: the cause, what to do, what to type, and below it the log's own words."""
    cause = f"Server {state.name!r} did not boot: {_cause(state)}."
    found = state.diagnosis
    if found is None:
        return f"{cause} %magistral_logs {state.name} shows more."
    told = f"{cause} {found.remedy}"
    if (line := _line(state, _news(state))) != _line(state, ()):
        told += f" To try that: {line}"
    shown = found.context or ((found.evidence,) if found.evidence not in cause else ())
    return "\n".join((told, *(f"    {line}" for line in shown)))


def ending(state: ServerState) -> str:
    """How a server went down, in one line."""
    name, found = state.name, state.diagnosis
    how = "did not boot" if state.context is None else "has died"
    if state.status == "ended":
        return f"Server {name!r} has ended: {_cause(state)}. To start it again: {_line(state, ())}"
    remedy = f"%magistral_logs {name} shows more." if found is None or found.id in _BARE else found.remedy
    return f"Server {name!r} {how}: {_cause(state)}. {remedy} To start it again: {_line(state, _news(state))}"


def restarting(state: ServerState) -> str:
    """That a server has died and does not stay down, in one line."""
    return (
        f"Server {state.name!r} has died ({_cause(state)}) and is being started again: ask again then, "
        "%magistral_status shows how far it is."
    )


def stopped(state: ServerState) -> str:
    """That a person has ended it, in one line."""
    return f"Server {state.name!r} was stopped, here or in another notebook. To start it again: {_line(state, ())}"


def _cause(state: ServerState) -> str:
    return (state.error or "its vLLM answers no more").rstrip(".")


def _news(state: ServerState) -> Sequence[Change]:
    """The changes that a diagnosis advises; a switch that the plan itself has set changes nothing."""
    changes = () if state.diagnosis is None else state.diagnosis.changes
    return [change for change in changes if change[1] != "" or change[0].split()[-1] not in state.plan.argv]


def _line(state: ServerState, changes: Sequence[Change]) -> str:
    """What serves it again, for people to copy."""
    from magistral_nb.serving.masking import masked
    from magistral_nb.serving.serve_line import serve_line, typed

    return masked(serve_line(typed(state), changes))
