"""What a server's metrics advise: where it is short of KV cache, and where it could take more at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from magistral_nb.serving.serve_line import serve_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magistral_nb.serving.metrics import Metrics

# Both from published guides to serving Magistral with vLLM: "alert above 85 %" of the KV cache, and "if utilization
# drops below 60 %, increase" --max-num-seqs.
_FULL = 0.85
_BUSY = 60.0
_NEAR = 0.9  # of all places: some are always between two requests


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server was booted with, and what there is beside it.

    Attributes:
        max_num_seqs: requests that one engine computes at once; None where vLLM chose, and nothing can be said of it.
        context: tokens, prompt and completion together.
        typed: words behind %magistral_serve that boot it so.
        gpus: that one copy of the model runs on; 0 on a CPU, and on a Ray cluster, whose GPUs are not seen from here.
        copies: of the model, each on GPUs of its own.
        gpus_here: of this kind, as many as the server could have: its own, and those that are free.
    """

    max_num_seqs: int | None
    context: int
    typed: tuple[str, ...] = ()
    gpus: int = 0
    copies: int = 1
    gpus_here: int = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to change.

    Attributes:
        id: what it is about.
        text: one line: the figure, why it matters, and in brackets what to type.
    """

    id: Literal["preemptions", "kv-cache", "queue", "utilisation"]
    text: str


def advise(history: Sequence[Metrics], capacity: Capacity, gpu_utilisation: float | None = None) -> tuple[Advice, ...]:
    """What to change, most urgent first; nothing for an idle server.

    A server that is short of KV cache is never told to take more at once: that is decided first.

    Args:
        history: of the last minute or so, oldest first; what lies before a restart is passed over.
        capacity: what the server was booted with, and what there is beside it.
        gpu_utilisation: percent, as NVML tells it now, the mean of several GPUs; None if not known.

    Example:
        >>> from magistral_nb.serving.metrics import Metrics
        >>> now = Metrics(
        ...     when=0.0, running=20, waiting=5, kv_cache_share=0.92, generated_tokens=0, prompt_tokens=0, finished=0,
        ...     preemptions=0,
        ... )
        >>> print(advise([now], Capacity(64, 40_960, ("2509",)))[0].text.partition(", or ")[0].rpartition("is ")[2])
        fewer at once (%magistral_serve 2509 --replace -- --max-num-seqs 18)
    """
    window = _since_restart(history)
    if not window or window[-1].is_idle:
        return ()
    preempted = window[-1].preemptions - window[0].preemptions
    if preempted or window[-1].kv_cache_share > _FULL:
        return _relief(window, capacity, preempted)
    return _growth(window, capacity, gpu_utilisation)


def _relief(window: Sequence[Metrics], capacity: Capacity, preempted: int) -> tuple[Advice, ...]:
    """For a server that is short of KV cache."""
    now = window[-1]
    fewer = _fewer(window, capacity, preempted)
    remedies = [_remedy("fewer at once", capacity, "-- --max-num-seqs", fewer)] if fewer else []
    remedies += _room(capacity)
    advice = []
    if preempted:
        count = "1 request was" if preempted == 1 else f"{preempted} requests were"
        why = f"{count} preempted in {_seconds(window)}, to be computed again: the KV cache ran full"
        advice.append(Advice("preemptions", _with_remedies(why, remedies[:1])))
    if now.kv_cache_share > _FULL:
        why = f"The KV cache is {100 * now.kv_cache_share:.3g} % full, and a full one preempts requests"
        advice.append(Advice("kv-cache", _with_remedies(why, remedies)))
    return tuple(advice)


def _growth(window: Sequence[Metrics], capacity: Capacity, gpu_utilisation: float | None) -> tuple[Advice, ...]:
    """For a server that has KV cache left."""
    if capacity.max_num_seqs is None:
        return ()
    now = window[-1]
    places = capacity.max_num_seqs * now.engines
    more = _more(now, capacity.max_num_seqs)
    remedies = [_remedy("more at once", capacity, "-- --max-num-seqs", more)] if more else _room(capacity)
    advice = []
    if now.running >= places and _queue_grows(window):
        why = f"The queue grew from {window[0].waiting} to {now.waiting} requests in {_seconds(window)}: "
        why += f"all {places} places are taken" + ("" if more else ", and the KV cache has room for no more")
        advice.append(Advice("queue", _with_remedies(why, remedies)))
    # All through: one or two wait for a step whenever they come.
    loaded = all(each.running > 0 and (each.waiting > 0 or each.running >= _NEAR * places) for each in window)
    if more and loaded and gpu_utilisation is not None and gpu_utilisation < _BUSY:
        why = f"The GPU is {gpu_utilisation:.3g} % busy with {now.running} requests running and {now.waiting} waiting"
        advice.append(Advice("utilisation", _with_remedies(why, remedies)))
    return tuple(advice)


def _fewer(window: Sequence[Metrics], capacity: Capacity, preempted: int) -> int:
    """As many requests an engine as leave the KV cache at 85 %, by what those that run hold of it; 0 if none do."""
    now = window[-1]
    # Between two readings a cache that preempts was full, though it may have room again.
    share = 1.0 if preempted else now.kv_cache_share
    running = max(each.running for each in window) if preempted else now.running
    fit = int(running / now.engines * _FULL / share)
    return fit if capacity.max_num_seqs is None else min(fit, capacity.max_num_seqs - 1)


def _more(now: Metrics, max_num_seqs: int) -> int | None:
    """Twice as many requests an engine, or as many as the KV cache will hold; None if it holds no more.

    Otherwise whoever follows the advice would next be told the opposite.
    """
    share = now.kv_cache_share
    more = 2 * max_num_seqs if share <= _FULL / 2 else int(max_num_seqs * _FULL / share)
    return more if more > max_num_seqs else None


def _room(capacity: Capacity) -> list[str]:
    """Ways to a KV cache that holds as many requests more easily.

    The GPUs of a copy are doubled, as heads divide by powers of 2, and only where there are so many for all copies.
    """
    ways = [_remedy("a shorter context", capacity, "--context", capacity.context // 2)]
    more = 2 * capacity.gpus
    if 0 < more * capacity.copies <= capacity.gpus_here:
        ways.append(_remedy("more GPUs", capacity, "--gpus", more))
    return ways


def _remedy(what: str, capacity: Capacity, option: str, value: int) -> str:
    """In brackets, as a full stop behind a line would be copied with it."""
    return f"{what} ({serve_line(capacity.typed, [(option, str(value)), ('--replace', '')])})"


def _with_remedies(why: str, remedies: Sequence[str]) -> str:
    return f"{why}. What helps is {', or '.join(remedies)}"


def _queue_grows(window: Sequence[Metrics]) -> bool:
    """Whether it was longer all through the newer half than ever in the older: a steady queue swings, too."""
    waiting = [each.waiting for each in window]
    older, newer = waiting[: len(waiting) // 2], waiting[len(waiting) // 2 :]
    return bool(older) and min(newer) > max(older)


def _since_restart(history: Sequence[Metrics]) -> Sequence[Metrics]:
    for index in range(len(history) - 1, 0, -1):
        if history[index].restarted_since(history[index - 1]):
            return history[index:]
    return history


def _seconds(window: Sequence[Metrics]) -> str:
    seconds = window[-1].when - window[0].when
    return f"{seconds:.{0 if seconds >= 1 else 1}f} s"
