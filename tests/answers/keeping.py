"""What these tests share: answers of every kind, keeping them, and looking behind the journal's back."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import uuid
import warnings
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies as st

from magistral_nb import Answer, Usage, paths
from magistral_nb.answers import journal_file
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.journal import journal

anything = st.text(st.characters(exclude_categories=()))  # halves of characters and NUL too
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tokens = st.none() | st.integers(0, 2**40)
seconds = st.floats(0, 1e9)
answers = st.builds(
    Answer,
    prompt=anything,
    thinking=anything,
    text=anything,
    finish_reason=st.sampled_from(["stop", "length", "budget", "interrupted", "error"]),
    id=st.uuids(version=4).map(lambda each: each.hex),
    usage=st.builds(Usage, tokens, tokens, tokens, tokens),
    seconds=seconds,
    time_to_first_token=st.none() | seconds,
    model=st.text(),
    server=st.text(),
    error=st.none() | st.sampled_from(["The endpoint answered 500.", "The stream broke off: ü\n"]),
    cost=st.none() | seconds,
    parsed=st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
    notes=st.lists(anything, max_size=3).map(tuple),
)
in_one_home = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def new_id() -> str:
    return uuid.uuid4().hex


def an_answer(**changes) -> Answer:
    given = {"prompt": "2+2?", "thinking": "2+2=4.", "text": "4", "finish_reason": "stop", "id": new_id()}
    return Answer(**(given | changes))


def keep(answer: Answer) -> None:
    """As whoever reads a stream does it."""
    kept = journal()
    kept.begin(answer.id, answer.prompt, answer.model, answer.server, Pieces([answer.thinking], [answer.text]))
    kept.finish(answer)


def rows(statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(paths.journal())) as db:
        return db.execute(statement).fetchall()


@contextlib.contextmanager
def told():
    """The lines that people are told meanwhile."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lines
    lines += [str(each.message) for each in caught]


def kernel(code: str, *arguments: str) -> subprocess.Popen:
    """Another process that keeps answers; `said` in it writes a line to us."""
    head = """
import sys, time, uuid
from magistral_nb.answers.answer import Answer, Pieces
from magistral_nb.answers.journal import journal
def said(*words): print(*words, flush=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def wait_until_closed():
    with journal_file.in_use:
        journal()._close()
