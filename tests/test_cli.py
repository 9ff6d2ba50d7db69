"""The terminal's verbs, against a scripted server or a stand-in engine (real vLLM: tests/engine)."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in import content, deltas, done, finish, reasoning, refuse, usage

from magistral_nb import Answer, Answers, cli, errors

GOOD = [reasoning("2 + 2 = 4.", [1, 2, 3]), content("It is 4.", [4]), finish("stop"), usage(9, 5, 3), done()]


def test_ask_streams_thinking_to_stderr_and_answer_to_stdout(stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    assert cli.main(["ask", "--server", stand_in.url, "What", "is", "2+2?"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == "It is 4."
    assert "2 + 2 = 4." in shown.err
    assert stand_in.requests[0].json["messages"][-1]["content"] == "What is 2+2?"


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_ask_several_times_writes_each_answer_once(stand_in, capsys, quiet):
    stand_in.enqueue(deltas(GOOD), deltas(GOOD))
    assert cli.main(["ask", "--server", stand_in.url, "-n", "2", "2+2?", *quiet]) == 0
    shown = capsys.readouterr()
    assert shown.out == "1. It is 4.\n\n2. It is 4.\n"
    assert shown.err.count("2 + 2 = 4.") == (0 if quiet else 1)


def test_one_of_several_that_failed_is_a_failure(stand_in, capsys):
    stand_in.enqueue(refuse(400, "no room"), deltas(GOOD))
    assert cli.main(["ask", "--server", stand_in.url, "--samples", "2", "2+2?"]) == 1
    out = capsys.readouterr().out
    assert "It is 4." in out
    assert "no room" in out


def test_what_several_had_said_when_they_were_interrupted_is_written(stand_in, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise errors.Interrupted(Answers([Answer(prompt="?", thinking="", text="fo", finish_reason="stop", id="0")]))

    monkeypatch.setattr("magistral_nb.asking.reason.reason", interrupted)
    assert cli.main(["ask", "-n", "2", "2+2?"]) == 130
    assert capsys.readouterr().out == "1. fo\n"


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
        (["serve", "--port", "99999"], "is no port"),
        (["logs", "--lines", "0", "x"], "No server 'x'"),
        (["ask", "--temperature", "nan", "2+2?"], "temperature is nan"),
        (["ask", "-n", "0", "2+2?"], "samples is 0"),
        (["ask", "-n", "two", "2+2?"], "invalid int value"),
        (["serve", "--price-per-hour", "inf"], "price_per_hour is inf"),
        (["serve", "--price-per-hour", "free"], "invalid float value"),
        (["ask", "--server", "http://a:b@c", "2+2?"], "password"),
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


def command(*words, **options):
    """The console command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "magistral_nb.cli", *words], **options)


@pytest.mark.engine
@pytest.mark.engine
def test_lab_opens_the_quickstart(tmp_path):
    """A real JupyterLab, also for root, with options of its own; the browser is one that only notes the page."""
    log, page = (tmp_path / "log").open("w"), tmp_path / "page"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\ncat "${{1#file://}}" > "{page}"\n')
    browser.chmod(0o755)
    environment = dict(os.environ, BROWSER=f"{browser} %s", JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"))
    lab = command("lab", "--ServerApp.port_retries=50", stdout=log, stderr=log, cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (page.exists() and page.read_text()):
            assert lab.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "/lab/tree/quickstart.ipynb" in page.read_text(), "what a browser is sent to"
    finally:
        lab.terminate()
        lab.wait(20)


@pytest.mark.engine
def test_a_reader_that_has_seen_enough_is_no_error(stand_in):
    stand_in.enqueue(deltas([content("word " * 50_000), finish("stop"), done()]))
    asked = command("ask", "--server", stand_in.url, "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked.stdout.read(1)
    asked.stdout.close()
    assert asked.wait(20) == 141
    assert b"Traceback" not in asked.stderr.read()


@pytest.mark.engine
def test_a_full_disk_is_one_line(stand_in):
    stand_in.enqueue(deltas(GOOD))
    with Path("/dev/full").open("w") as full:
        asked = command("ask", "--server", stand_in.url, "x", stdout=full, stderr=subprocess.PIPE, text=True)
        _, shown = asked.communicate(timeout=20)
    assert asked.returncode != 0
    assert "Traceback" not in shown
    assert "No space left" in shown


def test_a_terminal_that_knows_no_multiplication_sign(stand_in):
    stand_in.enqueue(deltas([content("2 × 2 = 4"), finish("stop"), done()]))
    plain = dict(os.environ, PYTHONIOENCODING="ascii")
    asked = command("ask", "--server", stand_in.url, "2 × 2", stdout=subprocess.PIPE, env=plain, text=True)
    assert asked.communicate(timeout=20)[0].strip() == "2 ? 2 = 4"


@pytest.mark.parametrize("words", [["-5+3"], ["What", "--quiet", "is", "2"], ["-(5)"]])
def test_questions_that_look_like_options(stand_in, words):
    stand_in.enqueue(deltas(GOOD))
    assert cli.main(["ask", "--server", stand_in.url, *words]) == 0
    sent = stand_in.requests[0].json["messages"][-1]["content"]
    assert sent == " ".join(word for word in words if word != "--quiet")


def test_a_model_of_a_server_elsewhere(stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    address = stand_in.root.removeprefix("http://")
    assert cli.main(["ask", "--server", address, "--model", "stand-in", "x"]) == 0
    assert cli.main(["ask", "--server", address, "--model", "stand-im", "x"]) == 1
    assert "did you mean stand-in" in capsys.readouterr().err


def test_a_large_download_asks_first(capsys, monkeypatch):
    from magistral_nb import commands

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with pytest.raises(errors.InvalidOption, match="--yes"):
        commands._announce_download(47.2e9, ask=True)
    assert "47 GB" in capsys.readouterr().out
    commands._announce_download(47.2e9, ask=False)
    assert "47 GB" in capsys.readouterr().out
    commands._announce_download(1e9, ask=True)
    assert capsys.readouterr().out == ""
