"""The README's tables, made from the code: `python tests/surface.py` writes them anew.

What can be typed is told here, what is planned for which GPU in serving/gpu_tables.py.

Every verb has a magic, a command and a Python name where it makes sense, and every option has one name in the
three places. What is not so is said here, each with its reason, and nowhere else; tests/test_surface.py looks.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import magistral_nb
from magistral_nb import cli, magics, options
from magistral_nb.sharing.share import Share

sys.path.insert(0, str(Path(__file__).resolve().parent / "serving"))
from gpu_tables import driver_table, gpu_table

if TYPE_CHECKING:
    from collections.abc import Callable

README = Path(__file__).resolve().parents[1] / "README.md"


@dataclass(frozen=True)
class Verb:
    """One thing to do: its name of each kind, "" where there is none."""

    magic: str = ""
    command: str = ""
    python: tuple[str, ...] = ()
    topic: str = ""  # its options are listed under this word
    also: str = ""  # an option that is the verb's magic


VERBS = (
    Verb("magistral_serve", "serve", ("serve",), "serving"),
    Verb("", "install", ("install_engine",), also="%magistral_serve --install"),
    Verb("magistral_connect", "connect", ("connect",), "connecting"),
    Verb("reason", "ask", ("reason", "areason"), "asking"),
    Verb("magistral_status", "status", ("servers",)),
    Verb("magistral_history", "history", ("history", "recall"), "history"),
    Verb("magistral_logs", "logs", ("Server.logs",), "logs"),
    Verb("magistral_sleep", "sleep", ("Server.sleep",)),
    Verb("magistral_wake", "wake", ("Server.wake",)),
    Verb("magistral_stop", "stop", ("Server.stop",), "stopping"),
    Verb("magistral_share", "share", topic="sharing"),
    Verb("magistral_doctor", "doctor", ("doctor",)),
    Verb("", "demo"),
    Verb("", "lab"),
)

# Options that are no keyword of the Python function: what to write there instead.
NOT_A_KEYWORD = {
    ("serving", "--no-wait"): "`wait=False`",  # a switch that is on by default is typed as its opposite
    ("serving", "--install"): "`install_engine()`",
    ("serving", "--plan"): "never shows",
    ("serving", "--yes"): "never asks",
    **{
        ("serving", f"--share{name and '-'}{name.replace('_', '-')}"): f"`share=Share({name or 'students'}=…)`"
        for name in ("", *(each.name for each in dataclasses.fields(Share) if each.name != "students"))
    },
    ("asking", "-o"): "`answer = …`",
    ("asking", "--quiet"): "`views=`",  # Python shows nothing by itself
    ("asking", "--folded"): "`views=`",
    ("asking", "--model"): "`connect(url, model=…)`",  # of a server that is only named for this question
    ("sharing", "--add"): "`sharing.key_ring.add()`",
    ("sharing", "--revoke"): "`sharing.key_ring.revoke()`",
    ("sharing", "--keys"): "`sharing.key_ring.load()`",
    ("stopping", "--all"): "a loop over `servers()`",
    ("stopping", "--orphans"): "`serving.orphans.end_orphans()`",
}
# Keywords that are no option: what to type instead.
NOT_AN_OPTION = {
    ("serving", "wait"): "",  # see --no-wait
    ("serving", "engine_args"): "`-- FLAGS`",
    ("serving", "share"): "",  # see --share
    ("serving", "watch"): "",  # the magic and the command show the boot themselves
    ("asking", "views"): "",  # --quiet and --folded choose one
    ("connecting", "api_key"): "`MAGISTRAL_NB_API_KEY`",  # a notebook is saved, and so is a shell's history
    ("connecting", "limits"): "",  # a value of its own, for whoever writes Python
}
# Options of a magic that its command has not, and the other way round.
NOTEBOOK_ONLY = {("asking", "-o"), ("asking", "--folded")}  # a terminal has no variables, and folds nothing
TERMINAL_ONLY = {("asking", "--model")}  # a notebook has %magistral_connect


class _Seen(Exception):
    """Carries the parser that was asked for its help."""


def parser_of(run: Callable[[], object]) -> options.Parser:
    """The parser behind a magic or a command, which is run with --help."""

    def stop(_action: argparse.Action, parser: options.Parser, *_: object) -> None:
        raise _Seen(parser)

    with mock.patch.object(options._HelpAction, "__call__", stop):
        try:
            run()
        except _Seen as seen:
            return seen.args[0]
    raise AssertionError("--help went unnoticed")


def parser_of_magic(name: str) -> options.Parser:
    module, function, kind, _ = magics._MAGICS[name]
    run = getattr(importlib.import_module(f"{magics.__name__}.{module}"), function)
    return parser_of(lambda: run(mock.Mock(user_ns={}), "--help", "" if kind == "line_cell" else None))


def parser_of_command(name: str) -> options.Parser:
    return parser_of(lambda: cli._VERBS[name](["--help"]))


def function(name: str) -> Callable[..., object]:
    first, *rest = name.split(".")
    found = getattr(magistral_nb, first)
    for each in rest:
        found = getattr(found, each)
    return found


def option_name(action: argparse.Action) -> str:
    """The name that counts: the first long one, else the short one."""
    return next((name for name in action.option_strings if name.startswith("--")), action.option_strings[0])


def options_of(parser: options.Parser) -> dict[str, argparse.Action]:
    shown = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
    return {option_name(action): action for action in shown if option_name(action) != "--help"}


def keywords_of(name: str) -> list[str]:
    """What can only be given by name; `**how: Unpack[How]` stands for the keys of How."""
    found: list[str] = []
    for each in inspect.signature(function(name)).parameters.values():
        if each.kind is each.VAR_KEYWORD:
            kind = re.fullmatch(r"Unpack\[(\w+)\]", each.annotation)[1]
            found += function(name).__globals__[kind].__annotations__
        elif each.kind is each.KEYWORD_ONLY:
            found.append(each.name)
    return found


def arguments_of(name: str) -> list[str]:
    """What can be given by name or place, but for `self`."""
    parameters = inspect.signature(function(name)).parameters.values()
    by_place = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"]
    return [*by_place, *keywords_of(name)]


# The tables


def verb_table() -> str:
    lines = ["| in a notebook | in a terminal | from Python | |", "|---|---|---|---|"]
    for verb in VERBS:
        python = ", ".join(map(python_cell, verb.python))
        lines.append(f"| {magic_cell(verb)} | {command_cell(verb)} | {python} | {purpose(verb)} |")
    return "\n".join(lines)


def magic_cell(verb: Verb) -> str:
    if not verb.magic:
        return f"`{verb.also}`" if verb.also else ""
    if magics._MAGICS[verb.magic][2] == "line_cell":
        return f"`%%{verb.magic}`, `%{verb.magic} QUESTION`"
    return code(f"%{verb.magic} {places(parser_of_magic(verb.magic))}")


def command_cell(verb: Verb) -> str:
    return code(f"magistral-nb {verb.command} {places(parser_of_command(verb.command))}")


def code(text: str) -> str:
    return f"`{text.strip()}`".replace("|", "\\|")


def places(parser: options.Parser) -> str:
    """The arguments without a name, as in a usage line."""
    shown = []
    for action in parser._actions:
        if not action.option_strings:
            word = (action.metavar or action.dest).upper()
            shown.append({None: word, "?": f"[{word}]", "*": f"[{word} …]"}[action.nargs])
    return " ".join(shown)


def python_cell(name: str) -> str:
    """As it is called, with what has no default and the first of what has."""
    call = name.replace("Server.", "server.")
    shown = []
    for each in inspect.signature(function(name)).parameters.values():
        by_place = each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"
        if by_place and (not shown or each.default is each.empty):
            shown.append(each.name)
        elif each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            shown.append(f"{each.name}=…")
    awaited = "await " if inspect.iscoroutinefunction(function(name)) else ""
    return f"`{awaited}{call}({', '.join(shown)})`"


def purpose(verb: Verb) -> str:
    """What --help says first."""
    return sentence(parser_of_command(verb.command).description or "")


def sentence(text: str) -> str:
    return text.rstrip(".").replace("|", "\\|")


def option_table() -> str:
    lines = ["| | option | in Python | |", "|---|---|---|---|"]
    for verb in VERBS:
        if verb.topic:
            for n, (option, keyword, meaning) in enumerate(option_rows(verb)):
                lines.append(f"| {'' if n else verb.topic} | {option} | {keyword} | {sentence(meaning)} |")
    return "\n".join(lines)


def option_rows(verb: Verb) -> list[tuple[str, str, str]]:
    in_notebook, in_terminal = options_of(parser_of_magic(verb.magic)), options_of(parser_of_command(verb.command))
    rows = []
    for name, action in (in_notebook | in_terminal).items():
        keyword = NOT_A_KEYWORD.get((verb.topic, name), f"`{action.dest}=`")
        where = "" if name in in_terminal else " (in a notebook)"
        where = where if name in in_notebook else " (in a terminal)"
        rows.append((option_cell(action), keyword, (action.help or "") + where))
    keywords = [keyword for name in verb.python[:1] for keyword in keywords_of(name)]
    others = [(NOT_AN_OPTION.get((verb.topic, keyword)), keyword) for keyword in keywords]
    return rows + [(typed, f"`{name}=`", described(verb.python[0], name)) for typed, name in others if typed]


def option_cell(action: argparse.Action) -> str:
    name = option_name(action)
    value = "" if action.nargs == 0 else action.metavar or "|".join(action.choices or ()) or action.dest.upper()
    others = [code(other) for other in action.option_strings if other != name]
    return ", ".join([code(f"{name} {value}"), *others])


def described(name: str, argument: str) -> str:
    """What the docstring says of an argument."""
    found = re.search(rf"^ +{argument}: (.+(?:\n {{12,}}.+)*)", function(name).__doc__ or "", re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


SECTIONS = {"verbs": verb_table, "options": option_table, "gpus": gpu_table, "drivers": driver_table}


def written(readme: str) -> str:
    """The README with the tables as the code has them now."""
    for name, table in SECTIONS.items():
        begin, end = f"<!-- {name}: made by tests/surface.py -->", f"<!-- end of {name} -->"
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        if not after:
            raise SystemExit(f"{README} lacks {begin} or {end}")
        readme = f"{before}{begin}\n\n{table()}\n\n{end}{after}"
    return readme


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
