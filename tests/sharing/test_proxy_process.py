"""The proxy as a process of its own, as people have it; a stand-in for vLLM is behind it (no engine)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from classroom import UPSTREAM_KEY, ProxyProcess, Stream, error_of, until
from stand_in import content, deltas, done, finish, hang, reasoning, role, usage

from magistral_nb.sharing import key_ring

pytestmark = pytest.mark.engine

MIB = 2**20
SHORT = [role([1, 2, 3]), reasoning("Hm.", [5, 6]), content("4", [7]), finish("stop"), usage(3, 4, 2), done()]


@pytest.mark.long
def test_told_to_end_it_ends_every_stream_with_a_line_and_a_new_one_goes_on(tmp_path):
    with ProxyProcess(tmp_path, "ada,ben", at_once=1) as room:
        root = room.root
        room.vllm.enqueue(deltas([role([1, 2]), reasoning("Hm", [5, 6, 7])], ending="hang"))
        with Stream(room, "ada") as running, Stream(room, "ben") as waiting:
            running.line()
            waiting.line()
            until(lambda: room.report.waiting == 1)
            assert (room.report.running, room.report.students["ada"].running) == (1, 1)
            began = time.monotonic()
            room.process.terminate()
            for stream in (running, waiting):
                told = error_of(stream.rest())
                assert (told["code"], "is ending" in told["message"]) == (503, True)
            assert room.process.wait(5) == 0
            assert time.monotonic() - began < 2
        assert room.process.stdout.read() == "", "it has nothing to say"
        room.ready()
        assert room.root == root, "the same port"
        room.vllm.enqueue(deltas(SHORT))
        assert room.ask("ada").status_code == 200, "the same keys"
        until(lambda: room.report.students["ada"].requests == 2)
        used = room.report.students["ada"]
        assert (used.prompt_tokens, used.completion_tokens, used.running) == (5, 7, 0)


@pytest.mark.long
def test_killed_it_forgets_two_seconds_of_counts_at_most(tmp_path):
    with ProxyProcess(tmp_path, "ada,ben") as room:
        room.vllm.enqueue(deltas(SHORT), deltas(SHORT))
        room.ask("ada")
        until(lambda: room.report.students.get("ada"))
        room.process.kill()
        room.process.wait()
        room.ready()
        room.ask("ada")
        until(lambda: room.report.students["ada"].requests == 2)


def test_it_ends_when_the_state_is_gone(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        room.path.unlink()
        assert room.process.wait(5) == 0


def test_an_interrupt_ends_it_as_well(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        room.process.send_signal(signal.SIGINT)
        assert room.process.wait(5) == 0


def ended(room) -> str:
    """The one line of a proxy that cannot begin."""
    process = room.start()
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.count("\n") == 1
    return said


def test_what_it_cannot_do_it_says_in_one_line(tmp_path):
    room = ProxyProcess(tmp_path / "none", "ada")
    room.write(share=None)
    assert "is no state of a server that is shared" in ended(room)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = ended(ProxyProcess(tmp_path / "port", "ada", port=port))
        assert f"Nobody can listen on 127.0.0.1, port {port}" in said
    assert "Nobody can listen on 192.0.2.1" in ended(ProxyProcess(tmp_path / "host", "ada", host="192.0.2.1"))
    missing = str(tmp_path / "no.pem")
    assert f"--share-cert {missing} and its key cannot be used" in ended(
        ProxyProcess(tmp_path / "c", "ada", cert=missing)
    )


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        port = room.report.port
        room.end()
        with socket.create_server(("127.0.0.1", port)):
            room.ready()
            assert room.report.port != port


def test_keys_that_cannot_be_trusted_are_told_in_the_log(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        key_ring.path_of(room.path).chmod(0o644)
        assert room.ask("ada").status_code == 503
        code, said = room.end()
    assert (code, said.count("\n")) == (0, 1)
    assert "others may read or write it" in said


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, *name]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    return str(cert), str(key)


def test_with_a_certificate_what_travels_is_encrypted(tmp_path, certificate):
    cert, certkey = certificate
    with ProxyProcess(tmp_path, "ada", cert=cert, certkey=certkey) as room:
        port = room.report.port
        assert (room.report.tls, room.root) == (True, f"https://127.0.0.1:{port}")
        seen = ssl.get_server_certificate(("127.0.0.1", port))
        assert seen.strip() == Path(cert).read_text().strip()
        room.vllm.enqueue(deltas(SHORT))
        with httpx.Client(base_url=room.root, verify=False, headers={"X-API-Key": room.keys["ada"]}) as client:
            body = {"messages": [{"role": "user", "content": "2+2?"}], "stream": True}
            assert client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)


def asking(room, students, times):
    """Threads in which each of these asks so often, and the replies' texts that come."""
    replies = []

    def ask(student):
        replies.append(room.ask(student, messages=[{"role": "user", "content": student}]).text)

    threads = [threading.Thread(target=ask, args=(student,)) for student in students for _ in range(times)]
    for thread in threads:
        thread.start()
    return threads, replies


