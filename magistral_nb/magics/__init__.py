"""What the user types. Magics parse, hand over and show; they compute nothing.

Each is a stub until it is first used: `%load_ext` imports none of the rooms behind it.
"""

from __future__ import annotations

import importlib
from typing import Any

_SERVE = """%magistral_serve [MODEL|FOLDER] [--context N] [--name NAME] [--install] [--share 30] … [-- FLAGS]

Boot a model with vLLM on this machine, or attach to it where it runs already. --help lists all options."""
_CONNECT = """%magistral_connect URL [--model NAME] [--name NAME]

Connect to any OpenAI-compatible server."""
_STATUS = """%magistral_status

Show every known server."""
_LOGS = """%magistral_logs [NAME] [--lines N]

Show the last lines of a server's log."""
_SLEEP = """%magistral_sleep [NAME]

Give the GPU's memory of a server that was served with --sleepable to other work; a question wakes it."""
_WAKE = """%magistral_wake [NAME]

Take the GPU's memory back."""
_STOP = """%magistral_stop [NAME] [--all]

End a server and all its processes."""
_SHARE = """%magistral_share [NAME] [--add NAMES] [--revoke NAME] [--keys]

Show who of the class uses how much, who waits, and how students reach the server."""
_DOCTOR = """%magistral_doctor

Examine machine, driver, engine, packages and servers: one page for a bug report, without secrets."""
_HISTORY = """%magistral_history [WORDS | ID] [--since AGE] [--server NAME] [--limit N]

Find the answers that were kept, as a DataFrame; with an id, show one again with its trace."""
_REASON = """%%reason [-o NAME] [-n N] [--quiet] [--max-tokens N] [--temperature T] [--system TEXT|@FILE] …
QUESTION

Ask the model; the thinking is streamed, the answer is the cell's value. {name} inserts a variable.
`value = %reason QUESTION` works as well. --help lists all options."""

# magic -> (module, function, kind, help)
_MAGICS = {
    "magistral_serve": ("serving", "serve", "line", _SERVE),
    "magistral_connect": ("serving", "connect", "line", _CONNECT),
    "magistral_status": ("serving", "status", "line", _STATUS),
    "magistral_logs": ("serving", "logs", "line", _LOGS),
    "magistral_sleep": ("serving", "sleep", "line", _SLEEP),
    "magistral_wake": ("serving", "wake", "line", _WAKE),
    "magistral_stop": ("serving", "stop", "line", _STOP),
    "magistral_share": ("serving", "share", "line", _SHARE),
    "magistral_doctor": ("serving", "doctor", "line", _DOCTOR),
    "magistral_history": ("history", "history", "line", _HISTORY),
    "reason": ("reason", "reason", "line_cell", _REASON),
}


def register(ipython: Any) -> None:
    """Register every magic with this shell."""
    for name, (module, function, kind, text) in _MAGICS.items():
        ipython.register_magic_function(_stub(ipython, module, function, text), kind, name)


def _stub(ipython: Any, module: str, function: str, text: str) -> Any:
    from IPython.core.magic import no_var_expand

    def magic(line: str, cell: str | None = None) -> Any:
        from magistral_nb.magics.shown import as_one_line

        run = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        with as_one_line(ipython):
            return run(ipython, line, cell)
        return None  # help was shown

    magic.__doc__ = text
    magic.__name__ = function
    # Braces are ours to expand: IPython's own rule would eat those of JSON and LaTeX.
    return no_var_expand(magic)
