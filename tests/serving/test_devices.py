"""Which devices CUDA enumerates. Pure; the examples are those of NVIDIA's and Slurm's documentation."""

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving.devices import Device, hidden_by, number_of, visible

FULL = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


def whole(*uuids):
    return [Device(place, uuid, uuid) for place, uuid in enumerate(uuids)]


def part(place, card, gpu_instance, compute_instance=0):
    uuid = f"MIG-{place}{gpu_instance}{compute_instance}c88539f-c1ea-5a36-8b4d-9b07d024b1bb"
    return Device(place, card, uuid, (gpu_instance, compute_instance))


FOUR = whole("GPU-a0000000", FULL, "GPU-a1000000", "GPU-b0000000")
HALVES = [part(1, FULL, 1), part(1, FULL, 2)]
MIXED = [FOUR[0], *HALVES]  # one whole card, one in MIG mode


def places(devices, variable, **other):
    return [device.place for device in visible(devices, {"CUDA_VISIBLE_DEVICES": variable}, **other)]


class TestNumbers:
    @pytest.mark.parametrize(
        ("variable", "seen"),
        [
            ("2,1", [2, 1]),
            ("0,2,-1,1", [0, 2]),
            ("0,4,1", [0]),
            ("", []),
            ("-1", []),
            ("NoDevFiles", []),  # Slurm's, for a job without GPUs
            (" 0, 3", [0, 3]),
            ("1st,2nd", [1, 2]),
            ("0,,1", [0]),
            ("0,1,0", []),
        ],
    )
    def test_are_read_as_cuda_does(self, variable, seen):
        assert places(FOUR, variable) == seen

    @given(st.permutations(range(4)), st.integers(0, 4))
    def test_name_cards_in_the_order_of_the_list(self, order, count):
        assert places(FOUR, ",".join(map(str, order[:count]))) == order[:count]

    @given(st.permutations(range(4)), st.integers(0, 4), st.sampled_from(["-1", "4", "x", "", "GPU-a", "MIG-1", FULL]))
    def test_after_an_invalid_one_count_for_nothing(self, order, count, invalid):
        names = [*map(str, order[:count]), invalid, *map(str, order[count:])]
        expected = order[:count] if count or invalid != FULL else [1]
        assert places(FOUR, ",".join(names)) == expected


class TestUuids:
    @pytest.mark.parametrize(
        ("variable", "seen"),
        [
            (FULL, [1]),
            ("GPU-8932f937", [1]),
            ("GPU-b,GPU-8", [3, 1]),
            ("GPU-a", []),  # two cards begin so
            ("GPU-b,GPU-a,GPU-8", [3]),
            ("GPU-ffff", []),
            ("GPU-b,GPU-b0", []),
            ("GPU-b,0", [3]),
            ("gpu-b", []),
        ],
    )
    def test_may_be_shortened_as_long_as_they_are_unique(self, variable, seen):
        assert places(FOUR, variable) == seen

    @given(st.integers(0, 3), st.integers(5, 12))
    def test_a_prefix_finds_its_card_or_nothing(self, place, length):
        assert places(FOUR, FOUR[place].uuid[:length]) in ([place], [])


class TestSlices:
    def test_newer_drivers_show_one_of_each_gpu_instance_and_whole_cards(self):
        divided = [part(1, FULL, 1, 0), part(1, FULL, 1, 1), part(1, FULL, 2)]
        assert visible([FOUR[0], *divided], {}, "570.86.15") == [FOUR[0], divided[0], divided[2]]

    @pytest.mark.parametrize("driver", ["535.183.01", None])
    def test_older_drivers_show_the_first_alone(self, driver):
        assert visible(MIXED, {}, driver) == HALVES[:1]

    @pytest.mark.parametrize("driver", ["470.42.01", "580.65.06"])
    def test_are_named_by_uuid(self, driver):
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": HALVES[1].uuid}, driver) == HALVES[1:]
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": "MIG-12"}, driver) == HALVES[1:]
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": "MIG-1"}, driver) == []

    def test_are_named_by_card_and_instances(self):
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": f"MIG-{FULL}/2/0"}, "460.32") == HALVES[1:]
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": f"MIG-{FULL}/3/0"}, "460.32") == []

    @pytest.mark.parametrize("name", ["1", "GPU-8932"])
    def test_stand_for_their_card(self, name):
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": name}, "570.86.15") == HALVES
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": name}, "535.183.01") == HALVES[:1]

    def test_of_two_kinds_of_name_the_first_counts(self):
        both = f"{HALVES[0].uuid},{FOUR[0].uuid}"
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": both}, "570.86.15") == HALVES[:1]

    def test_a_whole_card_can_be_chosen_beside_them(self):
        assert visible(MIXED, {"CUDA_VISIBLE_DEVICES": "0"}, "535.183.01") == FOUR[:1]


