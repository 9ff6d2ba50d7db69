"""Answers found again: by words, time, server and id."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from magistral_nb import Answer, MagistralError, Usage, history, paths, recall
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.history import find_by_id, full_text_query, moment
from magistral_nb.answers.journal import journal
from magistral_nb.errors import InvalidOption

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def keep(key: str, prompt: str = "2+2?", **changes) -> Answer:
    given = {"thinking": "Let me add.", "text": "4", "finish_reason": "stop", "server": "default", "model": "m"}
    answer = Answer(id=key.ljust(32, "0"), prompt=prompt, **(given | changes))
    journal().begin(answer.id, prompt, answer.model, answer.server, Pieces())
    journal().finish(answer)
    return answer


@pytest.fixture
def kept():
    """Three answers, oldest first."""
    return [
        keep("a1", "Is 347 prime?", thinking="Only 1 and 347 divide it.", text="Yes.", usage=Usage(9, 20, 3, 23)),
        keep("a2", "What is a café crème?", thinking="Coffee, 20,126 a day", text="It is coffee with cream."),
        keep(
            "b3", "Größe des Mondes?", thinking="月の大きさは 100% の謎 a_b", text="∑ × √", server="other", seconds=2.5
        ),
    ]


def found(*words, **options) -> list[str]:
    return [key[:2] for key in history(*words, **options)["id"]]


def test_the_newest_comes_first(kept):
    frame = history()
    assert [key[:2] for key in frame["id"]] == ["b3", "a2", "a1"]
    assert frame.columns.tolist() == [
        *("id", "created", "prompt", "text", "finish_reason"),
        *("thinking_tokens", "completion_tokens", "seconds", "model", "server"),
    ]
    last = frame.iloc[-1]
    assert (last["thinking_tokens"], last["completion_tokens"], last["finish_reason"]) == (20, 23, "stop")
    assert frame["thinking_tokens"].isna().tolist() == [True, True, False]
    assert str(frame["created"].dtype).endswith("UTC]")
    assert abs(frame["created"].iloc[0] - pd.Timestamp.now(tz="UTC")) < pd.Timedelta("1min")


def test_nothing_found_has_the_same_columns(kept):
    nothing, something = history("nothing of the kind"), history()
    assert nothing.columns.equals(something.columns)
    for name in ("created", "finish_reason", "thinking_tokens", "completion_tokens", "seconds"):
        assert pd.concat([nothing, something])[name].dtype == something[name].dtype


WORDS = [
    ("347", ["a1"]),
    ("PRIME", ["a1"]),
    ("divide yes", ["a1"]),  # one in the thinking, one in the answer
    ("prime coffee", []),
    ("cof", ["a2"]),  # the beginning of the last word
    ("cof it", []),  # but only of the last
    ("cafe CREME", ["a2"]),
    ("20,126", ["a2"]),
    ('"coffee with"', ["a2"]),
    ('"with coffee"', []),
    ('"coffee with" crea', ["a2"]),
    ('"coffee with', ["a2"]),  # a quotation mark never closed
    ("grosse", []),
    ("große", ["b3"]),
    ("größe", ["b3"]),
    ("大きさ", ["b3"]),  # written without blanks
    ("∑", ["b3"]),
    ("100%", ["b3"]),
    ("%", ["b3"]),
    ("a_b", ["b3"]),
    ("_", ["b3"]),
    ("347 × divide", []),
    ("  ", ["b3", "a2", "a1"]),
    ('""', ["b3", "a2", "a1"]),
    ("is AND", ["a1"]),
    ("NOT", []),
    ("prompt:347", []),
]


def test_words(kept):
    for words, keys in WORDS:
        assert found(words) == keys, words


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_words_are_a_mistake(words):
    if not paths.journal().exists():
        keep("a1")
    history(words)


@given(st.text(st.sampled_from('"*()^:-+ NEAROT{}ab\\%_\0é×月')))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fts5_s_own_language_is_only_words(words):
    if not paths.journal().exists():
        keep("a1")
    history(words)
    terms, others = full_text_query(words)
    assert terms.count('"') % 2 == 0
    assert all(other in words.replace("\0", " ") for other in others)


def test_options(kept):
    assert found(server="other") == ["b3"]
    assert found("größe", server="default") == []
    assert found("is", server="default", since="1h") == ["a2", "a1"]
    assert found(limit=2) == ["b3", "a2"]
    assert found("is", limit=1) == ["a2"]
    assert found(server="\ud800") == []
    make_older("a1", days=3)
    assert found(since="2d") == ["b3", "a2"]
    assert found("is", since="2d") == ["a2"]
    assert found("is", since=timedelta(weeks=1)) == ["a2", "a1"]
    assert found(since=datetime.now(UTC) + timedelta(hours=1)) == []


def make_older(key: str, days: int) -> None:
    journal().flush()
    with sqlite3.connect(paths.journal()) as db:
        db.execute("UPDATE answers SET created = created - ? WHERE id LIKE ?", (days * 86400, key + "%"))


@pytest.mark.parametrize(
    ("since", "then"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("3h", NOW - timedelta(hours=3)),
        (" 1 W ", NOW - timedelta(weeks=1)),
        ("0.5d", NOW - timedelta(hours=12)),
        ("90s", NOW - timedelta(seconds=90)),
        ("2026-03-01T00:00+01:00", datetime(2026, 2, 28, 23, tzinfo=UTC)),
        (datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1).astimezone()),
        (date(2026, 3, 1), datetime(2026, 3, 1).astimezone()),
        ("99999999999w", datetime(1970, 1, 2, tzinfo=UTC)),
        ("0001-01-01", datetime(1970, 1, 2, tzinfo=UTC)),
    ],
)
def test_since(since, then):
    assert moment(since, NOW) == then


@given(st.text(st.sampled_from("0123456789.smhdw -:TZ²٣")) | st.text())
def test_any_other_since_is_one_line(since):
    try:
        assert moment(since, NOW).tzinfo is not None
    except InvalidOption as error:
        line = str(error)
    else:
        return
    assert "try --since 2d" in line
    assert "\n" not in line


def test_limit_is_positive():
    with pytest.raises(InvalidOption, match="limit=100"):
        history(limit=0)


def test_recall(kept):
    assert recall("a100") == kept[0]
    assert recall(f" {kept[2].id.upper()} ") == kept[2]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("a10", "4 to 32 hexadecimal"),
        ("xyz0", "4 to 32 hexadecimal"),
        ("a1' OR 1", "4 to 32 hexadecimal"),
        ("٣٣٣٣", "4 to 32 hexadecimal"),
        ("ffff", "No answer 'ffff' is kept: %magistral_history"),
        ("c000", "Several answers"),
    ],
)
def test_an_id_that_names_no_answer(kept, key, says):
    keep("c0000")
    keep("c0001")
    with pytest.raises(InvalidOption, match=says):
        recall(key)


def test_ids_among_words(kept):
    keep("2027")
    assert find_by_id("a100") == kept[0]
    assert find_by_id("2027") is None, "somebody looks for the number"
    assert find_by_id("20270000") is not None
    assert find_by_id("face") is None
    assert find_by_id("a1") is None
    assert find_by_id("a100 b300") is None


def test_a_file_that_cannot_be_read_is_one_line(monkeypatch):
    monkeypatch.setenv("MAGISTRAL_NB_JOURNAL", "off")
    paths.journal().parent.mkdir(parents=True)
    paths.journal().write_bytes(b"no database at all, but longer than the header of one " * 20)
    with pytest.raises(MagistralError, match="cannot be read") as caught:
        history()
    assert "\n" not in str(caught.value)
    paths.journal().unlink()
    with sqlite3.connect(paths.journal()) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(MagistralError, match="newer magistral_nb"):
        recall("abcd")
    with sqlite3.connect(paths.journal()) as db:
        db.execute("PRAGMA user_version = 0")
    with pytest.raises(MagistralError, match="older version"):
        history()


def test_switched_off_it_can_still_be_read(kept, monkeypatch):
    journal().flush()
    monkeypatch.setenv("MAGISTRAL_NB_JOURNAL", "off")
    assert found() == ["b3", "a2", "a1"]
