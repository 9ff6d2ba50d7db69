"""The same verbs from a terminal: `magistral-nb serve`, `ask`, `status`, `logs`, `stop`, `history`, and so on."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb import options
from magistral_nb.errors import Interrupted, InvalidOption, MagistralError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from magistral_nb.answers.answer import Answer

_INTERRUPTED = 130  # what shells expect of a command ended by Ctrl-C
_BROKEN_PIPE = 141  # and of one whose reader has gone
_ADDRESS = re.compile(r"[\w.-]+:\d+(/.*)?|.+://.+")
_QUESTION = "What is 347 × 58?"


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - an exit code for every end
    """The console command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot write "×" gets a question mark
    try:
        if not words or words[0] in {"-h", "--help"}:
            print(_usage())
            return 0
        verb = _VERBS.get(words[0])
        if verb is None:
            raise InvalidOption(f"magistral-nb has no command {words[0]!r}: it has {', '.join(_VERBS)}.")
        return verb(words[1:])
    except options.Help as text:
        print(text)
        return 0
    except MagistralError as error:
        from magistral_nb.commands import wording

        print(wording(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; what is still buffered must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"OSError: {error}: is there room, and may you write there?", file=sys.stderr)
        return 1


def _usage() -> str:
    lines = [f"  {name:<8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in _VERBS.items()]
    return "usage: magistral-nb COMMAND [options]\n\n" + "\n".join(lines)


def _serve(words: list[str]) -> int:
    """Boot a model with vLLM on this machine."""
    from magistral_nb.commands import serve_shown

    own, raw = options.split_raw(words)
    chosen = options.serve_options("magistral-nb serve").parse_args(own)
    server = serve_shown(chosen, raw, rich=False, ask=True)
    if server is not None:
        print(server)
    return 0


def _ask(words: list[str]) -> int:
    """Ask a question: the thinking goes to stderr, the answer to stdout."""
    parser = options.reason_options("magistral-nb ask")
    parser.add_argument("--model", metavar="NAME", help="with the URL of a server: which of its models")
    parser.add_argument("question", nargs="*", help="read from standard input where it is left away")
    chosen = parser.parse_intermixed_args(words)
    text = " ".join(chosen.question)
    if not text and sys.stdin is not None and not sys.stdin.isatty():
        text = sys.stdin.read()
    if chosen.server is not None and _ADDRESS.fullmatch(chosen.server):
        from magistral_nb.serving.connecting import connect

        chosen.server = connect(chosen.server, model=chosen.model, name="asked").name
    elif chosen.model is not None:
        raise InvalidOption("--model chooses among the models of a server elsewhere: add --server URL.")
    return _answered(text, chosen)


def _answered(text: str, chosen: argparse.Namespace) -> int:
    from magistral_nb.answers.answers import Answers
    from magistral_nb.asking.reason import reason
    from magistral_nb.views.answer_view import answers_bundle
    from magistral_nb.views.text_view import QuietView, TextView

    several, code = chosen.samples > 1, 0
    stream = None if several else sys.stdout
    view = QuietView(answer_stream=stream) if chosen.quiet else TextView(answer_stream=stream)
    try:
        answer: Answer | Answers = reason(text, **options.as_question(chosen), views=[view])
    except Interrupted as stop:
        answer, code = stop.answer, _INTERRUPTED
    answers = answer if isinstance(answer, Answers) else Answers([answer])
    if several:
        print(answers_bundle(answers)["text/plain"], flush=True)
    return code or int(any(each.finish_reason == "error" for each in answers))


def _connect(words: list[str]) -> int:
    """See what a server elsewhere is and can; `ask --server URL` asks it."""
    from magistral_nb.commands import connect_shown

    connect_shown(options.connect_options("magistral-nb connect").parse_args(words), rich=False)
    return 0


def _status(words: list[str]) -> int:
    """Show every known server."""
    from magistral_nb.commands import status_shown

    options.Parser("magistral-nb status", "Show every known server.").parse_args(words)
    status_shown()
    return 0


def _logs(words: list[str]) -> int:
    """Show the last lines of a server's log."""
    from magistral_nb.serving.server import find_server

    chosen = options.logs_options("magistral-nb logs").parse_args(words)
    print(find_server(chosen.name).logs(chosen.lines))
    return 0


def _sleep(words: list[str]) -> int:
    """Give the GPU's memory of a --sleepable server to other work."""
    from magistral_nb.commands import sleep_shown

    sleep_shown(options.sleep_options("magistral-nb sleep").parse_args(words))
    return 0


def _wake(words: list[str]) -> int:
    """Take the GPU's memory back; a question does that as well."""
    from magistral_nb.commands import wake_shown

    wake_shown(options.wake_options("magistral-nb wake").parse_args(words))
    return 0


def _stop(words: list[str]) -> int:
    """End a server and all its processes."""
    from magistral_nb.commands import stop_shown

    stop_shown(options.stop_options("magistral-nb stop").parse_args(words))
    return 0


def _share(words: list[str]) -> int:
    """Show who of the class uses how much; give keys and take them away."""
    from magistral_nb.commands import share_shown

    share_shown(options.share_options("magistral-nb share").parse_args(words), rich=False)
    return 0


def _history(words: list[str]) -> int:
    """Find the answers that were kept; with an id, thinking to stderr, answer to stdout."""
    from magistral_nb.answers.history import find_by_id, history
    from magistral_nb.commands import say
    from magistral_nb.views.history_view import history_table, show_trace

    chosen = options.parse_history("magistral-nb history", words)
    if (answer := find_by_id(chosen.words)) is not None:
        show_trace(answer, rich=False, answer_stream=sys.stdout)
        return 0
    found = history(chosen.words, since=chosen.since, server=chosen.server, limit=chosen.limit)
    say(history_table(found, width=shutil.get_terminal_size((120, 24)).columns))
    return 0


def _install(words: list[str]) -> int:
    """Install the vLLM that fits this machine, in an environment of its own."""
    from magistral_nb.commands import install_shown

    options.Parser("magistral-nb install", _install.__doc__ or "").parse_args(words)
    install_shown()
    return 0


def _doctor(words: list[str]) -> int:
    """Examine machine, driver, engine, packages and servers, for a bug report without secrets."""
    from magistral_nb.commands import say
    from magistral_nb.serving.doctor import doctor

    options.Parser("magistral-nb doctor", _doctor.__doc__ or "").parse_args(words)
    say(doctor())
    return 0


def _demo(words: list[str]) -> int:
    """Serve what this machine can, ask it a question, say how to go on."""
    from magistral_nb.commands import serve_shown

    parser = options.Parser("magistral-nb demo", _demo.__doc__ or "")
    parser.add_argument("question", nargs="*", help=f"{_QUESTION} otherwise")
    question = " ".join(parser.parse_args(words).question) or _QUESTION
    chosen = options.serve_options("magistral-nb demo").parse_args(["--install"])
    serve_shown(chosen, (), rich=False, ask=True)
    print(f"\n{question}\n", flush=True)
    code = _answered(question, options.reason_options("magistral-nb demo").parse_args(["--server", chosen.name]))
    print("\nThe server goes on. The same in a notebook: magistral-nb lab\nTo end the server: magistral-nb stop")
    return code


def _lab(words: list[str]) -> int:
    """Open JupyterLab on the quickstart notebook."""
    parser = options.Parser("magistral-nb lab", f"{_lab.__doc__} Options that JupyterLab knows are handed on to it.")
    _, rest = parser.parse_known_args(words)
    import importlib.util

    if importlib.util.find_spec("jupyterlab") is None:
        raise InvalidOption("JupyterLab is not installed here: pip install 'magistral-nb[lab]', then again.")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; Lab refuses that unless it is told
        rest.append("--allow-root")
    argv = [sys.executable, "-m", "jupyterlab", str(_quickstart()), *rest]
    os.execv(sys.executable, argv)  # noqa: S606 - becomes Lab


def _quickstart() -> Path:
    """The notebook to open: the repository's own, else a copy of the package's beside the user's work."""
    package = Path(__file__).parent
    own = package.parent / "examples" / "quickstart.ipynb"
    if own.is_file():
        return own
    copy = Path.cwd() / "quickstart.ipynb"
    if not copy.exists():
        shutil.copy(package / "quickstart.ipynb", copy)
    return copy


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "ask": _ask,
    "connect": _connect,
    "status": _status,
    "logs": _logs,
    "sleep": _sleep,
    "wake": _wake,
    "stop": _stop,
    "share": _share,
    "history": _history,
    "install": _install,
    "doctor": _doctor,
    "demo": _demo,
    "lab": _lab,
}

if __name__ == "__main__":
    sys.exit(main())