class TestSlurm:
    def test_a_job_s_numbers_are_the_node_s(self):
        assert visible(FOUR, {"SLURM_JOB_GPUS": "1,3"}) == [FOUR[1], FOUR[3]]

    def test_behind_a_cgroup_everything_is_the_job_s(self):
        two = whole("GPU-c", "GPU-d")
        assert visible(two, {"SLURM_JOB_GPUS": "5,7"}) == two

    def test_a_step_is_narrower_than_its_job(self):
        assert visible(FOUR, {"SLURM_JOB_GPUS": "0,1,2", "SLURM_STEP_GPUS": "2"}) == [FOUR[2]]

    def test_cuda_s_own_variable_comes_first(self):
        environment = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "3", "GPU_DEVICE_ORDINAL": "2"}
        assert visible(FOUR, environment) == [FOUR[0]]

    def test_slices_are_numbered_like_cards(self):
        assert visible(MIXED, {"SLURM_JOB_GPUS": "2"}, "570.86.15") == HALVES[1:]

    @pytest.mark.parametrize("variable", ["NoDevFiles", "9"])
    def test_a_job_without_gpus_of_this_node_takes_none(self, variable):
        assert visible(FOUR, {"SLURM_JOB_GPUS": variable}) == []

    def test_outside_of_a_job_everything_is_free(self):
        assert visible(FOUR, {"SLURM_JOB_GPUS": "", "GPU_DEVICE_ORDINAL": "1"}) == FOUR


variables = st.dictionaries(
    st.sampled_from(["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"]),
    st.lists(st.sampled_from(["0", "1", "2", "9", "-1", "GPU-a0", FULL, "MIG-11", "MIG-12", "", "x"])).map(",".join)
    | st.text(max_size=20),
)


@given(variables, st.sampled_from([None, "470.42.01", "535.183.01", "570.86.15"]), st.sampled_from([FOUR, MIXED, []]))
def test_whatever_is_written_there_only_devices_that_exist_are_seen_and_none_twice(environment, driver, devices):
    seen = visible(devices, environment, driver)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(devices)


@given(st.lists(st.sampled_from(["0", "1", "2", "3", "4", "-1", "x"])))
def test_a_longer_list_shows_more_or_ends_in_a_repeat(names):
    shorter, longer = places(FOUR, ",".join(names[:-1])), places(FOUR, ",".join(names))
    assert longer == [] or longer[: len(shorter)] == shorter


@given(variables, st.sampled_from([None, "570.86.15"]), st.sampled_from([FOUR, MIXED]))
def test_its_number_alone_leads_to_a_device_or_to_slices_of_which_it_is_the_first(environment, driver, devices):
    for device in visible(devices, environment, driver):
        number = number_of(device, devices)
        led = visible(devices, {"CUDA_VISIBLE_DEVICES": str(number)}, driver)
        assert (led[:1] == [device]) is (number is not None)


@given(variables, st.sampled_from([FOUR, MIXED, []]))
def test_a_variable_is_named_where_it_leaves_none_of_those_that_are_there(environment, devices):
    variable = hidden_by(devices, environment)
    assert (variable is not None) is (bool(devices) and not visible(devices, environment))
    assert variable is None or variable in {f"{name}={value}" for name, value in environment.items()}
