"""Where process numbers mean anything. Pure, but for this process's own place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from magistral_nb.place import Place

HERE = Place("gpu07", "boot-1", "pid:[1]")


def test_every_process_of_a_machine_is_in_one_place():
    code = "from magistral_nb.place import Place; print(Place.here())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == repr(Place.here())
    assert Place.here().room == str(Path("/proc/self/ns/pid").readlink())


def test_a_machine_that_was_started_again_has_nobody_of_before_left():
    before = dataclasses.replace(HERE, boot="boot-0")
    assert before.seen_from(HERE) == "gone"
    assert before.seen_from(HERE, beats=True) == "gone", "the disk is slower than the machine"


def test_another_machine_is_elsewhere_as_long_as_it_gives_signs_of_life():
    other = Place("login01", "boot-9", "pid:[1]")
    assert other.seen_from(HERE, beats=True) == "elsewhere"
    assert other.seen_from(HERE, beats=False) == "gone"


def test_so_is_another_container_with_the_same_name():
    twin = dataclasses.replace(HERE, room="pid:[2]")
    assert twin.seen_from(HERE, beats=True) == "elsewhere"
    assert twin.seen_from(HERE, beats=False) == "gone"
