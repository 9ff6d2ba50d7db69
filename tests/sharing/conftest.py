"""For the tests of this room: one class for all tests of a file, in which each test has students of its own."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from classroom import Classroom, until

from magistral_nb.sharing import app, proxy


@pytest.fixture(scope="module")
def shared_room(tmp_path_factory, request):
    """A class of 200; a file's SHARE says how it is shared."""
    share = getattr(request.module, "SHARE", {})
    with pytest.MonkeyPatch.context() as patch, Classroom(tmp_path_factory.mktemp("class"), 200, **share) as room:
        patch.setattr(app, "_WRONG_SECONDS", 0.02)
        patch.setattr(proxy, "_TICK_SECONDS", 0.05)
        room.names = (f"student-{n:02d}" for n in count(1))
        yield room


@pytest.fixture
def room(shared_room):
    """The class, with nothing asked and nobody in it."""
    shared_room.vllm.requests.clear()
    shared_room.vllm._replies.clear()
    yield shared_room
    until(lambda: (shared_room.room.running, shared_room.room.waiting) == (0, 0))  # everybody has left


@pytest.fixture
def ada(room):
    """The name of a student who has asked nothing yet."""
    return next(room.names)


@pytest.fixture
def ben(room):
    """Another one."""
    return next(room.names)
