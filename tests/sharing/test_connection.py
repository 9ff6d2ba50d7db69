"""Connections that take room and ask nothing, over real sockets; a stand-in is behind the proxy (no engine)."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from classroom import Stream, until
from stand_in import hang

from magistral_nb.sharing import connection

HEAD = b"GET /state HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def connect(room):
    """Opens a connection that sends nothing by itself, from this address of the machine."""
    with contextlib.ExitStack() as stack:

        def connected(source: str = "127.0.0.1", timeout: float = 3.0) -> socket.socket:
            host, port = room.root.removeprefix("http://").split(":")
            made = socket.create_connection((host, int(port)), timeout, source_address=(source, 0))
            return stack.enter_context(made)

        yield connected
    until(lambda: not connections(room))


def connections(room):
    return room.proxy._server.server_state.connections


def ended(made: socket.socket) -> bool:
    """Whether the proxy has closed it; waits for that."""
    try:
        return made.recv(1) == b""
    except ConnectionError:
        return True


def is_open(made: socket.socket) -> bool:
    made.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        return not ended(made)
    return True


@pytest.mark.parametrize(
    "sent", [b"", HEAD, HEAD + b"\r\n", b"POST /state HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"]
)
def test_who_sends_no_whole_request_is_hung_up_on_however_slowly_it_comes(connect, monkeypatch, sent):
    """The last two have their answer, and then go on with a second head, or with a body that nobody reads."""
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.15)
    made, began = connect(timeout=0.02), time.monotonic()
    made.sendall(sent)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 2:
            with contextlib.suppress(TimeoutError):
                if not made.recv(4096):
                    break
            if sent:
                made.sendall(b"x")
    assert 0.12 < time.monotonic() - began < 1


def test_a_question_that_is_answered_for_long_is_not_hung_up_on(room, ada, monkeypatch):
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.05)
    room.vllm.enqueue(hang())
    with Stream(room, ada):
        request = room.vllm.wait_for(1)
        assert not request.disconnected.wait(0.15)


def test_where_there_is_no_room_whoever_asked_nothing_for_longest_goes(room, connect, ada, ben, monkeypatch):
    monkeypatch.setattr(connection, "MOST", 4)
    room.vllm.enqueue(hang())
    with Stream(room, ada):
        room.vllm.wait_for(1)
        idle = []
        for number in range(12):
            idle.append(connect())
            until(lambda: idle[-1].getsockname() in {each.client for each in connections(room)})
            assert len(connections(room)) <= 5, number
        assert [is_open(each) for each in idle] == [False] * 9 + [True] * 3
        with room.client(ben) as client:
            assert client.get("/state").json()["queue"]["running"] == 1, "whoever is answered stays"


def test_where_all_are_answered_a_new_one_goes(room, connect, ada, monkeypatch):
    monkeypatch.setattr(connection, "MOST", 1)
    room.vllm.enqueue(hang())
    with Stream(room, ada):
        room.vllm.wait_for(1)
        assert ended(connect())


def test_one_address_takes_its_own_room_only(connect, monkeypatch):
    monkeypatch.setattr(connection, "MOST_OF_A_PEER", 2)
    near = [connect() for _ in range(4)]
    far = [connect("127.0.0.2") for _ in range(4)]
    assert sum(map(is_open, far)) == 2
    assert all(map(is_open, near)), "a hub or a tunnel brings the whole class"
