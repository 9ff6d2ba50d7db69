"""Drivers, Pythons and cards in, a vLLM or a plain refusal out."""

from __future__ import annotations

import re
import shutil

import make_releases
import pytest
from hypothesis import given, strategies as st

from magistral_nb import errors
from magistral_nb.dialect import dialect
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.install import LOCK
from magistral_nb.serving.releases import newest_for, releases

# What nvidia-smi writes beside these drivers.
DRIVERS = {580: (13, 0), 570: (12, 8), 560: (12, 6), 550: (12, 4), 535: (12, 2), 525: (12, 0)}
V100, T4, A100, L40S, H100, RTX5090 = (7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)
CUDAS = st.sampled_from([*DRIVERS.values(), (11, 4), (12, 9), (13, 1), (14, 0)])
CARDS = st.sampled_from([None, (0, 0), (6, 1), V100, T4, A100, L40S, H100, RTX5090])
PYTHONS = st.sampled_from([None, (3, 8), (3, 10), (3, 11), (3, 12), (3, 13), (3, 14), (3, 15)])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize(
    ("driver", "card", "version", "certain"),
    [
        (580, H100, "0.33.0", True),
        (580, T4, "0.33.0", True),
        (580, V100, "0.19.1", True),  # 0.20 is the first without its machine code
        (570, A100, "0.19.1", True),
        (570, H100, "0.11.2", True),  # 0.12 to 0.19 are compiled with 12.9
        (570, RTX5090, "0.11.2", True),
        (570, None, "0.11.2", True),
        (560, H100, "0.11.2", False),
        (550, A100, "0.19.1", True),
        (550, T4, "0.19.1", True),
        (550, H100, "0.11.2", False),  # vLLM's issue 31700: this very pair, in the image encoder
        (550, (0, 0), "0.11.2", False),
        (535, L40S, "0.19.1", True),
        (525, A100, "0.19.1", True),
        (525, H100, "0.11.2", False),
    ],
)
def test_named_drivers_end_with_a_version(driver, card, version, certain):
    release = newest_for(DRIVERS[driver], (3, 12), card)
    assert release.version == version
    assert (release.doubt == "") is certain
    if not certain:
        assert "12.8, newer than the driver's {}.{}".format(*DRIVERS[driver]) in release.doubt


def test_an_older_major_cuda_is_refused_with_the_driver_that_would_do():
    with pytest.raises(errors.UnsupportedPlatform, match=r"525 or newer.*knows 11\.4: update"):
        newest_for((11, 4), (3, 12), A100)


def test_a_card_that_is_too_old_is_refused_whatever_the_driver():
    for cuda in (None, (12, 8), (13, 0)):
        with pytest.raises(errors.UnsupportedPlatform, match=r"capability 7\.0, and this one has 6\.1.*connect URL"):
            newest_for(cuda, (3, 12), (6, 1))


def test_a_python_that_is_too_new_is_refused_with_those_that_would_do():
    with pytest.raises(errors.UnsupportedPlatform, match=r"0\.19\.1.*3\.10 to 3\.13, not on 3\.14: install uv"):
        newest_for((12, 8), (3, 14), A100)
    assert newest_for((12, 8), None, A100).pythons[1] == (3, 13), "uv can choose one that fits"
    assert newest_for((13, 0), (3, 10), A100).version == "0.31.0"


def test_without_a_driver_the_newest_is_taken_with_a_doubt():
    release = newest_for(None, (3, 12))
    assert release.version == releases()[-1].version
    assert "no driver" in release.doubt


@given(CUDAS, PYTHONS, CARDS)
def test_what_comes_out_runs_by_every_rule(cuda, python, card):
    release, refusal = None, ""
    try:
        release = newest_for(cuda, python, card)
    except errors.UnsupportedPlatform as error:
        refusal = str(error)
    if release is None:
        assert re.fullmatch(r".+: .*%magistral_connect URL.*\.", refusal)
        return
    assert release.cuda[0] <= cuda[0]
    assert python is None or release.pythons[0] <= python <= release.pythons[1]
    if card not in (None, (0, 0)):
        assert card >= dialect(release.version).oldest_card
    if not release.doubt:
        assert release.cuda <= cuda or (card is not None and (0, 0) < card < H100)


@given(CUDAS, CUDAS, PYTHONS, CARDS)
def test_a_newer_driver_never_gets_an_older_vllm(one, other, python, card):
    def best(cuda):
        try:
            return numbers(newest_for(cuda, python, card).version)
        except errors.UnsupportedPlatform:
            return ()

    assert best(min(one, other)) <= best(max(one, other))


def test_the_table_has_each_minor_release_once_and_in_order():
    versions = [numbers(each.version) for each in releases()]
    assert [minor for _, minor, _ in versions] == list(make_releases.MINORS)
    assert [each.uploaded for each in releases()] == sorted(each.uploaded for each in releases())
    assert [each.cuda for each in releases()] == sorted(each.cuda for each in releases())


def test_pins_stay_below_what_is_known_to_break():
    for release in releases():
        pins = dict(pin.split("<=") for pin in release.pins)
        assert set(pins) == set(make_releases.PINNED)
        assert numbers(pins["mistral-common"]) < (1, 13), "each question is answered with 400 from 1.13 on"
        assert numbers(pins["fastapi"]) < (0, 137), "each request is answered with 500 from 0.137 on"


def test_pins_allow_what_was_run():
    """The CPU engine of this version answers questions in tests/engine, with what its lock holds."""
    locked = dict(re.findall(r"^([\w.-]+)==([\d.]+)", LOCK.read_text(), re.MULTILINE))
    release = next(each for each in releases() if each.version == VLLM_VERSION)
    for name, newest in (pin.split("<=") for pin in release.pins):
        assert numbers(locked[name]) <= numbers(newest)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("uv") is None, reason="the table is made with uv")
def test_the_packages_themselves_say_what_the_table_says():
    made = make_releases.row(19)
    release = next(each for each in releases() if each.version == made["version"])
    assert made == {
        "version": release.version,
        "uploaded": release.uploaded,
        "torch": release.torch,
        "cuda": release.cuda,
        "pythons": list(release.pythons),
        "pins": list(release.pins),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", release.uploaded)
