"""A server's key and its user's tokens are looked for wherever they could have got to.

A real notebook, run by nbclient and saved, and real supervisors; the engine is the talking stand-in, which writes what
it should not. What the real vLLM leaves open: test_open_doors.py.
"""

from __future__ import annotations

import contextlib
import os
import pydoc
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest
from faults.harness import engine_of, running
from IPython.core.ultratb import VerboseTB
from serving.machines import MACHINES, vllm
from sharing.classroom import state_of

import magistral_nb
from magistral_nb import cli, commands, errors, options
from magistral_nb.asking.engine_api import EngineApi
from magistral_nb.errors import PlanRefused
from magistral_nb.private_file import write_private
from magistral_nb.serving import registry
from magistral_nb.serving.catalogue import CATALOGUE
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes
from magistral_nb.sharing import key_ring
from magistral_nb.sharing.share import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.engine

PACKAGE = Path(magistral_nb.__file__).parent
HF_TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
API_KEY = "sk-proj-0123456789abcdefghij"

CELLS = """\
%load_ext magistral_nb
server = %magistral_serve '{model}' --engine '{engine}'
server
%%reason -o answer
count 5
print(server, repr(server.state()), repr(server.endpoint), repr(server.plan), str(server.state()), vars(server))
%magistral_status
%magistral_logs
%magistral_doctor
%magistral_serve '{model}' --engine '{engine}' --plan
answer.to_frame()
%magistral_history
import magistral_nb; [magistral_nb.servers(), magistral_nb.history(), magistral_nb.recall(answer.id).to_dict()]
%xmode Verbose
server.reason("count", temperature=-1)
server.wait(timeout=0, watch=lambda state: 1 / 0)
magistral_nb.connect(server.base_url, api_key="wrong", name="other")
connected = magistral_nb.connect(server.base_url, api_key=server.api_key, name="connected")
connected, connected.endpoint, connected.survey
import os; os.kill(server.state().engine.pid, 9); server.reason("count 5")
connected.reason("count 5")
await magistral_nb.areason("count 5", server=connected)
server.logs(0)
%magistral_sleep
%debug?
get_ipython().history_manager.writeout_cache()
"""


def find(secret: str, folders: Iterator[Path]) -> list[str]:
    """The files in which it stands."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


def cells(text: str, **names: Any) -> list[str]:
    """One a line, but for a cell magic and the line after it."""
    return text.format(**names).replace("%%reason -o answer\n", "%%reason -o answer\0").splitlines()


def test_the_key_is_in_its_state_file_and_nowhere_else(room, engine, checkpoint, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    told = cells(CELLS, model=checkpoint, engine=engine)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.replace("\0", "\n")) for cell in told])
    keys: set[str] = set()
    seen: set[str] = set()

    def look(*_: Any, **__: Any) -> None:
        """After each cell: the key, and whether a command line has it."""
        room.note()
        keys.update(state.api_key for state in registry.load_all())
        commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in running()}
        for command in commands.values():
            with contextlib.suppress(OSError):
                seen.add(command.read_bytes().decode(errors="replace"))

    history = {"ipython_hist_file": str(tmp_path / "history.sqlite")}
    client = nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120, **history)
    client.on_cell_executed = look
    client.execute()
    saved = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, saved)
    (key,) = keys
    assert len(key) >= 43, "256 bits in base64"
    assert not [command for command in seen if key in command]
    assert find(key, iter([tmp_path])) == [str(registry.path_of("default"))]
    # A control: the same places do tell of what they should.
    text = saved.read_text()
    assert {"ZeroDivisionError", "Unauthorized", "ServerDied", "Unreachable"} <= set(re.findall(r"\w+", text))
    assert "httpx" in text, "with the frames of all libraries"
    assert "count 5" in text
    assert [path for path in find("server.wait(timeout=0", iter([tmp_path])) if "history.sqlite" in path]
    assert any(str(checkpoint) in command for command in seen)


def test_the_key_is_in_no_variable_of_the_notebook_and_of_nobody_else_s_process(serve, room):
    server = serve()
    key = server.api_key.encode()
    holders = {pid for pid in running() if key in _read(f"/proc/{pid}/environ")}
    assert holders == {engine_of(server).pid}, "vLLM alone, which reads it there"
    assert not any(server.api_key in value for value in os.environ.values())


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


class Struck(KeyboardInterrupt):
    """As Ctrl-C, at a place that the test chooses."""


@contextlib.contextmanager
def struck_at(number: int) -> Iterator[list[int]]:
    """Raise at the package's call of this number; the list tells how many there were."""
    calls = [0]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if event == "call" and "/magistral_nb/" in frame.f_code.co_filename:
            calls[0] += 1
            return strike if calls[0] == number else None
        return None

    def strike(_frame: Any, event: str, _: Any) -> Any:
        """In the middle of it, where its values are known: at its end."""
        if event == "return":
            raise Struck
        return strike

    sys.settrace(trace)
    try:
        yield calls
    finally:
        sys.settrace(None)


VERBS: dict[str, Callable[[Any], Any]] = {
    "serve": lambda again: again(),
    "status": lambda _: repr(magistral_nb.servers()),
    "wait": lambda _: magistral_nb.Server().wait(5),
    "reason": lambda _: magistral_nb.Server().reason("count 3"),
    "sleep": lambda _: EngineApi(magistral_nb.Server().base_url, magistral_nb.Server().api_key).sleep(),
}


