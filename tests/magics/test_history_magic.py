"""%magistral_history and `magistral-nb history`."""

from __future__ import annotations

import pytest

from magistral_nb import Answer, Usage, cli
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.history import history
from magistral_nb.answers.journal import journal
from magistral_nb.magics.shown import CellFailed
from magistral_nb.views.history_view import history_table


@pytest.fixture
def kept() -> list[Answer]:
    several = [
        Answer(
            prompt="What's\n347 × 58?",
            thinking="300 × 58 <b>= 17400</b>\x1b[2J",
            text="It is **20126**.",
            finish_reason="stop",
            id="abcd" * 8,
            usage=Usage(9, 1200, 3, 1234),
            seconds=3.5,
            model="m",
            server="default",
        ),
        Answer(prompt="Is 7 prime?", thinking="", text="", finish_reason="interrupted", id="1234" * 8, server="other"),
    ]
    for answer in several:
        journal().begin(answer.id, answer.prompt, answer.model, answer.server, Pieces())
        journal().finish(answer)
    return several


def run(shell, source: str):
    return shell.run_cell(source, store_history=True)


def prompts(result) -> list[str]:
    assert result.success
    return result.result["prompt"].tolist()


def test_a_table_is_the_cell_s_value(shell, kept):
    assert prompts(run(shell, "%magistral_history")) == [kept[1].prompt, kept[0].prompt]
    assert prompts(run(shell, "%magistral_history 58 what's")) == [kept[0].prompt]
    assert prompts(run(shell, "%magistral_history --since 2d prime --server other")) == [kept[1].prompt]
    assert prompts(run(shell, "%magistral_history --server default --limit 5")) == [kept[0].prompt]
    assert prompts(run(shell, '%magistral_history "300 × 58"')) == [kept[0].prompt]
    assert prompts(run(shell, '%magistral_history "58 300"')) == []
    shell.user_ns["n"] = 347
    assert prompts(run(shell, "%magistral_history {n}")) == [kept[0].prompt]


def test_an_id_shows_the_trace_again(shell, kept, capsys):
    result = run(shell, "a = %magistral_history abcdab")
    assert result.success
    assert shell.user_ns["a"] == kept[0]
    shown = capsys.readouterr()
    assert "300 × 58 <b>= 17400</b>" in shown.err
    assert "Thought for 4 s, 1,200 tokens" in shown.err
    assert "\x1b[2J" not in shown.err


def test_in_a_notebook_it_is_the_static_trace(shell, kept, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **_: shown.append(bundle))
    monkeypatch.setattr("magistral_nb.magics.history.is_rich", lambda _: True)
    run(shell, "%magistral_history abcdabcd")
    (bundle,) = shown
    assert "&lt;b&gt;= 17400&lt;/b&gt;" in bundle["text/html"]
    assert "<details>" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Thought for")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("%magistral_history --since soon", "try --since 2d"),
        ("%magistral_history --limit 0", "limit"),
        ("%magistral_history --sinc 2d", "did you mean --since"),
    ],
)
def test_mistakes_are_one_line(shell, capsys, source, says):
    result = run(shell, source)
    assert isinstance(result.error_in_exec, CellFailed)
    shown = capsys.readouterr()
    assert says in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


def test_in_a_terminal_a_table(kept, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "asked", "ended", "took", "tokens", "server", "question", "answer"]
    assert lines[1].startswith("12341234")
    assert lines[2].startswith("abcdabcd")
    assert "What's 347 × 58?" in lines[2]
    assert "1,234" in lines[2]
    assert max(map(len, lines)) <= 100
    assert cli.main(["history", "300 × 58", "--server", "default"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["history", "nowhere"]) == 0
    assert capsys.readouterr().out == "No such answer is kept: magistral-nb history lists all that are.\n"


def test_in_a_terminal_an_id(kept, capsys):
    assert cli.main(["history", "abcdabcd"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "It is **20126**.\n"
    assert "17400" in shown.err
    assert "\x1b[2J" not in shown.err
    assert cli.main(["history", "12341234"]) == 0
    assert "Stopped after" in capsys.readouterr().err


def test_a_streaming_answer_has_no_end_yet(capsys):
    journal().begin("f" * 32, "Well?", "m", "default", Pieces([], ["As I was saying"]))
    (line,) = history_table(history(), width=120).splitlines()[1:]
    assert line.split()[-5:] == ["Well?", "As", "I", "was", "saying"]
    assert "nan" not in line.lower()
