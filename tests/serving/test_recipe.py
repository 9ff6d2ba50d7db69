"""What is asked for on which machine; at the end, the real uv chooses packages for Colab."""

import dataclasses
import re
import shutil
import subprocess
import tomllib

import pytest
from hypothesis import given, strategies as st
from machines import CARDS, DRIVERS, gpus, machine, one

from magistral_nb.errors import UnsupportedPlatform
from magistral_nb.serving import recipe
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.recipe import Recipe, candidates, choose_python, cuda_request
from magistral_nb.serving.releases import newest_for, releases

COLABS_PYTHON = (3, 12)
COLABS_CARDS = ("T4", "L4", "A100 40")


def with_driver(hardware, cuda):
    return dataclasses.replace(hardware, driver="a driver", cuda=cuda)


def versions(hardware, python=None):
    return [each.version for each in candidates(hardware, python)]


class TestColab:
    """Python 3.12, pip 24.1, uv beside it, and a driver that nobody there can change."""

    @pytest.mark.parametrize("uv", [True, False])
    @pytest.mark.parametrize("driver", ["535", "550", "570"])
    @pytest.mark.parametrize("card", COLABS_CARDS)
    def test_what_would_be_installed(self, card, driver, uv):
        here = with_driver(one(card), DRIVERS[driver])
        found = candidates(here, None if uv else COLABS_PYTHON)
        assert [each.version for each in found] == ["0.19.1", "0.18.1", "0.17.1"]
        assert not any(each.doubt for each in found)
        assert all(choose_python(each, COLABS_PYTHON) == COLABS_PYTHON for each in found)
        assert Recipe(COLABS_PYTHON, found[0]).name == "vllm-cuda-0.19.1-py3.12"
        assert cuda_request(found[0], "--exclude-newer" if uv else None) == [
            "--only-binary",
            ":all:",
            *(["--exclude-newer", "2026-04-20T00:00:00Z"] if uv else []),
            "vllm==0.19.1",
            "fastapi<=0.136.0",
            "mistral-common<=1.11.0",
            "transformers<=5.5.4",
            "xgrammar<=0.1.33",
        ]

    def test_what_is_said_about_it(self):
        assert recipe.told(candidates(with_driver(one("T4"), (12, 4)))[0], COLABS_PYTHON) == (
            "vLLM 0.19.1, built with CUDA 12.9, on Python 3.12"
        )

    def test_once_its_driver_is_580(self):
        assert versions(with_driver(one("L4"), (13, 0)), COLABS_PYTHON) == ["0.33.0", "0.32.0", "0.31.0"]


class TestCandidates:
    def test_the_card_that_allows_least_decides(self):
        mixed = with_driver(machine(gpus(CARDS["A100 80"]), gpus(CARDS["H100 80"], first=1)), (12, 8))
        assert versions(mixed) == versions(with_driver(one("H100 80"), (12, 8))) == ["0.11.2", "0.10.2", "0.9.2"]

    def test_a_doubt_about_the_newest_holds_for_the_ones_before(self):
        found = candidates(with_driver(one("H100 80"), (12, 4)))
        assert [each.version for each in found] == ["0.11.2", "0.10.2", "0.9.2"]
        assert all("images fail" in each.doubt for each in found)
        assert recipe.told(found[1], (3, 12)).startswith("vLLM 0.10.2, built with CUDA 12.8, on Python 3.12; but ")

    def test_a_machine_without_a_driver_gets_the_newest_with_a_doubt(self):
        found = candidates(machine())
        assert [each.version for each in found] == [each.version for each in releases()[:-4:-1]]
        assert all("no driver" in each.doubt for each in found)

    def test_a_card_or_a_driver_that_is_too_old_is_refused(self):
        old = dataclasses.replace(one("T4"), gpus=gpus(dataclasses.replace(CARDS["T4"], capability=(6, 1))))
        for here in (with_driver(old, (13, 0)), with_driver(one("T4"), (11, 4))):
            with pytest.raises(UnsupportedPlatform):
                candidates(here)

    @given(
        st.sampled_from([None, (12, 0), (12, 2), (12, 4), (12, 8), (12, 9), (13, 0), (13, 3)]),
        st.lists(st.sampled_from([(0, 0), (7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)]), max_size=3),
        st.sampled_from([None, (3, 11), (3, 12), (3, 13)]),
    )
    def test_three_at_most_from_the_newest_down_and_all_of_them_run(self, cuda, capabilities, python):
        cards = [gpus(dataclasses.replace(CARDS["T4"], capability=each)) for each in capabilities]
        found = candidates(with_driver(machine(*cards), cuda), python)
        table = [each.version for each in releases()]
        places = [table.index(each.version) for each in found]
        assert places == sorted(places, reverse=True)
        assert 1 <= len(found) <= 3
        assert all(recipe.accepts(each, python) for each in found if python)
        for capability in capabilities or [None]:
            newest = newest_for(cuda, python, capability)
            assert places[0] <= table.index(newest.version)
        assert all(cuda is None or each.cuda[0] <= cuda[0] for each in found)


