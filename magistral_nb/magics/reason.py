"""%%reason and %reason."""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING, Any

from magistral_nb import options
from magistral_nb.asking.reason import reason as ask
from magistral_nb.errors import Interrupted, InvalidOption
from magistral_nb.magics.interpolate import interpolate
from magistral_nb.magics.shown import is_rich

if TYPE_CHECKING:
    from magistral_nb.answers.answer import Answer
    from magistral_nb.answers.answers import Answers
    from magistral_nb.views import View


def reason(ipython: Any, line: str, cell: str | None) -> Answer | Answers | None:
    """Ask; the Answer, or with -n the Answers, is the cell's value and, with -o, a variable."""
    parser = options.reason_options("%reason" if cell is None else "%%reason")
    parser.add_argument("-o", dest="output", metavar="NAME", help="assign the Answer, or the Answers, to this variable")
    parser.add_argument("--folded", action="store_true", help="keep the thinking folded while it streams")
    words, rest = options.split_question(line, parser)
    chosen = parser.parse_args([interpolate(word, ipython.user_ns) for word in words])
    silent = chosen.quiet and cell is not None
    if cell is None and rest.endswith(";"):  # IPython's own sign for a value that is not shown
        rest, silent = rest[:-1], True
    if cell is not None and rest:
        remedy = f"try -o {rest}" if _is_name(rest) else "move it below"
        raise InvalidOption(f"%%reason takes options on its line and the question below; for {rest!r}, {remedy}.")
    if chosen.output is not None and not _is_name(chosen.output):
        raise InvalidOption(f"-o {chosen.output}: this cannot name a variable, try -o answer.")
    try:
        answer: Answer | Answers = ask(
            interpolate(rest if cell is None else cell, ipython.user_ns),
            **options.as_question(chosen),
            views=[_view(ipython, quiet=chosen.quiet, folded=chosen.folded)],
        )
    except Interrupted as stop:
        _assign(ipython, chosen.output, stop.answer)
        raise
    _assign(ipython, chosen.output, answer)
    if silent:  # in _ and Out, but not shown
        ipython.displayhook.update_user_ns(answer)
        return None
    return answer


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _assign(ipython: Any, name: str | None, answer: Answer | Answers) -> None:
    if name is not None:
        ipython.push({name: answer})


def _view(ipython: Any, *, quiet: bool, folded: bool) -> View:
    if quiet:
        from magistral_nb.views.text_view import QuietView

        return QuietView()
    if is_rich(ipython):
        from magistral_nb.views.trace_view import TraceView

        return TraceView(folded=folded)
    from magistral_nb.views.text_view import TextView

    return TextView()
