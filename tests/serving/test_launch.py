"""vLLM's process group and its environment, as far as no process has to be started for that."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from magistral_nb.processes import Process
from magistral_nb.serving import launch
from magistral_nb.serving.launch import EngineGroup

STATE = Path("/home/ada/servers/default.json")


def test_only_a_group_that_listens_itself_is_told_the_key():
    ours, theirs = EngineGroup(Process(os.getpgrp(), 0.0)), EngineGroup(Process(2**22 + 1, 0.0))
    with socket.create_server((launch.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        assert ours.listens_on(port)
        assert not theirs.listens_on(port)
    assert not ours.listens_on(port)


def test_a_port_that_is_bound_and_not_listened_on_is_nobody_s():
    with socket.socket() as bound:
        bound.bind((launch.HOST, 0))
        assert not EngineGroup(Process(os.getpgrp(), 0.0)).listens_on(bound.getsockname()[1])