class TestPython:
    NEWEST, FOR_12 = releases()[-1], next(each for each in releases() if each.version == "0.19.1")

    @pytest.mark.parametrize(
        ("release", "running", "installed", "chosen"),
        [
            (NEWEST, (3, 11), [(3, 13)], (3, 11)),
            (NEWEST, (3, 14), [], (3, 14)),
            (FOR_12, (3, 14), [(3, 14), (3, 13), (3, 12)], (3, 13)),
            (FOR_12, (3, 14), [], (3, 12)),
            (FOR_12, (3, 14), [(3, 10), (3, 9)], (3, 12)),  # they have no -P
        ],
    )
    def test_the_running_one_or_the_newest_there_or_one_to_fetch(self, release, running, installed, chosen):
        assert choose_python(release, running, installed) == chosen

    @given(
        st.sampled_from(releases()),
        st.integers(11, 16).map(lambda minor: (3, minor)),
        st.lists(st.integers(8, 16).map(lambda minor: (3, minor))),
    )
    def test_the_release_runs_on_whatever_is_chosen(self, release, running, installed):
        chosen = choose_python(release, running, installed)
        assert recipe.accepts(release, chosen)
        assert chosen >= (3, 11)


class TestRecipe:
    def test_the_folders_name_tells_build_version_and_python(self):
        assert Recipe((3, 11)).name == f"vllm-cpu-{VLLM_VERSION}-py3.11"
        assert Recipe((3, 13), releases()[-1]).name == f"vllm-cuda-{releases()[-1].version}-py3.13"

    def test_files_are_taken_up_to_the_end_of_the_day_after(self):
        for release in releases():
            request = cuda_request(release, "--uploaded-prior-to")
            day = request[request.index("--uploaded-prior-to") + 1]
            assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\dT00:00:00Z", day)
            assert day[:10] > release.uploaded
            assert set(release.pins) < set(request)

    def test_no_request_names_another_index(self):
        assert not [each for release in releases() for each in cuda_request(release, "x") if "index" in each]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not here")
def test_uv_finds_all_that_colab_needs_and_it_fits(tmp_path):
    """Half a minute; no wheel is fetched."""
    release = candidates(with_driver(one("T4"), DRIVERS["550"]))[0]
    command = ["uv", "pip", "compile", "--quiet", "--python-version=3.12", "--python-platform=x86_64-manylinux_2_35"]
    request = cuda_request(release, "--exclude-newer")
    (tmp_path / "requests.txt").write_text("\n".join(request[4:]))
    lock = tmp_path / "pylock.toml"
    subprocess.run(
        [*command, *request[:4], "-o", lock, tmp_path / "requests.txt"], check=True, stdout=subprocess.DEVNULL
    )
    packages = tomllib.loads(lock.read_text())["packages"]
    found = {each["name"]: each["version"] for each in packages}
    assert found["vllm"] == release.version
    assert found["torch"] == release.torch
    assert found["nvidia-cuda-runtime-cu12"].startswith("12.8.")
    assert not [name for name in found if name.endswith("cu13")]
    # One wheel of each package: the largest where several would do.
    sizes = [max(wheel["size"] for wheel in each["wheels"]) for each in packages]
    assert sum(sizes) > 3e9
    assert 2 * sum(sizes) < recipe.room("cuda", "uv")
