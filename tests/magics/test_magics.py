"""Magics in a real IPython, against a scripted server or a stand-in engine (real vLLM: tests/engine)."""

from __future__ import annotations

import _thread
import re
import threading
import time

import pytest
from IPython.core.error import StdinNotImplementedError
from serving.environments import make_own
from stand_in import StandIn, content, deltas, done, finish, reasoning, refuse, usage

from magistral_nb import cli
from magistral_nb.magics.shown import CellFailed, CellInterrupted
from magistral_nb.serving import hardware, orphans, registry
from magistral_nb.serving.server import find_server

GOOD = [reasoning("2 + 2 = 4.", [1, 2, 3]), content("It is **4**.", [4]), finish("stop"), usage(9, 5, 3), done()]


@pytest.fixture
def connected(shell, stand_in):
    shell.run_line_magic("magistral_connect", stand_in.url)
    return shell


def run(shell, source: str):
    """Run a cell as a notebook does; return its result object."""
    return shell.run_cell(source, store_history=True)


def test_the_cell_s_value_is_the_answer(connected, stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    result = run(connected, "%%reason -o a\n2+2?")
    assert result.success
    assert result.result.text == "It is **4**."
    namespace = connected.user_ns
    assert namespace["a"] is result.result
    assert namespace["_"] is result.result
    assert namespace["Out"][result.execution_count] is result.result
    shown = capsys.readouterr()
    assert shown.err.count("2 + 2 = 4.") == 1, "the trace, once"
    assert shown.out.count("It is **4**.") == 1, "the answer, once"


@pytest.mark.parametrize("option", ["-n 2", "-n2", "--samples 2"])
def test_several_samples_are_the_cell_s_value(connected, stand_in, capsys, option):
    stand_in.enqueue(deltas(GOOD), deltas(GOOD))
    result = run(connected, f"%%reason {option} -o a\n2+2?")
    answers = connected.user_ns["a"]
    assert result.result is answers
    assert [each.text for each in answers] == ["It is **4**."] * 2
    shown = capsys.readouterr()
    assert shown.err.count("2 + 2 = 4.") == 1, "the first one's trace"
    assert shown.out.count("It is **4**.") == 2
    assert "2. It is **4**." in shown.out


def test_line_magic_gives_a_value(connected, stand_in):
    stand_in.enqueue(deltas(GOOD))
    assert run(connected, "v = %reason What's 2+2?").success
    assert connected.user_ns["v"].prompt == "What's 2+2?"


def test_quiet_shows_one_line(connected, stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    result = run(connected, "%%reason --quiet -o a\n2+2?")
    assert result.success
    assert connected.user_ns["a"].text == "It is **4**."
    assert connected.user_ns["_"] is connected.user_ns["a"]
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert len(lines) == 1
    assert "3 tokens" in lines[0]


def test_variables_are_inserted_and_braces_left_alone(connected, stand_in):
    stand_in.enqueue(deltas(GOOD))
    connected.user_ns["n"] = 41
    run(connected, '%%reason\n{n} + 1, \\frac{n}{2}, {"n": 1}?')
    assert stand_in.requests[0].json["messages"][-1]["content"] == '41 + 1, \\frac{n}{2}, {"n": 1}?'


def test_options_reach_the_request(connected, stand_in):
    stand_in.enqueue(deltas(GOOD))
    run(connected, '%%reason --temperature 0.5 --top-p 0.9 --seed 3 --system "Be brief." --max-tokens 1k\n2+2?')
    body = stand_in.requests[0].json
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.5, 0.9, 3, 1024)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("%%reason\n   ", "EmptyQuestion: The question is empty"),
        ("%%reason --tempreature 1\nx", "did you mean --temperature"),
        ("%%reason answer\nx", "try -o answer"),
        ("%%reason -o 1x\nx", "cannot name a variable"),
        ("%%reason --server nope\nx", "No server 'nope'"),
        ("%%reason -n 0\nx", "samples is 0"),
        ("%magistral_serve --price-per-hour -1", "price_per_hour is -1.0"),
        ("%magistral_serve abakus", "did you mean abacus"),
        ("%magistral_serve --engine /nowhere", "/nowhere"),
        ("%magistral_serve --nope", "no option --nope|does not know '--nope'"),
        ("%magistral_serve ./nowhere", "no folder"),
        ("%magistral_serve", "--install"),
        ("%magistral_connect ht!tp://", "is no address"),
        ("%magistral_connect http://127.0.0.1:9", "Nothing answers"),
        ("%magistral_stop nope", "No server 'nope'"),
        ("%magistral_stop nope --all", "Either nope or --all: choose one"),
        ("%magistral_stop --all --orphans", "Either --all or --orphans: choose one"),
        ("%magistral_logs", "connected server"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(connected, capsys, source, says, home):
    (home / "cache" / "engines").unlink()  # no engine is installed
    result = run(connected, source)
    assert isinstance(result.error_in_exec, CellFailed)
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "Traceback" not in text

    assert re.search(says, text)
    assert len([line for line in text.splitlines() if line.strip()]) == 1


def test_where_dead_servers_have_left_nothing_there_is_nothing_to_stop(shell, monkeypatch, capsys):
    monkeypatch.setattr(orphans, "MARK", "MAGISTRAL_NB_TEST")  # or it would end what other runs have left
    assert run(shell, "%magistral_stop --orphans").success
    assert "No dead server has left anything" in capsys.readouterr().out


def test_a_broken_driver_is_told_where_the_cpu_engine_is_installed_for_it(home, monkeypatch, capsys):
    (home / "cache" / "engines").unlink()
    make_own()
    trouble = "The NVIDIA driver does not answer, as its kernel module is not loaded: type sudo modprobe nvidia."
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Hardware("Linux", "x86_64", 2, trouble=trouble))
    assert cli.main(["install"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == trouble
    assert last.startswith("vLLM 0.32.0 (cpu) is installed")


def test_a_refused_question_fails_the_cell_with_one_line(connected, stand_in, capsys):
    stand_in.enqueue(refuse(400, "no such thing"))
    result = run(connected, "%%reason\n2+2?")
    assert isinstance(result.error_in_exec, CellFailed)
    shown = capsys.readouterr()
    assert "no such thing" in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


def test_interrupt_keeps_the_partial_answer_and_stops_run_all(connected, stand_in, ctrl_c, capsys):
    stand_in.enqueue(deltas(GOOD[:1], ending="hang"))
    ctrl_c()
    result = run(connected, "%%reason -o a\n2+2?")
    assert isinstance(result.error_in_exec, CellInterrupted), "so that Run All stops"
    answer = connected.user_ns["a"]
    assert (answer.finish_reason, answer.thinking) == ("interrupted", "2 + 2 = 4.")
    assert connected.user_ns["_"] is answer
    assert stand_in.requests[0].disconnected.wait(2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err


def test_interrupt_keeps_all_samples(connected, stand_in, ctrl_c, capsys):
    stand_in.enqueue(deltas(GOOD[:1], ending="hang"), deltas(GOOD[:1], ending="hang"))
    ctrl_c(2)
    result = run(connected, "%%reason -n 2 -o a\n2+2?")
    assert isinstance(result.error_in_exec, CellInterrupted)
    assert [each.thinking for each in connected.user_ns["a"]] == ["2 + 2 = 4."] * 2
    assert connected.user_ns["_"] is connected.user_ns["a"]
    assert "2. Stopped before the answer began." in capsys.readouterr().out


def test_help_lists_options(connected, capsys):
    assert run(connected, "%reason --help").success
    assert "--max-tokens" in capsys.readouterr().out


def test_serve_status_logs_stop(shell, fake_engine, checkpoint, capsys):
    quoted = f"'{checkpoint}' --engine '{fake_engine}'"
    result = run(shell, f"s = %magistral_serve {quoted} --price-per-hour 2.5 -- --seed 3")
    assert result.success
    server = shell.user_ns["s"]
    assert server.endpoint.price_per_hour == 2.5
    assert server.plan.argv[-2:] == ("--seed", "3")
    shown = capsys.readouterr()
    assert "context" in shown.out
    assert "ready after" in shown.out + shown.err
    run(shell, "%magistral_status")
    table = capsys.readouterr().out
    assert "ready" in table
    assert server.base_url in table
    assert server.api_key not in table
    run(shell, f"%magistral_serve {quoted} --price-per-hour 3 -- --seed 3")
    assert "Attached" in capsys.readouterr().out
    assert server.endpoint.price_per_hour == 3
    result = run(shell, f"%magistral_serve {quoted} --context 512")
    assert isinstance(result.error_in_exec, CellFailed)
    assert "--replace" in str(result.error_in_exec)
    run(shell, "%magistral_logs --lines 2")
    assert "Application startup complete" in capsys.readouterr().out
    run(shell, "%magistral_stop")
    assert not server.is_alive()


def test_interrupting_serve_detaches_and_the_boot_goes_on(shell, fake_engine, checkpoint, capsys):
    (checkpoint / "behaviour").write_text("mute")

    def interrupt_the_boot():
        while (state := registry.load("default")) is None or not state.stages:
            time.sleep(0.02)
        time.sleep(0.2)
        _thread.interrupt_main()

    threading.Thread(target=interrupt_the_boot, daemon=True).start()
    result = run(shell, f"%magistral_serve '{checkpoint}' --engine '{fake_engine}'")
    assert isinstance(result.error_in_exec, CellInterrupted)
    shown = capsys.readouterr()
    assert "Detached" in shown.out + shown.err
    assert find_server().status() == "booting"
    run(shell, "%magistral_stop")


def test_no_wait_returns_at_once(shell, fake_engine, checkpoint, capsys):
    result = run(shell, f"s = %magistral_serve '{checkpoint}' --engine '{fake_engine}' --no-wait")
    assert result.success
    server = shell.user_ns["s"]
    assert server.status() == "booting"
    assert server.wait(20).status() == "ready"
    server.stop()


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_where_the_engine_has_no_build_other_ways_are_named(shell, capsys, monkeypatch, system):
    monkeypatch.setattr("platform.system", lambda: system)
    result = run(shell, "%magistral_serve")
    assert isinstance(result.error_in_exec, CellFailed)
    text = str(result.error_in_exec)
    for way in ("%magistral_connect", "Ollama", "LM Studio"):
        assert way in text
    assert ("WSL" in text) == (system == "Windows")


def test_a_value_is_inserted_once_and_is_no_option(connected, stand_in):
    stand_in.enqueue(deltas(GOOD), deltas(GOOD))
    connected.user_ns.update(x="{y}", y="SECRET", q="--seed 3 2+2?")
    run(connected, "%reason {x}")
    run(connected, "%reason {q}")
    asked = [request.json["messages"][-1]["content"] for request in stand_in.requests]
    assert asked == ["{y}", "--seed 3 2+2?"]


def test_a_semicolon_silences(connected, stand_in, capsys):
    stand_in.enqueue(deltas(GOOD))
    assert run(connected, "%reason -o a 2+2?;").success
    assert stand_in.requests[0].json["messages"][-1]["content"] == "2+2?"
    assert "It is" not in capsys.readouterr().out
    assert connected.user_ns["_"] is connected.user_ns["a"]


def test_a_folder_with_a_blank_in_a_variable(shell, fake_engine, checkpoint):
    shell.user_ns.update(folder=str(checkpoint), engine=fake_engine)
    assert " " in str(checkpoint)
    assert run(shell, "s = %magistral_serve {folder} --engine {engine}").success
    shell.user_ns["s"].stop()


def test_a_taken_name_is_one_line_and_says_what_runs(shell, fake_engine, checkpoint, capsys):
    quoted = f"'{checkpoint}' --engine '{fake_engine}'"
    server = run(shell, f"%magistral_serve {quoted}").result
    capsys.readouterr()
    run(shell, f"%magistral_serve {quoted} --context 512")
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert len(lines) == 1
    assert "context 2,048 tokens" in lines[0]
    server.stop()


def test_connect_shows_what_was_found(shell, stand_in, capsys):
    assert run(shell, f"%magistral_connect {stand_in.url} --price-per-hour 2").success
    out = capsys.readouterr().out
    assert f"vLLM 0.32.0 at {stand_in.url}" in out
    assert "thinking budget  yes" in out


def test_a_key_is_asked_for_hidden_and_shown_nowhere(shell, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "sk-very-secret")
    with StandIn(key="sk-very-secret") as guarded:
        result = run(shell, f"s = %magistral_connect {guarded.url}")
        assert result.success
        assert asked == [f"Key for {guarded.url}: "]
        guarded.enqueue(deltas(GOOD))
        assert run(shell, "%%reason -o a\n2+2?").success
        shown = capsys.readouterr()
        texts = [shown.out, shown.err, repr(shell.user_ns["s"]), repr(shell.user_ns["s"].survey)]
        assert not [text for text in texts if "secret" in text]


def test_without_anybody_to_ask_the_refusal_says_where_the_key_goes(shell, capsys, monkeypatch):
    def nobody(_prompt):
        raise StdinNotImplementedError("no stdin")

    monkeypatch.setattr("getpass.getpass", nobody)
    with StandIn(key="k") as guarded:
        assert not run(shell, f"%magistral_connect {guarded.url}").success
    assert "set MAGISTRAL_NB_API_KEY" in "".join(capsys.readouterr())


def test_a_key_in_a_cell_is_refused_and_not_repeated(shell, stand_in, capsys):
    assert not run(shell, f"%magistral_connect {stand_in.url} --api-key sk-very-secret").success
    said = "".join(capsys.readouterr())
    assert "does not belong into a cell" in said
    assert "secret" not in said
