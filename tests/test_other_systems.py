"""What Windows lacks is missed by nobody who only connects: simulated here, by taking it away from Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
from stand_in import content, deltas, done, finish

pytestmark = pytest.mark.engine

# The libraries are imported before, as they know Windows themselves.
BARE = """
import asyncio, concurrent.futures, multiprocessing, os, select, signal, subprocess, sys, tempfile, uuid
import filelock, IPython, openai, platformdirs, psutil
for module, names in (
    (os, "getuid geteuid getgid getpgid getpgrp setsid killpg getpriority setpriority sysconf fork "
         "O_NOFOLLOW O_NONBLOCK O_CLOEXEC EX_OK"),
    (signal, "SIGKILL SIGHUP SIGCONT SIGSTOP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGQUIT pthread_sigmask"),
    (select, "poll epoll"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
sys.platform = "win32"
"""
ASK = """
import magistral_nb
from magistral_nb import cli
server = magistral_nb.connect(sys.argv[1])
print(magistral_nb.reason("2+2?").text)
print(len(magistral_nb.history()), cli.main(["status"]), cli.main(["share"]))
"""


def test_connecting_asking_and_history_need_nothing_that_only_unix_has(stand_in, tmp_path):
    stand_in.enqueue(*[deltas([content("4"), finish("stop"), done()])] * 9)
    code = f"{BARE}\n{ASK}"
    ended = subprocess.run(
        [sys.executable, "-c", code, stand_in.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "4\n" in ended.stdout
    assert "connected" in ended.stdout
    assert "Traceback" not in ended.stderr
