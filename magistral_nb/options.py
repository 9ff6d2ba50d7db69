"""Options of magics and commands: one table, so that each has one name wherever it is typed."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn

from magistral_nb.errors import InvalidOption, MagistralError
from magistral_nb.serving import idling

_OPTION = re.compile(r"\s*(--?[A-Za-z][\w-]*)(=)?")
_INSTALLS = (  # serving/recipe.py and install_engine() have the figures
    "install the engine first where it is missing: with a GPU the CUDA build that its driver runs (4 to 5 GB to fetch, "
    "up to 11 GB on disk), without one the CPU build (0.5 GB, 2.3 GB)"
)
_WORD = re.compile(r"""\s*((?:[^\s"']|"[^"]*"|'[^']*')+)""")


class Help(MagistralError):
    """The help text was asked for; it is no failure."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line with a remedy, and that never ends the process."""

    def __init__(self, prog: str, description: str) -> None:
        """A parser for one magic or one command."""
        super().__init__(prog, description=description, add_help=False, allow_abbrev=False)
        # What begins with a minus and a digit is a question ("-5 + 3"), never an option of ours.
        self._negative_number_matcher = re.compile(r"-[\d.(].*")
        self.add_argument("-h", "--help", action=_HelpAction, nargs=0, dest=argparse.SUPPRESS, help="show this help")

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        if found := re.search(r"unrecognized arguments: (.+)", message):
            first = found[1].split()[0]
            known = list(self._option_string_actions)
            near = difflib.get_close_matches(first.split("=")[0], known, n=1, cutoff=0.75)
            if near:
                raise InvalidOption(f"{self.prog} has no option {first}: did you mean {near[0]}?")
            raise InvalidOption(f"{self.prog} does not know {first!r}: {self.prog} --help lists what it takes.")
        raise InvalidOption(f"{self.prog}: {message}: {self.prog} --help lists what it takes.")

    def takes_value(self, option: str) -> bool:
        """Whether a value follows this option."""
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs != 0


class _HelpAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Help(parser.format_help())


class _KeyRefused(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        raise InvalidOption(
            "A key does not belong into a cell or a command, which are saved: leave --api-key away and it is asked "
            "for, hidden, or taken from MAGISTRAL_NB_API_KEY in the environment."
        )


def tokens(text: str) -> int:
    """A number of tokens as people write it.

    Example:
        >>> tokens("40,960"), tokens("32k")
        (40960, 32768)
    """
    digits = re.fullmatch(r"([\d_,]+)(k?)", text.strip().lower())
    if digits is None or not digits[1].strip("_,"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens, such as 32768 or 32k")
    return int(re.sub("[_,]", "", digits[1])) * (1024 if digits[2] else 1)


def count(text: str) -> int:
    """A number of things.

    Example:
        >>> count("2")
        2
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of them, such as 2")
    return int(text)


def port(text: str) -> int:
    """A TCP port.

    Example:
        >>> port("8000")
        8000
    """
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, such as 8000")
    return int(text)


def duration(text: str) -> float | None:
    """Seconds.

    Example:
        >>> duration("90m"), duration("never")
        (5400.0, None)
    """
    try:
        return idling.seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def serve_options(prog: str) -> Parser:
    """Of %magistral_serve and `magistral-nb serve`."""
    parser = Parser(prog, "Boot a model with vLLM on this machine, or attach to it where it runs already.")
    add = parser.add_argument
    add("model", nargs="?", help="2509, 2507, 2506 (Magistral Small), ministral-8b, abacus, a repository or a folder")
    add("--context", type=tokens, metavar="N", help="tokens, prompt and completion together")
    add("--quantization", choices=("fp8", "none"), help="of the weights; FP8 on a GPU unless you say none")
    add("--kv-cache", choices=("fp8", "auto"), help="type of the KV cache")
    add("--gpus", type=count, metavar="N", help="that share one copy of the model; as few as it needs otherwise")
    add("--pipeline-parallel", type=count, default=1, metavar="N", help="stages that these GPUs are split into")
    add("--data-parallel", type=count, default=1, metavar="N", help="copies of the model, on GPUs of their own")
    add("--ray", action="store_true", help="spread over the machines of a Ray cluster")
    add("--speculative", metavar="ngram|MODEL", help="guess tokens ahead, from the text or with a draft model")
    add("--images", action="store_true", help="take images as well")
    add(
        "--sleepable",
        action="store_true",
        help="can give the GPU back for a while, and take it again",
    )
    add("--plan", action="store_true", help="only show how it would be served")
    add("--name", default="default", help="under which the server is known")
    add("--replace", action="store_true", help="end another server of this name first")
    add("--no-wait", action="store_true", help="return at once; the boot goes on")
    add("--engine", metavar="here|PATH", help="this Python's vllm, or another environment or vllm command")
    add("--port", type=port, metavar="N", help="on 127.0.0.1; a free one is found otherwise")
    add(
        "--idle-stop",
        type=duration,
        default=idling.DEFAULT,
        metavar="60m|never",
        help="end it when nobody asks so long",
    )
    add("--restart", choices=("never", "on-failure"), default="never", help="start vLLM again where it ends by itself")
    add("--price-per-hour", type=float, metavar="P", help="of this machine, in any currency; answers then have a cost")
    add("--install", action="store_true", help=_INSTALLS)
    add("--yes", action="store_true", help="do not ask before a large download")
    add(
        "--share",
        nargs="?",
        const="30",
        metavar="N|NAMES",
        help="with a class: 30 students, or ada,ben; a key for each",
    )
    add("--share-host", metavar="ADDRESS", help="127.0.0.1 for a hub or a tunnel; 0.0.0.0 for the same network")
    add("--share-port", type=port, metavar="N", help="for the class; a free one is found, and kept, otherwise")
    add("--share-cert", metavar="FILE", help="TLS certificate; without it the network can read keys and questions")
    add("--share-certkey", metavar="FILE", help="the certificate's key, where it has a file of its own")
    add(
        "--share-at-once",
        type=count,
        metavar="N",
        help="requests answered at once; as many as have room in memory otherwise",
    )
    add("--share-per-student", type=count, metavar="N", help="of these, one student's; 2 otherwise")
    add("--share-max-tokens", type=tokens, metavar="N", help="completion tokens of a request; 8,192 otherwise")
    add(
        "--share-tokens-per-minute",
        type=tokens,
        metavar="N",
        help="of one student, four of a prompt counting as one; 6,000 otherwise",
    )
    add("--share-prompt-tokens", type=tokens, metavar="N", help="of a request; 8,192 otherwise")
    return parser


def reason_options(prog: str) -> Parser:
    """Of %%reason, %reason and `magistral-nb ask`."""
    parser = Parser(prog, "Ask a reasoning model; the thinking is streamed, the answer comes back.")
    add = parser.add_argument
    add("--quiet", action="store_true", help="one line instead of the thinking")
    add(
        "-n", "--samples", type=int, default=1, metavar="N", help="ask it so often at once; the first one is shown live"
    )
    add("--thinking-budget", "--budget", type=tokens, metavar="N", help="thinking tokens at most, then the answer")
    add("--max-tokens", type=tokens, metavar="N", help="completion tokens at most, thinking included")
    add("--temperature", type=float, metavar="T", help="0 is greedy; the model's own otherwise")
    add("--top-p", type=float, metavar="P", help="the model's own otherwise")
    add("--seed", type=int, metavar="N", help="makes sampling repeatable")
    add("--system", metavar="TEXT|@FILE", help="replaces the model's own system prompt")
    add("--server", metavar="NAME", help="which server; the last one served or connected otherwise")
    return parser


def connect_options(prog: str) -> Parser:
    """Of %magistral_connect and `magistral-nb connect`."""
    parser = Parser(prog, "Connect to an OpenAI-compatible server that runs already, and see what it can.")
    add = parser.add_argument
    add("url", help="such as http://localhost:11434/v1, or unix:/run/vllm.sock")
    add("--model", metavar="NAME", help="one of the server's; its first otherwise")
    add("--name", default="default", help="under which it is known here")
    add("--price-per-hour", type=float, metavar="P", help="of that machine, in any currency; answers then have a cost")
    add("--api-key", action=_KeyRefused, help=argparse.SUPPRESS)
    return parser


def name_options(prog: str, description: str) -> Parser:
    """Of whatever takes one server's name."""
    parser = Parser(prog, description)
    parser.add_argument("name", nargs="?", help="of the server; the one that a question would go to otherwise")
    return parser


def sleep_options(prog: str) -> Parser:
    """Of %magistral_sleep and `magistral-nb sleep`."""
    return name_options(prog, "Give the GPU's memory of a --sleepable server to other work.")


def wake_options(prog: str) -> Parser:
    """Of %magistral_wake and `magistral-nb wake`."""
    return name_options(prog, "Take the GPU's memory back; a question does that as well.")


def stop_options(prog: str) -> Parser:
    """Of %magistral_stop and `magistral-nb stop`."""
    parser = name_options(prog, "End a server and all its processes.")
    parser.add_argument("--all", action="store_true", help="every server")
    parser.add_argument("--orphans", action="store_true", help="what dead servers have left running, and no server")
    return parser


def share_options(prog: str) -> Parser:
    """Of %magistral_share and `magistral-nb share`."""
    parser = name_options(prog, "Show who of the class uses how much, who waits, and how students reach the server.")
    add = parser.add_argument
    add("--add", metavar="NAMES", help="give a key to these as well, such as ada,ben")
    add("--revoke", metavar="NAME", help="take this student's key away; what runs with it ends")
    add(
        "--keys",
        nargs="?",
        const="",
        metavar="FILE",
        help="the keys, to hand them out: shown in a terminal, in a notebook written to NAME-keys.txt, which is yours",
    )
    return parser


def logs_options(prog: str) -> Parser:
    """Of %magistral_logs and `magistral-nb logs`."""
    parser = name_options(prog, "Show the last lines of a server's log.")
    parser.add_argument("--lines", type=int, default=50, metavar="N", help="how many; 50 otherwise")
    return parser


def history_options(prog: str) -> Parser:
    """Of %magistral_history and `magistral-nb history`."""
    parser = Parser(prog, "Find the answers that were kept, newest first; with an id, show one with its trace.")
    add = parser.add_argument
    add("words", nargs="*", help="that all occur in the question, the thinking or the answer; or an answer's id")
    add("--since", metavar="AGE", help="30m, 3h, 2d, 1w, or a date such as 2026-03-01")
    add("--server", metavar="NAME", help="only answers of this server")
    add("--limit", type=int, default=20, metavar="N", help="rows at most; 20 otherwise")
    return parser


def parse_history(prog: str, line: str | list[str]) -> argparse.Namespace:
    """What was typed behind %magistral_history; `words` is one search, what was quoted stays together.

    Example:
        >>> parse_history("%magistral_history", 'prime --since 2d "two three"').words
        'prime "two three"'
    """
    try:
        words = split_words(line) if isinstance(line, str) else line
    except InvalidOption:  # an apostrophe in a word
        words = str(line).split()
    chosen = history_options(prog).parse_intermixed_args(words)
    chosen.words = " ".join(f'"{word}"' if re.search(r"\s", word) else word for word in chosen.words)
    return chosen


def split_raw(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Own options, and the raw vLLM flags behind "--".

    Example:
        >>> split_raw(["abacus", "--", "--max-num-seqs", "8"])
        (['abacus'], ('--max-num-seqs', '8'))
    """
    if "--" not in words:
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def split_words(line: str) -> list[str]:
    """A magic's line as a shell would split it.

    Raises:
        InvalidOption: a quotation mark is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption(f"A quotation mark is not closed in: {line.strip()}") from error


def split_question(line: str, parser: Parser) -> tuple[list[str], str]:
    """Leading options, and the question behind them just as it was written, apostrophes and all.

    Example:
        >>> split_question("--seed 7 What's 2 + 2?", reason_options("%reason"))
        (['--seed', '7'], "What's 2 + 2?")
    """
    words: list[str] = []
    rest = line
    while match := _OPTION.match(rest):
        option, equals = match[1], match[2]
        rest = rest[match.end() :]
        if equals or parser.takes_value(option):
            value = _WORD.match(rest)
            if value is None:
                return [*words, option], rest.strip()
            words += [option, "".join(split_words(value[1]))]
            rest = rest[value.end() :]
        else:
            words.append(option)
    return words, rest.strip()


def as_question(chosen: argparse.Namespace) -> dict[str, Any]:
    """What `reason_options` were chosen, as the keywords of `reason`.

    Raises:
        InvalidOption: the file behind --system cannot be read.
    """
    names = ("server", "samples", "thinking_budget", "temperature", "top_p", "max_tokens", "seed")
    return {name: getattr(chosen, name) for name in names} | {"system": read_system(chosen.system)}


def read_system(value: str | None) -> str | None:
    """The system prompt that --system means: its text, or a file's behind "@".

    Raises:
        InvalidOption: the file cannot be read.
    """
    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"--system {value}: the file cannot be read ({error}).") from error