def test_a_class_of_thirty_asks_at_once_and_everybody_is_answered_in_turn(tmp_path):
    with ProxyProcess(tmp_path, 34, at_once=4) as room:
        *students, _, _, _, _ = room.keys
        room.vllm.enqueue(*[hang()] * 4, *[deltas(SHORT, delay=0.005)] * 90)
        holders = [Stream(room, student) for student in list(room.keys)[30:]]
        threads, replies = asking(room, students, 3)
        until(lambda: room.report.waiting == 90, 20)
        for each in holders:
            each.close()
        for thread in threads:
            thread.join()
        assert len(replies) == 90
        assert all(text.endswith("data: [DONE]\n\n") for text in replies)
        asked = [request.json["messages"][0]["content"] for request in room.vllm.requests[4:]]
        assert set(asked[:33]) == set(students), "everybody's first before a second; four at once may overtake by three"
        until(lambda: {room.report.students[student].completion_tokens for student in students} == {12})


def test_one_who_asks_all_the_time_does_not_keep_others_waiting(tmp_path):
    with ProxyProcess(tmp_path, "eager,calm", at_once=1, per_student=1) as room:
        room.vllm.enqueue(*[deltas(SHORT, delay=0.02)] * 20)
        threads, _ = asking(room, ["eager"], 12)
        room.vllm.wait_for(2)
        seen = len(room.vllm.requests)
        room.ask("calm", messages=[{"role": "user", "content": "calm"}])
        asked = [request.json["messages"][0]["content"] for request in room.vllm.requests]
        assert asked.index("calm") <= seen + 1
        for thread in threads:
            thread.join()


@pytest.mark.long
def test_memory_stays_flat_and_nothing_is_left_behind(tmp_path):
    with ProxyProcess(tmp_path, 20, at_once=8, tokens_per_minute=10**9) as room:
        process, students = psutil.Process(room.process.pid), list(room.keys)
        chance = random.Random(1)

        def some(number):
            room.vllm.enqueue(*[deltas(SHORT) if chance.random() < 0.7 else hang() for _ in range(number)])
            for _ in range(number):
                with (
                    contextlib.suppress(httpx.HTTPError),
                    Stream(room, chance.choice(students), patience=0.1) as stream,
                ):
                    stream.rest()

        some(60)
        before, files = process.memory_info().rss, process.num_fds()
        some(300)
        until(lambda: room.report.running == room.report.waiting == 0)
        assert process.memory_info().rss - before < 4 * MIB
        assert process.num_fds() <= files + 8, "connections that are kept open"


def test_no_key_stands_where_others_can_read_it(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        room.vllm.enqueue(deltas(SHORT))
        room.ask("ada")
        room.ask("ada", cache_salt="x")
        with room.client(Authorization="Bearer wrong-key") as client:
            client.get("/state")
        process = psutil.Process(room.process.pid)
        shown = " ".join(process.cmdline()) + str(process.environ())
        until(lambda: room.report.students.get("ada"))
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".lock" or path.is_dir()
        shown += room.report.to_json()
        _, said = room.end()
    for secret in (room.keys["ada"], UPSTREAM_KEY, "wrong-key"):
        assert secret not in shown + said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_gets_no_further_without_a_key(tmp_path):
    with ProxyProcess(tmp_path, "ada") as room:
        port, folder = room.report.port, tmp_path

        def lower():
            os.setgid(65534)
            os.setuid(65534)

        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /state HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        seen = subprocess.run(["bash", "-c", script], capture_output=True, text=True, preexec_fn=lower, check=False)
        assert " 401 " in seen.stdout
        for path in (room.path, key_ring.path_of(room.path), folder / "default.usage"):
            until(path.exists)
            read = subprocess.run(["cat", path], capture_output=True, preexec_fn=lower, check=False)
            assert (read.returncode, read.stdout) == (1, b"")