@pytest.mark.parametrize("verb", [pytest.param("reason", marks=pytest.mark.long), *sorted(VERBS.keys() - {"reason"})])
def test_wherever_ctrl_c_strikes_a_verbose_traceback_does_not_show_the_key(serve, verb):
    server = serve()
    key, leaks = server.api_key, set()
    with struck_at(0) as calls:
        VERBS[verb](serve)
    for number in range(1, calls[0] + 1):
        try:
            with struck_at(number):
                VERBS[verb](serve)
        except BaseException as error:  # noqa: BLE001 - whatever it became
            places = set(_places(error.__traceback__, key)) - leaks
            if places and key in VerboseTB().text(type(error), error, error.__traceback__):
                leaks |= places
    assert leaks == set()


KEYS: dict[str, Callable[[Path], Any]] = {
    "begin": lambda path: key_ring.begin(path, ["ada", "cleo"]),
    "add": lambda path: key_ring.add(path, ["ada", "dan"]),
    "revoke": lambda path: key_ring.revoke(path, "ben"),
    "share": lambda _: commands.share_shown(options.share_options("").parse_args([]), rich=True),
    "keys": lambda _: commands.share_shown(options.share_options("").parse_args(["--keys"]), rich=True),
}

RARER = sorted(KEYS.keys() - {"share", "keys"})


@pytest.mark.parametrize("verb", ["share", "keys", *(pytest.param(each, marks=pytest.mark.long) for each in RARER)])
def test_wherever_ctrl_c_strikes_it_does_not_show_a_student_s_key(home, verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    state = registry.path_of("default")
    registry.save(state, state_of("http://127.0.0.1:1/v1", Share(students=("ada", "ben"))))
    path, known, leaks = key_ring.path_of(state), key_ring.KeyRing({}).with_students(["ada", "ben"]), set[str]()
    keys = set(known.keys.values())

    def run() -> None:
        write_private(path, known.to_json())
        KEYS[verb](path)

    with struck_at(0) as calls:
        run()
    for number in range(1, calls[0] + 1):
        try:
            with struck_at(number):
                run()
        except BaseException as error:  # noqa: BLE001 - whatever it became
            made = {str(each) for each in key_ring.load(path).keys.values()} if path.exists() else set()
            places = {place for key in keys | made for place in _places(error.__traceback__, key)} - leaks
            if places:
                text = VerboseTB().text(type(error), error, error.__traceback__)
                leaks |= {place for place in places if any(key in text for key in keys | made)}
    assert leaks == set()


def test_a_verbose_traceback_would_show_a_key_in_a_dictionary():
    """The control."""
    headers = {"Authorization": "Bearer correct horse"}
    with pytest.raises(ZeroDivisionError) as caught:
        len(headers) / 0
    assert "correct horse" in VerboseTB().text(caught.type, caught.value, caught.tb)


def _places(trace: Any, key: str) -> Iterator[str]:
    """The package's functions of this traceback whose values show the key."""
    for frame, _ in traceback.walk_tb(trace):
        file = Path(frame.f_code.co_filename)
        if any(key in _repr(value) for value in frame.f_locals.values()) and file.is_relative_to(PACKAGE):
            yield f"{file.name}: {frame.f_code.co_name}"


def _repr(value: Any) -> str:
    """As IPython's verbose tracebacks show it."""
    with contextlib.suppress(Exception):  # one that is half made
        return pydoc.text.repr(value)
    return ""


# Tokens that are not ours


@pytest.fixture
def tokens(monkeypatch) -> tuple[str, str]:
    """In the environment, and what the engine then writes of them."""
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("MAGISTRAL_NB_TEST_CONFIDED", "HF_TOKEN OPENAI_API_KEY VLLM_API_KEY")
    return HF_TOKEN, API_KEY


def test_tokens_that_vllm_writes_into_its_log_are_shown_nowhere(serve, behave, tokens, status, capsys):
    behave("confiding")
    server = serve()
    again = [server.plan.wishes.model, "--engine", server.state().wished_engine]
    assert all(token in Path(server.log_path).read_text() for token in tokens), "a control: there they are"
    shown = [server.logs(), status(), magistral_nb.doctor(), repr(server), str(server.plan)]
    for words in (["logs"], ["doctor"], ["serve", *again, "--plan"]):
        assert cli.main(words) == 0
        shown.append(capsys.readouterr().out)
    assert "HF_TOKEN=***" in server.logs()
    for secret in (*tokens, server.api_key):
        assert not [text for text in shown if f"={secret}" in text], secret
    for token in tokens:
        assert not [text for text in shown if token in text]


def test_a_token_of_which_vllm_dies_is_not_in_the_error(serve, behave, tokens, status):
    behave("betraying")
    with pytest.raises(errors.BootFailed, match="may not read this model") as caught:
        serve()
    server = magistral_nb.Server()
    shown = [str(caught.value), status(), magistral_nb.doctor(), server.logs(), repr(server.state())]
    for token in tokens:
        assert not [text for text in shown if token in text]
    assert not find(HF_TOKEN, iter([registry.path_of("default").parent])) or (
        find(HF_TOKEN, iter([registry.path_of("default").parent])) == [server.log_path]
    ), "the log alone, which is its owner's"


# What a model brings along


@pytest.mark.parametrize("machine", MACHINES)
def test_a_model_s_own_code_is_run_by_no_plan(machine):
    plans = 0
    for profile in CATALOGUE.values():
        for wishes in (Wishes(), Wishes(images=True), Wishes(speculative="ngram"), Wishes(sleepable=True)):
            with contextlib.suppress(PlanRefused):
                plan = make_plan(MACHINES[machine], profile, wishes, vllm("0.32.0"))
                assert "trust" not in plan.shell()
                plans += 1
    assert plans or machine == "no GPU"
