"""What is typed to share a server, what becomes of it, and what people are told."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from classroom import state_of
from hypothesis import given, strategies as st

from magistral_nb import errors, options
from magistral_nb.commands import share_shown
from magistral_nb.processes import Process
from magistral_nb.serving import registry
from magistral_nb.sharing import key_ring, overview, usage
from magistral_nb.sharing.key_ring import KeyRing
from magistral_nb.sharing.reach import Machine, ways
from magistral_nb.sharing.share import Share, students_of
from magistral_nb.sharing.usage import Report, Usage

ME = Process.of(os.getpid())
MACHINE = Machine("10.0.0.5", "ada@gpu")
FOLK = {"ada": Usage(3, 1, 60, 4000, 1000.0, 1, 2), "ben": Usage()}


def typed(*words):
    return Share.typed(options.serve_options("%magistral_serve").parse_args(list(words)))


def test_what_is_typed_becomes_a_share():
    assert typed() is None
    assert typed("--share") == Share(students=students_of("30"))
    assert typed("--share", "ada,ben", "--share-host", "0.0.0.0", "--share-port", "8443").host == "0.0.0.0"
    everything = typed(
        *("abacus", "--share", "2", "--share-at-once", "4", "--share-per-student", "1", "--share-max-tokens", "4k"),
        *("--share-tokens-per-minute", "1,000", "--share-prompt-tokens", "512", "--share-cert", "c.pem"),
    )
    expected = {"at_once": 4, "per_student": 1, "max_tokens": 4096, "tokens_per_minute": 1000, "prompt_tokens": 512}
    assert dataclasses.asdict(everything).items() >= expected.items()
    assert everything.cert == str(Path.cwd() / "c.pem"), "the proxy has another working folder"
    assert everything.has_tls


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--share-host", "0.0.0.0"], "add --share"),
        (["--share", "0"], "1 to 999 students"),
        (["--share", "1000"], "1 to 999 students"),
        (["--share", "ada,ada"], "stands there twice"),
        (["--share", "ada,b/n"], "cannot name a student"),
        (["--share", ","], "Nobody is named"),
        (["--share", "abacus"], "is that the model"),
        (["--share", "2", "--share-certkey", "k"], "add --share-cert"),
    ],
)
def test_what_makes_no_sense_is_told(words, says):
    with pytest.raises(errors.InvalidOption, match=says) as caught:
        typed(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ({"students": ()}, "Nobody is named"),
        ({"students": ["ada", "ada"]}, "stands there twice"),
        ({"students": "ada"}, "stands there twice"),
        ({"students": ("b/n",)}, "cannot name a student"),
        ({"students": ("ada",), "certkey": "k"}, "add --share-cert"),
    ],
)
def test_in_python_it_is_told_as_well(share, says):
    with pytest.raises(errors.InvalidOption, match=says):
        Share(**share)


def test_in_python_a_certificate_may_stand_in_the_working_folder_as_well(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    share = Share(students=["ada"], cert="c.pem", certkey="~/k.pem")
    assert (share.cert, share.certkey) == (str(tmp_path / "c.pem"), str(Path.home() / "k.pem"))
    assert share == Share.from_dict(dataclasses.asdict(share))


def test_one_student_is_written_with_a_comma_or_behind_the_model():
    assert typed("--share", "ada,").students == ("ada",)
    assert typed("abacus", "--share", "ada").students == ("ada",)


@given(st.lists(st.from_regex(r"\w[\w .@'-]{0,10}", fullmatch=True), min_size=1, max_size=4))
def test_names_are_read_as_they_are_written(names):
    names = [" ".join(name.split()) for name in names]
    if len(set(names)) < len(names) or ",".join(names).isdecimal():
        return
    assert students_of(",".join(names)) == tuple(names)


def test_a_share_stands_in_the_state_file(tmp_path):
    share = Share(students=("ada", "zoë"), host="::1", port=8443, cert="/c.pem")
    state = state_of("http://127.0.0.1:1/v1", share)
    registry.save(tmp_path / "default.json", state)
    assert registry.read(tmp_path / "default.json") == state
    raw = json.loads(state.to_json())
    raw["terms"]["share"]["per_student"] = 0
    with pytest.raises(ValueError, match="share-per-student is 0"):
        registry.ServerState.from_json(json.dumps(raw))


@given(
    st.builds(
        Share,
        students=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=4, unique=True).map(tuple),
        port=st.none() | st.integers(1, 2**16 - 1),
        max_tokens=st.integers(1, 10**6),
        per_student=st.integers(1, 9),
    )
    | st.integers(1, 40).map(lambda size: Share(students=students_of(str(size))))
)
def test_what_is_typed_for_a_share_makes_it_again(share):
    assert Share.typed(options.serve_options("serve").parse_args(["abacus", *share.words()])) == share


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = Report(ME, "127.0.0.1", 8443, tls=False, seats=8, students=FOLK)
    path = usage.path_of(tmp_path / "default.json")
    usage.save(path, report)
    assert usage.load(path) == report
    assert (report.running, report.waiting) == (1, 2)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1}', '{"version": 1, "students": {"ada": 5}, "proxy": {}}'])
def test_what_is_no_report_is_none(tmp_path, text):
    path = tmp_path / "default.usage"
    usage.save(path, Report(ME, "127.0.0.1", 1, tls=False, seats=8))
    path.write_text(text)
    assert usage.load(path) is None


def said(host, *, tls=False, machine=MACHINE):
    return "\n".join(ways(Report(ME, host, 8443, tls=tls, seats=8), machine))


def test_how_students_get_there():
    here = said("127.0.0.1")
    assert "http://127.0.0.1:8443/v1" in here
    assert "ssh -N -L 8443:127.0.0.1:8443 ada@gpu" in here
    assert "nothing leaves this machine except" in here
    network = said("0.0.0.0")
    assert "On the same network: http://10.0.0.5:8443/v1" in network
    assert "whoever listens on this network can read keys" in network
    assert "https://10.0.0.5:8443/v1" in said("0.0.0.0", tls=True)
    assert "travel encrypted" in said("0.0.0.0", tls=True)
    assert "http://[fd00::5]:8443/v1" in said("fd00::5")
    assert all("%magistral_connect ADDRESS" in each for each in (here, network))


@pytest.mark.parametrize(
    ("prefix", "server"), [("/user/ada/", "ada/"), ("/base/user/ada/lab-2/", "ada/lab-2"), ("/user/a%40b.c/", "a@b.c/")]
)
def test_on_a_hub_the_address_comes_first_that_gives_nobody_the_teacher_s_own_server(prefix, server):
    machine = Machine("10.0.0.5", "ada@gpu", prefix)
    for host, first in (
        ("127.0.0.1", "http://127.0.0.1:8443/v1, for all of its users"),
        ("0.0.0.0", "//10.0.0.5:8443"),
    ):
        lines = said(host, machine=machine).splitlines()
        assert first in lines[0]
        [last] = [line for line in lines if f"https://HUB{prefix}proxy/8443/v1" in line]
        assert last != lines[0]
        assert "whoever may access your server can run code as you" in last
        assert f"the single scope access:servers!server={server};" in last
    assert "ssh" not in said("127.0.0.1", machine=machine)
    assert "--share-host 0.0.0.0" in said("127.0.0.1", machine=machine)


def test_this_machine_is_known(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    machine = Machine.here()
    assert machine.hub_prefix == "/user/ada/"
    assert "@" in machine.login
    assert machine.address


def test_the_class_is_a_table():
    ring = KeyRing({"ada": "secret", "cleo": "secret"})
    text = overview.table("default", Report(ME, "127.0.0.1", 1, tls=False, seats=8, students=FOLK), ring, now=1060.0)
    head, columns, ada, cleo, ben = text.splitlines()
    assert head == "Server 'default' is shared: 1 of 8 seats are taken, 2 wait."
    assert columns.split("  ")[0] == "student"
    assert ada.split() == ["ada", "3", "1", "60", "4,000", "1", "running,", "2", "wait", "1", "min", "00", "s", "ago"]
    assert cleo.split() == ["cleo", "0", "0", "0"]
    assert ben.endswith("revoked")
    assert "secret" not in text


def test_a_proxy_that_is_not_there_is_told():
    gone = Report(Process(2**22 + 1, 0.0), "127.0.0.1", 1, tls=False, seats=8)
    assert "its proxy has ended" in overview.table("default", gone, KeyRing({}), now=0.0)
    assert "its proxy has not begun" in overview.table("default", None, KeyRing({}), now=0.0)


@pytest.fixture
def shared(home):
    """A server that is shared with ada and ben."""
    path = registry.path_of("default")
    registry.save(path, state_of("http://127.0.0.1:1/v1", Share(students=("ada", "ben")), engine=ME))
    ring = key_ring.add(key_ring.path_of(path), ["ada", "ben"])
    usage.save(usage.path_of(path), Report(ME, "127.0.0.1", 8443, tls=False, seats=8, students=FOLK))
    return ring


def keys_in(text):
    """Names and keys, as they stand in lines between two that say what they are."""
    return dict(line.split() for line in text.splitlines()[1:-1])


def test_the_magic_shows_the_class_and_writes_keys_into_a_file_that_is_the_teacher_s_alone(
    shared, shell, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert shell.run_cell("%magistral_share").success
    shown = capsys.readouterr().out
    assert "4,000" in shown
    assert "ssh -N -L 8443" in shown
    for words, name in (([], "default-keys.txt"), ([str(tmp_path / "mine")], "mine")):
        share_shown(options.share_options("%magistral_share").parse_args(["--keys", *words]), rich=True)
        path = tmp_path / name
        shown += capsys.readouterr().out
        assert str(path) in shown
        assert keys_in(path.read_text()) == shared.keys
        assert path.stat().st_mode & 0o077 == 0
    assert not any(key in shown for key in shared.keys.values())
    with pytest.raises(errors.MagistralError, match=r"cannot be written .*: add --keys FILE"):
        share_shown(options.share_options("").parse_args(["--keys", "no/such/folder"]), rich=True)


def test_keys_are_given_and_taken_away(shared, shell, capsys):
    path = key_ring.path_of(registry.path_of("default"))
    shell.run_cell("%magistral_share --add cleo,dan --revoke ada")
    assert "4 students have a key" in capsys.readouterr().out
    assert list(key_ring.load(path).keys) == ["ben", "cleo", "dan"]
    assert key_ring.load(path).keys["ben"] == shared.keys["ben"]
    failed = shell.run_cell("%magistral_share --revoke ada")
    assert "'ada' has no key" in str(failed.error_in_exec)


def test_the_command_shows_the_same(shared, capsys):
    from magistral_nb import cli

    assert cli.main(["share", "--keys"]) == 0
    assert keys_in(capsys.readouterr().out) == shared.keys
    assert cli.main(["share"]) == 0
    assert "%magistral_connect ADDRESS" in capsys.readouterr().out, "what students type in a notebook"


def test_a_server_that_is_not_shared_is_told(home, shell):
    registry.save(registry.path_of("default"), state_of("http://127.0.0.1:1/v1", None, engine=ME))
    failed = shell.run_cell("%magistral_share")
    assert "is not shared: %magistral_serve --share 30" in str(failed.error_in_exec)
