"""The terminal's verbs, against a scripted server or a stand-in engine (real vLLM: tests/engine)."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from stand_in import content, deltas, done, finish, reasoning, refuse, usage

from magistral_nb import cli

GOOD = [reasoning("2 + 2 = 4.", [1, 2, 3]), content("It is 4.", [4]), finish("stop"), usage(9, 5, 3), done()]


def test_ask_streams_thinking_to_stderr_and_answer_to_stdout(stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    assert cli.main(["ask", "--server", stand_in.url, "What", "is", "2+2?"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == "It is 4."
    assert "2 + 2 = 4." in shown.err
    assert stand_in.requests[0].json["messages"][-1]["content"] == "What is 2+2?"


def test_ask_reads_a_pipe(stand_in, capsys, monkeypatch):
    stand_in.enqueue(deltas(GOOD))
    monkeypatch.setattr(sys, "stdin", io.StringIO("2+2?\n"))
    assert cli.main(["ask", "--quiet", "--server", stand_in.url]) == 0
    assert capsys.readouterr().out.strip().endswith("It is 4.")
    assert stand_in.requests[0].json["messages"][-1]["content"] == "2+2?"


def test_an_answer_that_broke_off_is_a_failure(stand_in, capsys):
    stand_in.enqueue(deltas(GOOD[:2], ending="die"))
    assert cli.main(["ask", "--server", stand_in.url, "2+2?"]) == 1
    assert "It is 4." in capsys.readouterr().out, "what had arrived is not lost"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["srve"], "no command 'srve'"),
        (["ask", "2+2?"], "magistral-nb serve"),
        (["ask", "--server", "http://127.0.0.1:9", "2+2?"], "Nothing answers"),
        (["serve", "--contxt", "1"], "did you mean --context"),
        (["stop", "nope"], "No server 'nope'"),
        (["logs"], "No server"),
    ],
)
def test_mistakes_are_one_line_in_a_terminal_s_words(words, says, capsys):
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert says in shown.err
    assert "%magistral" not in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_refusals_too(stand_in, capsys):
    stand_in.enqueue(refuse(401, "no"))
    assert cli.main(["ask", "--server", stand_in.url, "2+2?"]) == 1
    assert "refused the key" in capsys.readouterr().err


def test_usage_lists_every_verb(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for verb in ("serve", "ask", "status", "logs", "stop", "install", "demo", "lab"):
        assert verb in text
    assert cli.main(["serve", "--help"]) == 0
    assert "--kv-cache" in capsys.readouterr().out


def test_serve_status_stop(fake_engine, checkpoint, capsys):
    words = ["serve", str(checkpoint), "--engine", fake_engine]
    assert cli.main([*words, "--", "--seed", "3"]) == 0
    assert cli.main(["status"]) == 0
    assert "ready" in capsys.readouterr().out
    assert cli.main(["logs", "--lines", "1"]) == 0
    assert cli.main(["stop", "--all"]) == 0
    assert "has ended" in capsys.readouterr().out
    assert cli.main(["status"]) == 0
    assert "No server is known: magistral-nb serve" in capsys.readouterr().out


def test_lab_opens_the_quickstart(monkeypatch):
    called = []
    monkeypatch.setattr("os.execv", lambda path, argv: called.append(argv))
    cli.main(["lab"])
    assert called[0][1:3] == ["-m", "jupyterlab"]
    assert Path(called[0][3]).name == "quickstart.ipynb"
    assert Path(called[0][3]).is_file()


def test_a_large_download_asks_first(capsys, monkeypatch):
    from magistral_nb import commands, errors

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with pytest.raises(errors.InvalidOption, match="--yes"):
        commands._announce_download(47.2e9, ask=True)
    assert "47 GB" in capsys.readouterr().out
    commands._announce_download(47.2e9, ask=False)
    commands._announce_download(1e9, ask=True)
    assert "47 GB" in capsys.readouterr().out
