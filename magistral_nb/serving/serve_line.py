"""The line that serves with something changed, for people to copy and run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from magistral_nb.options import serve_options, split_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magistral_nb.serving.failures import Change
    from magistral_nb.serving.registry import ServerState

_RAW = "-- "
# What means the same behind "--": raw flags win over options, so that they have to give way to a changed one.
_SAME = {
    "--context": ("--max-model-len",),
    "--kv-cache": ("--kv-cache-dtype",),
    "--quantization": ("--quantization", "-q"),
    "--gpus": ("--tensor-parallel-size", "-tp"),
}


def serve_line(typed: Sequence[str], changes: Sequence[Change]) -> str:
    """The exact line that serves as it was typed, but for the changes.

    Args:
        typed: the words behind %magistral_serve.
        changes: options and their new values, such as ("--context", "32768"); raw vLLM flags are marked by "-- ". An
            empty value sets a switch, None leaves the option away.

    Example:
        >>> serve_line(["2509", "--context", "131072", "--", "--max-num-seqs", "8"], [("--context", "32768")])
        '%magistral_serve 2509 --context 32768 -- --max-num-seqs 8'
        >>> serve_line([], [("-- --enforce-eager", ""), ("--port", None)])
        '%magistral_serve -- --enforce-eager'
    """
    own_words, raw_words = split_raw(list(typed))
    parser = serve_options("%magistral_serve")
    own = _grouped(own_words, lambda words: 2 if parser.takes_value(words[0]) else 1)
    raw = _grouped(list(raw_words), _raw_width)
    for option, value in changes:
        if option.startswith(_RAW):
            raw = _changed(raw, option.removeprefix(_RAW), value)
        else:
            own = _changed(own, option, value)
        for same in _SAME.get(option, ()):
            raw = _changed(raw, same, None)
    words = [word for group in own for word in group]
    if raw:
        words += ["--", *(word for group in raw for word in group)]
    return f"%magistral_serve {shlex.join(words)}".rstrip()


def _grouped(words: list[str], width: Callable[[list[str]], int]) -> list[list[str]]:
    """Each option with its values, anything else alone."""
    groups = []
    while words:
        count = width(words)
        groups.append(words[:count])
        words = words[count:]
    return groups


def _raw_width(words: list[str]) -> int:
    """How many words belong to the raw flag that these begin with: its values are all up to the next flag."""
    if not words[0].startswith("-") or "=" in words[0]:
        return 1
    return next((at for at in range(1, len(words)) if _is_flag(words[at])), len(words))


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


def _changed(groups: list[list[str]], option: str, value: str | None) -> list[list[str]]:
    """The option with its new value where it stood, or at the end."""
    others = [group for group in groups if _name(group) != _name([option])]
    if value is None:
        return others
    at = next((at for at, group in enumerate(groups) if _name(group) == _name([option])), len(others))
    return [*others[:at], [option, value] if value else [option], *others[at:]]


def _name(group: list[str]) -> str:
    """Of the option, as vLLM reads it: --max_num_seqs=8 is --max-num-seqs."""
    word = group[0].split("=")[0]
    return word.replace("_", "-") if word.startswith("-") else word


def typed(state: ServerState) -> tuple[str, ...]:
    """What would boot a server again under its name, by its engine, on its port and with its price."""
    words, raw = split_raw(state.plan.wishes.words())
    if state.name != "default":
        words += ["--name", state.name]
    if state.wished_engine is not None:
        words += ["--engine", state.wished_engine]
    if state.wished_port is not None:
        words += ["--port", str(state.wished_port)]
    words += state.terms.words()
    return (*words, "--", *raw) if raw else tuple(words)
