"""Boots of the real vLLM (CPU) that fail, and what the notebook tells of them: the failure, its line, what to type.

All but the refusals run the real engine: typed as people type it, in a real IPython, up to the error that they see.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import broken
import psutil
import pytest
from broken import ABACUS, WEIGHTS, model

from magistral_nb.magics.shown import CellFailed
from magistral_nb.serving import registry, server
from magistral_nb.serving.boot_log import ASKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from magistral_nb.processes import Process
    from magistral_nb.serving.diagnosis import Diagnosis

pytestmark = pytest.mark.engine

PLAIN = "%magistral_serve abacus"


@dataclass
class Failed:
    """What a user sees below a boot that failed, and what the server's state keeps of it."""

    text: str
    found: Diagnosis
    stage: str

    @property
    def line(self) -> str | None:
        """That is offered to be typed."""
        offered = re.search(r"To try that: (%magistral_serve.*)", self.text)
        return offered[1] if offered else None


class Notebook:
    """A real IPython that takes itself for a notebook's, with what its page would show."""

    def __init__(self, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
        self.pages: list[str] = []
        self._shell, self._capsys = shell, capsys

    def display(self, bundle: dict[str, str], **_how: object) -> None:
        self.pages.append(bundle["text/html"])

    def run(self, line: str) -> tuple[bool, str]:
        """Run a cell: whether it went well, and the text below it."""
        result = self._shell.run_cell(line, store_history=True)
        assert isinstance(result.error_in_exec, CellFailed | None)
        shown = self._capsys.readouterr()
        return result.success, re.sub(r"\x1b\[[\d;]*m", "", shown.out + shown.err)

    def boots(self, line: str) -> None:
        went_well, text = self.run(line)
        assert went_well, text
        assert server.Server().status() == "ready"
        assert 'data-state="done"' in self.pages[-1]

    def fails(self, words: str) -> Failed:
        """Type a boot that fails, and check what holds of all: one clear text with a true line of the log."""
        went_well, text = self.run(f"%magistral_serve {words}")
        assert not went_well
        assert "Traceback" not in text
        state = registry.load("default")
        found = state.diagnosis
        assert (state.status, state.error) == ("failed", found.cause)
        assert f"BootFailed: Server 'default' did not boot: {found.cause.rstrip('.')}. {found.remedy}" in text
        assert found.evidence in text
        log, stage = Path(state.log_path).read_text(encoding="utf-8"), state.stages[-1][0]
        # vLLM does not log what it answers, nor that a signal ended it.
        is_logged = stage != ASKING and not found.evidence.startswith("exit code -")
        assert not is_logged or found.evidence.removesuffix("…") in log
        page = self.pages[-1]
        assert 'data-state="failed"' in page
        assert "<b>The boot failed.</b>" in page
        assert all(f"<span>{name}</span>" in page for name, _ in state.stages)
        assert state.api_key not in text + page + log
        return Failed(text, found, stage)

    def refuses(self, words: str) -> str:
        """Type what is refused before anything is started."""
        went_well, text = self.run(f"%magistral_serve {words}")
        assert not went_well
        assert not server.servers()
        return text


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What vLLM and the hub's client keep beside this package's home; vLLM takes 10 s to make its own."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def notebook(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    """Nothing that was booted is left when the test ends."""
    book = Notebook(shell, capsys)
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    monkeypatch.setattr("IPython.display.display", book.display)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(caches / "vllm"))
    monkeypatch.setenv("HF_HOME", str(caches / "hub"))
    yield book
    for each in server.servers():
        state = each.state()
        each.stop()
        assert not state.engine.is_alive()
        assert not state.supervisor.is_alive()


@contextmanager
def when(words: str, do: Callable[[Process], None]) -> Iterator[None]:
    """Do something to the engine, once, as soon as these words are in its log."""

    over = threading.Event()

    def follow() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not over.is_set():
            state = registry.load("default")
            if state is not None and state.engine is not None and words in Path(state.log_path).read_text():
                return do(state.engine)
            time.sleep(0.05)
        return None

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def case(*values: object, long: bool = True, name: str | None = None) -> object:
    """A parameter of a test, called like the failure; most take their time."""
    return pytest.param(*values, marks=[pytest.mark.long] * long, id=name or str(values[1]))


FLAGS = [
    case("--no-such-flag 8", "unknown_flag", "This vLLM does not know --no-such-flag 8.",
         "error: unrecognized arguments: --no-such-flag 8", PLAIN, long=False),
    case(f"--model {ABACUS}", "unknown_flag", "vLLM does not know what /.*abacus is for.",
         f"error: unrecognized arguments: {ABACUS}", PLAIN, name="model"),
    case("--dtype fp8", "flag_value", "--dtype fp8 does not exist: a dtype is what is computed in, and FP8 weights are "
         "a quantisation.", "error: argument --dtype: invalid choice: 'fp8'", PLAIN, long=False),
    case("--seed luck", "flag_value", "vLLM refuses --seed: invalid int value: 'luck'.",
         "error: argument --seed: invalid int value: 'luck'", PLAIN, name="seed"),
    case("--enable-sleep-mode", "sleep_unsupported", "vLLM's sleep mode needs a GPU.",
         "Value error, Sleep mode is not supported on current platform.", PLAIN),
    case("--quantization bitsandbytes", "unknown_quantization", "This vLLM does not know the quantisation "
         "bitsandbytes.", "Value error, Unknown quantization method: bitsandbytes.", PLAIN),
    case("--config-format hf", "no_config_json", "/.*abacus has no config.json that tells its kind, and the hub's "
         "format was asked for.", f"Unrecognized model in {ABACUS}.", PLAIN),
    case("--no-enable-chunked-prefill --max-num-batched-tokens 1024", "batch_below_context", "A prompt of 2048 tokens "
         "does not fit a batch of 1024, and may not be cut into chunks.",
         "max_num_batched_tokens (1024) is smaller than max_model_len (2048).",
         f"{PLAIN} -- --max-num-batched-tokens 1024 --enable-chunked-prefill"),
    case("--kv-cache-memory-bytes 9000G", "cpu_memory_below_budget", r"vLLM wants 9000\.0 GiB of this machine's memory "
         r"and [\d.]+ of [\d.]+ GiB are free\.", "ValueError: Available memory on node 0 (", None),
    case("--served-model-name other", "renamed", "The server does not know its model as abacus: a raw flag gave it "
         "another name.", "The model `abacus` does not exist", PLAIN),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "name", "cause", "evidence", "line"), FLAGS)
def test_flags_that_vllm_refuses_are_told_with_the_line_without_them(notebook, flags, name, cause, evidence, line):
    failed = notebook.fails(f"abacus -- {flags}")
    assert failed.found.id == name
    assert re.fullmatch(cause, failed.found.cause)
    assert evidence in failed.found.evidence
    assert failed.line == line


LINES = [
    case("-- --max-model-len 4096", "context_beyond_model", "A context of 4096 tokens was asked for, and the model was "
         "made for 2048.", "--context 2048"),
    case("--context 40", "context_overflow", r"A question of \d\d tokens and its answer do not fit the context of 40 "
         "tokens.", ""),
    case("-- --reasoning-parser magistral", "unknown_parser", "This vLLM has no reasoning parser named magistral.",
         "-- --reasoning-parser mistral"),
    case("-- --enable-chunked-prefill --max-num-batched-tokens 8 --max-num-seqs 16", "batch_below_requests",
         "A batch of 8 tokens cannot serve 16 requests at once.",
         "-- --enable-chunked-prefill --max-num-batched-tokens 8 --max-num-seqs 8"),
    case("-- --tokenizer-mode hf", "no_chat_template", "The tokenizer has no chat template, so that vLLM cannot word a "
         "question for the model.", "-- --tokenizer-mode mistral"),
    case("-- --kv-cache-memory-bytes 100000", "kv_no_memory", "Nothing is left for the KV cache: .* or "
         "--kv-cache-memory-bytes is too small.", "-- --max-num-seqs 16"),
    case("-- --kv-cache-memory-bytes 1M", "kv_too_small_for_max_len", r"A context of 2048 tokens needs [\d.]+ GiB of "
         r"KV cache, and the [\d.]+ GiB left hold 384\.", "--context 384 -- --kv-cache-memory-bytes 1M"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "name", "cause", "line"), LINES)
def test_the_line_that_is_offered_boots(notebook, words, name, cause, line):
    failed = notebook.fails(f"abacus {words}")
    assert failed.found.id == name
    assert re.fullmatch(cause, failed.found.cause)
    assert failed.line == f"{PLAIN} {line}".rstrip()
    notebook.boots(failed.line)


def test_a_port_that_is_taken_while_vllm_starts(notebook):
    """It is free when the boot is checked, and taken when vLLM wants it."""
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # until it listens others may bind it as well
        thief.bind(("127.0.0.1", 0))
        with when("", lambda _: thief.listen()):
            failed = notebook.fails(f"abacus --port {thief.getsockname()[1]}")
    assert failed.found.id == "port_in_use"
    assert failed.found.evidence == "OSError: [Errno 98] Address already in use"
    assert "%magistral_status shows servers that run already" in failed.text
    assert failed.line == PLAIN


SIGNALS = [
    case(signal.SIGKILL, "killed", "exit code -9", None, long=False),
    case(signal.SIGSEGV, "segfault", "!!!!!!! Segfault encountered !!!!!!!", None),  # eager it is already
]


@pytest.mark.parametrize(("number", "name", "evidence", "line"), SIGNALS)
def test_a_signal_that_ends_vllm_while_it_starts(notebook, number, name, evidence, line):
    with when("non-default args", lambda engine: os.kill(engine.pid, number)):
        failed = notebook.fails("abacus")
    assert failed.found.id == name
    assert f"({number.name})" in failed.found.cause
    assert failed.found.evidence == evidence
    assert failed.line == line


@pytest.mark.long
def test_the_engine_s_own_process_is_killed_while_vllm_waits_for_it(notebook):
    """vLLM sees that it is gone, and not always how."""

    def kill(engine: Process) -> None:
        (core,) = (child for child in psutil.Process(engine.pid).children() if "EngineCore" in child.name())
        core.kill()

    with when("Initializing a V1 LLM engine", kill):
        failed = notebook.fails("abacus")
    assert failed.found.id in {"engine_init_wrapper", "killed"}
    assert "Engine core initialization failed. See root cause above. Failed core proc(s)" in failed.found.evidence
    assert "memory ran out" in failed.text


# What is typed of a folder with a model that is broken, the failure, its cause and the line of the log.
FILES = [
    case(lambda folder: f"{broken.cut(folder, 3_000_000)}", "torn_weights", "A file of weights is not whole: .*",
         "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered"),
    case(lambda folder: f"{broken.cut(folder, 1000)}", "torn_weights", "A file of FOLDER is not whole: .*",
         "Error parsing config for FOLDER: Expecting ", name="torn_head"),
    case(lambda folder: f"abacus --speculative {broken.pointer(folder)}", "torn_weights", "A file of FOLDER is not "
         "whole: .* may be a Git LFS pointer.", "Error parsing config for FOLDER: , retrying 1 of 2", name="pointer"),
    case(lambda folder: f"{broken.with_a_comma_too_many(folder)}", "torn_json", "A JSON file that vLLM reads is torn "
         "or was edited: Expecting .*: line 1 column .*", "Expecting ':' delimiter: line 1 column "),
    case(lambda folder: f"abacus --speculative {model(folder, 'params.json')}", "no_params_json", "vLLM finds no "
         "params.json of FOLDER: .*", "Failed to load mistral 'params.json' config for model FOLDER."),
    case(lambda folder: f"abacus -- --tokenizer {model(folder, 'tekken.json')}", "no_tekken", "The checkpoint has no "
         "Mistral tokenizer: tekken.json is missing.", "No tokenizer file found."),
    case(lambda _: "abacus -- --tokenizer someone/else", "offline", "Not all files of the model are on this machine, "
         ".*", "outgoing traffic has been disabled"),
    case(lambda folder: f"{model(folder, n_layers=6)}", "weights_mismatch", r"The weights lack "
         r"model\.layers\.[45]\.\w+\.weight, which params.json or config.json speaks of\.",
         "Following weights were not initialized from checkpoint: {'model.layers."),
    case(lambda folder: f"{model(folder, dim=512)}", "weights_mismatch", "The weights are not what params.json or "
         r"config.json says: shape '\[.*512\]' is invalid for input of size \d+\.", "RuntimeError: shape '[",
         name="shape"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "name", "cause", "evidence"), FILES)
def test_files_that_do_not_hold_what_they_should(notebook, tmp_path, typed, name, cause, evidence):
    folder = tmp_path / "mine"
    failed = notebook.fails(typed(folder))
    assert failed.found.id == name
    assert re.fullmatch(cause.replace("FOLDER", str(folder)), failed.found.cause)
    assert evidence.replace("FOLDER", str(folder)) in failed.found.evidence


ENGINES = [
    case(broken.without_mistral_common, "module_missing", r"A package of the engine is missing: mistral_common\.",
         "ModuleNotFoundError: No module named 'mistral_common'"),
    case(broken.with_a_name_less, "import_mismatch", r"The engine's packages do not fit each other: "
         r"mistral_common\..*\.validator has no ValidationMode\.",
         "ImportError: cannot import name 'ValidationMode' from 'mistral_common."),
    case(broken.with_the_next_mistral_common, "mistral_common_pair", r"This vLLM and its mistral-common do not fit: "
         r"from 1\.13 on, every question is answered with an error\.", "GrammarFactory.get_lark_from_jinja() missing 1 "
         "required positional argument: 'force_tool_names'"),
]  # fmt: skip


@pytest.mark.parametrize(("breaking", "name", "cause", "evidence"), ENGINES)
def test_an_engine_whose_packages_do_not_fit(notebook, tmp_path, breaking, name, cause, evidence):
    failed = notebook.fails(f"abacus --engine {breaking(tmp_path / 'environment')}")
    assert failed.found.id == name
    assert re.fullmatch(cause, failed.found.cause)
    assert evidence in failed.found.evidence
    assert "take the engine that --install makes" in failed.found.remedy
    assert failed.line == f"{PLAIN} --install"
    if name == "mistral_common_pair":
        assert failed.stage == ASKING, "it was up, and /health was fine"
        notebook.boots(failed.line)


@pytest.mark.long
def test_a_vllm_for_cuda_where_no_gpu_is(notebook, tmp_path):
    failed = notebook.fails(f"abacus --engine {broken.for_cuda(tmp_path / 'environment')}")
    assert (failed.found.id, failed.found.cause) == ("no_gpu", "vLLM sees no GPU here.")
    assert failed.found.evidence.startswith("RuntimeError: Failed to infer device type")
    assert "%magistral_serve abacus needs none, %magistral_connect URL reaches one elsewhere" in failed.text


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("params.json", "params.json or config.json missing"),
        ("tekken.json", "tekken.json missing"),
        (WEIGHTS, f"{WEIGHTS} missing"),
    ],
)
def test_a_folder_that_is_not_whole_starts_nothing(notebook, tmp_path, left_out, says):
    folder = model(tmp_path / "mine", left_out)
    assert f"NotACheckpoint: {folder} is no checkpoint: {says}" in notebook.refuses(str(folder))


def test_a_pointer_in_place_of_weights_starts_nothing(notebook, tmp_path):
    told = notebook.refuses(str(broken.pointer(tmp_path / "mine")))
    assert f"{WEIGHTS} is a Git LFS pointer, not the file: run git lfs pull there." in told


def test_a_context_beyond_the_model_starts_nothing_and_names_the_one_it_has(notebook):
    told = notebook.refuses("abacus --context 4096")
    assert re.search("PlanRefused: abacus has a context of 2,048 tokens, not 4,096.*--context 2048", told)


def test_a_model_that_is_to_be_split_where_no_gpu_is_starts_nothing(notebook):
    """vLLM would wait for a second worker for ever."""
    assert "PlanRefused: Raw --tensor-parallel-size 2" in notebook.refuses("abacus -- --tensor-parallel-size 2")


def test_a_port_that_is_taken_starts_nothing(notebook):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = notebook.refuses(f"abacus --port {port}")
    assert re.search(rf"PlanRefused: Port {port} is taken.*leave --port away", told)
