"""Serve, watch and study reasoning models from a notebook.

    %load_ext magistral_nb
    %magistral_serve
    %%reason -o answer
    What is 347 × 58?

The public names below are imported when they are first used, so that `%load_ext` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magistral_nb.answers.answer import Answer as Answer, Usage as Usage
    from magistral_nb.answers.answers import Answers as Answers
    from magistral_nb.answers.history import history as history, recall as recall
    from magistral_nb.asking.reason import areason as areason, reason as reason
    from magistral_nb.errors import Interrupted as Interrupted, MagistralError as MagistralError
    from magistral_nb.serving.boot import serve as serve
    from magistral_nb.serving.connecting import connect as connect
    from magistral_nb.serving.doctor import doctor as doctor
    from magistral_nb.serving.install import install_engine as install_engine
    from magistral_nb.serving.server import Server as Server, servers as servers
    from magistral_nb.sharing.share import Share as Share

_ROOMS = {
    "Answer": "answers.answer",
    "Answers": "answers.answers",
    "Interrupted": "errors",
    "MagistralError": "errors",
    "Server": "serving.server",
    "Share": "sharing.share",
    "Usage": "answers.answer",
    "areason": "asking.reason",
    "connect": "serving.connecting",
    "doctor": "serving.doctor",
    "history": "answers.history",
    "install_engine": "serving.install",
    "reason": "asking.reason",
    "recall": "answers.history",
    "serve": "serving.boot",
    "servers": "serving.server",
}

__all__ = [  # noqa: PLE0604 - the table above is the one place that names them
    *_ROOMS,
    "load_ipython_extension",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext magistral_nb`: register the magics."""
    from magistral_nb.magics import register

    register(ipython)
