"""What a machine has, with NVML's answers from a test double and everything else real."""

import os
import subprocess
import sys

import psutil
import pynvml
import pytest
from fake_nvml import GIB, FakeCard, FakeNvml, cards, fake_slice
from hypothesis import given, strategies as st
from machines import vllm

from magistral_nb.serving import hardware, trouble
from magistral_nb.serving.catalogue import CATALOGUE
from magistral_nb.serving.hardware import Gpu, Hardware, Holder, detect
from magistral_nb.serving.planner import make_plan
from magistral_nb.serving.wishes import Wishes

REFUSED = pynvml.NVML_ERROR_NOT_SUPPORTED
HIDDEN = pynvml.NVML_ERROR_NO_PERMISSION
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
OPTIONAL = [
    "Name",
    "UUID",
    "CudaComputeCapability",
    "PowerUsage",
    "EnforcedPowerLimit",
    "Temperature",
    "UtilizationRates",
    "MigMode",
    "P2PStatus",
    "ComputeRunningProcesses",
    "GraphicsRunningProcesses",
    "MPSComputeRunningProcesses",
]


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine of its own: no variable hides a card, the driver has left nothing, and it is no container."""
    for variable in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(hardware, "_PID_NAMESPACE", tmp_path / "_PID_NAMESPACE")
    for place in ("_CARD_FILES", "_DRIVER_FILES", "_PCI"):
        monkeypatch.setattr(trouble, place, tmp_path / place)
    return tmp_path


@pytest.fixture
def nvml(monkeypatch):
    """Put these cards into the machine."""
    return lambda *found, **other: FakeNvml(*found, **other).install(monkeypatch)


@pytest.fixture
def container(monkeypatch, machine):
    (machine / "_PID_NAMESPACE").touch()  # its inode is not that of the machine's own namespace


@pytest.fixture
def other_process():
    """Not started by this one, as its parent has ended."""
    code = "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=s.DEVNULL, start_new_session=True).pid)"
    pid = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    yield pid
    psutil.Process(pid).kill()


class TestFigures:
    def test_a_card_tells_all_of_them(self, nvml):
        nvml(FakeCard(temperature=41, utilisation=97))
        found = detect()
        assert found.gpus == (
            Gpu(
                "NVIDIA H100 80GB HBM3",
                80 * GIB,
                79 * GIB,
                (9, 0),
                uuid="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
                power_watts=71.25,
                power_limit_watts=700,
                temperature=41,
                utilisation=97,
                holders_known=True,
            ),
        )
        assert (found.driver, found.cuda, found.trouble) == ("570.86.15", (12, 8), None)
        assert found.title == "NVIDIA H100 80GB HBM3, 80 GiB"

    @pytest.mark.parametrize(
        ("function", "field", "instead"),
        [
            ("Name", "name", "NVIDIA GPU 0"),
            ("UUID", "uuid", ""),
            ("CudaComputeCapability", "capability", (0, 0)),
            ("PowerUsage", "power_watts", None),
            ("EnforcedPowerLimit", "power_limit_watts", None),
            ("Temperature", "temperature", None),
            ("UtilizationRates", "utilisation", None),
            ("MigMode", "mig", False),
            ("ComputeRunningProcesses", "holders_known", False),
        ],
    )
    @pytest.mark.parametrize("error", [REFUSED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN])
    def test_one_that_is_refused_costs_no_other(self, nvml, function, field, instead, error):
        nvml(FakeCard())
        (before,) = detect().gpus
        nvml(FakeCard(refuses={function: error}))
        found = detect()
        (after,) = found.gpus
        assert getattr(after, field) == instead
        assert found.trouble is None
        others = set(Gpu.__slots__) - ({field, "by_uuid"} if field == "uuid" else {field})
        assert {name: getattr(after, name) for name in others} == {name: getattr(before, name) for name in others}

    @given(st.sets(st.sampled_from(OPTIONAL)))
    def test_any_of_them_may_be_missing_together(self, refused):
        with pytest.MonkeyPatch.context() as patch:
            FakeNvml(*cards(2, refuses=dict.fromkeys(refused, REFUSED))).install(patch)
            found = detect()
        assert [gpu.free for gpu in found.gpus] == [79 * GIB, 79 * GIB]
        assert found.trouble is None

    def test_the_driver_s_versions_may_be_missing(self, nvml):
        nvml(FakeCard(), refuses={"SystemGetDriverVersion": REFUSED, "SystemGetCudaDriverVersion_v2": REFUSED})
        found = detect()
        assert (found.driver, found.cuda, len(found.gpus)) == (None, None, 1)

    def test_a_gpu_without_memory_of_its_own_has_the_machine_s(self, nvml):
        nvml(FakeCard("NVIDIA GB10", refuses={"MemoryInfo": REFUSED}))
        found = detect()
        assert found.gpus[0].total == found.memory
        assert 0 < found.gpus[0].free <= found.memory

    def test_nvml_is_opened_once_and_closed_again(self, nvml):
        library = nvml(*cards(4, slices=None), FakeCard(slices=[fake_slice(1)]))
        detect()
        assert (library.calls["nvmlInit"], library.calls["nvmlShutdown"], library.open) == (1, 1, 0)

    def test_hidden_cards_are_not_asked_for_figures(self, nvml, monkeypatch):
        library = nvml(*cards(8))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
        assert [gpu.index for gpu in detect().gpus] == [5]
        assert library.calls["nvmlDeviceGetMemoryInfo"] == 1


class TestChoice:
    def test_follows_cuda_s_variable(self, nvml, monkeypatch):
        nvml(*cards(3))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
        assert [gpu.index for gpu in detect().gpus] == [2, 0]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        found = detect()
        assert (found.gpus, found.trouble, found.driver) == ((), None, "570.86.15")
        assert found.hidden_by == "CUDA_VISIBLE_DEVICES="

    def test_follows_slurm(self, nvml, monkeypatch):
        nvml(*cards(3))
        monkeypatch.setenv("SLURM_JOB_GPUS", "1")
        assert [gpu.index for gpu in detect().gpus] == [1]
        assert detect().hidden_by is None
        monkeypatch.setenv("SLURM_STEP_GPUS", "NoDevFiles")
        assert detect().hidden_by == "SLURM_STEP_GPUS=NoDevFiles"

    def test_cards_that_a_cgroup_hides_are_not_counted(self, nvml, monkeypatch):
        first, second = cards(2)
        nvml(HIDDEN, first, HIDDEN, second)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        found = detect()
        assert [(gpu.uuid, gpu.index) for gpu in found.gpus] == [(second.uuid, 3)]
        assert found.trouble is None

    def test_a_card_has_nvidia_smi_s_number_and_cuda_s(self, nvml):
        """CUDA enumerates what the cgroup leaves, NVML all that the machine has."""
        nvml(HIDDEN, *cards(1), HIDDEN, FakeCard())
        assert [(gpu.index, gpu.place, gpu.by_uuid) for gpu in detect().gpus] == [(1, 0, True), (3, 1, True)]

    @pytest.mark.parametrize(("version", "named"), [("0.23.0", "0"), ("0.24.0", FakeCard().uuid)])
    def test_a_card_behind_a_cgroup_is_planned_as_cuda_or_vllm_knows_it(self, nvml, version, named):
        nvml(HIDDEN, FakeCard())
        plan = make_plan(detect(), CATALOGUE["2509"], Wishes(), vllm(version))
        assert dict(plan.environment)["CUDA_VISIBLE_DEVICES"] == named

    def test_a_machine_without_cards_hides_none(self, nvml, monkeypatch):
        nvml()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        assert detect().hidden_by is None


class TestSlices:
    def test_have_memory_and_holders_of_their_own(self, nvml):
        held = {os.getpid(): 2 * GIB}
        nvml(FakeCard(slices=[None, fake_slice(1, compute=held), None, fake_slice(2)], compute={1: None}))
        first, second = detect().gpus
        assert (first.mig, first.index, first.total) == (True, 0, 10 * GIB)
        assert (first.uuid[:3], first.name) == ("MIG", "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
        assert [holder.pid for holder in first.holders] == [os.getpid()]
        assert second.holders == ()
        assert first.capability == (9, 0), "the card's"
        assert (first.power_watts, first.temperature, first.utilisation, first.linked) == (None, None, None, ())

    def test_of_a_card_only_the_first_has_a_number(self, nvml):
        nvml(*cards(1), FakeCard(slices=[None, fake_slice(1), fake_slice(2)]))
        assert [gpu.place for gpu in detect().gpus] == [0, 1, None]

    def test_are_found_by_uuid_where_there_is_a_card_of_the_same_number(self, nvml):
        """VLLM takes the number of a slice in its card for the number of a card."""
        nvml(FakeCard(slices=[fake_slice(1), fake_slice(2), fake_slice(3)]), *cards(1))
        assert [gpu.by_uuid for gpu in detect().gpus] == [True, True, False, True]
        nvml(HIDDEN, FakeCard(slices=[fake_slice(1), fake_slice(2)]))
        assert [gpu.by_uuid for gpu in detect().gpus] == [False, True]

    def test_an_older_driver_shows_the_first_alone(self, nvml):
        nvml(FakeCard(slices=[fake_slice(1), fake_slice(2)]), *cards(1), driver="535.183.01")
        assert [gpu.uuid[:8] for gpu in detect().gpus] == ["MIG-0001"]

    def test_a_card_without_any_is_told(self, nvml):
        nvml(FakeCard(slices=[]), *cards(1))
        found = detect()
        assert [gpu.index for gpu in found.gpus] == [1]
        assert "GPU 0 is in MIG mode" in found.trouble
        assert "nvidia-smi mig -i 0" in found.trouble


class TestLinks:
    def test_are_those_that_the_driver_can_use(self, nvml):
        first, second, third = cards(3)
        first.linked, second.linked = [second], [first]
        nvml(first, second, third)
        assert [gpu.linked for gpu in detect().gpus] == [(second.uuid,), (first.uuid,), ()]

    def test_lead_to_visible_cards_only(self, nvml, monkeypatch):
        eight = cards(8)
        for card in eight:
            card.linked = [other for other in eight if other is not card]  # by an NVSwitch, each to each
        nvml(*eight)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
        assert [gpu.linked for gpu in detect().gpus] == [(eight[7].uuid,), (eight[6].uuid,)]


class TestHolders:
    def test_this_process_and_its_children_are_this_notebook(self, nvml, other_process):
        child = subprocess.Popen(["sleep", "60"])
        try:
            nvml(FakeCard(compute={other_process: 5 * GIB, child.pid: 7 * GIB, os.getpid(): 1 * GIB}))
            (gpu,) = detect().gpus
        finally:
            child.kill()
            child.wait()
        assert gpu.holders_known
        assert [(holder.pid, holder.ours) for holder in gpu.holders] == [
            (child.pid, True),
            (other_process, False),
            (os.getpid(), True),
        ]
        assert gpu.holders[0].title == "this notebook, 7.0 GiB"
        assert gpu.holders[1].title == f"sleep (process {other_process}), 5.0 GiB"

    def test_one_that_has_ended_or_is_hidden_has_no_name(self, nvml):
        child = subprocess.Popen(["true"])
        child.wait()
        nvml(FakeCard(compute={child.pid: 3 * GIB}))
        (gpu,) = detect().gpus
        assert gpu.holders == (Holder(child.pid, "?", 3 * GIB),)
        assert gpu.holders_known

    def test_what_computes_draws_or_shares_is_listed_once(self, nvml):
        here, parent = os.getpid(), os.getppid()
        nvml(FakeCard(compute={here: 2 * GIB}, graphics={here: None, parent: GIB}, shared={1: 3 * GIB}))
        (gpu,) = detect().gpus
        assert [(holder.pid, holder.bytes) for holder in gpu.holders] == [(1, 3 * GIB), (here, 2 * GIB), (parent, GIB)]

    @pytest.mark.parametrize("untold", [None, 0])
    def test_bytes_that_are_not_told_are_not_zero(self, nvml, untold):
        nvml(FakeCard(compute={os.getpid(): untold}))
        (holder,) = detect().gpus[0].holders
        assert holder.bytes is None
        assert holder.title == "this notebook"

    @pytest.mark.parametrize("error", [REFUSED, HIDDEN, pynvml.NVML_ERROR_UNKNOWN])
    def test_a_list_that_is_refused_is_not_an_empty_one(self, nvml, error):
        nvml(FakeCard(refuses={"ComputeRunningProcesses": error}, graphics={1: GIB}))
        (gpu,) = detect().gpus
        assert (gpu.holders, gpu.holders_known) == ((), False)

    def test_a_container_s_are_perhaps_not_all(self, nvml, container):
        nvml(FakeCard(compute={os.getpid(): GIB}))
        (gpu,) = detect().gpus
        assert ([holder.ours for holder in gpu.holders], gpu.holders_known) == ([True], False)

    def test_process_ids_of_a_container_s_host_name_nobody_here(self, nvml, container):
        child = subprocess.Popen(["true"])
        child.wait()
        nvml(FakeCard(compute={child.pid: GIB, os.getpid(): GIB}))
        (gpu,) = detect().gpus
        assert (gpu.holders, gpu.holders_known) == ((), False)


class TestTrouble:
    @pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
    def test_a_machine_without_a_gpu_has_none(self, nvml, error):
        nvml(refuses={"Init": error})
        found = detect()
        assert (found.gpus, found.driver, found.cuda, found.trouble) == ((), None, None, None)
        assert found.title.endswith("no GPU")

    def test_a_library_without_a_card_of_nvidia_s_is_none(self, nvml, machine):
        (machine / "_PCI" / "0000:00:02.0").mkdir(parents=True)
        (machine / "_PCI" / "0000:00:02.0" / "vendor").write_text("0x8086\n")
        nvml(refuses={"Init": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
        assert detect().trouble is None

    def test_a_loaded_driver_without_library_or_card_is_a_container_without_gpus(self, nvml, machine):
        (machine / "_DRIVER_FILES").mkdir()
        nvml(refuses={"Init": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
        assert detect().trouble is None

    @pytest.mark.parametrize(
        ("error", "trace", "words"),
        [
            (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "_CARD_FILES/nvidia3", ["libnvidia-ml", "DRIVER_CAPABILITIES"]),
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "_CARD_FILES/nvidia0", ["not loaded", "sudo modprobe nvidia"]),
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "_DRIVER_FILES/version", ["not loaded", "--gpus all"]),
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "_PCI/0000:81:00.0/vendor", ["not loaded", "install the driver"]),
            (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, None, ["different versions", "restart this machine"]),
            (pynvml.NVML_ERROR_NO_PERMISSION, None, ["may not open", "ls -l /dev/nvidia*"]),
            (pynvml.NVML_ERROR_UNKNOWN, None, ["Unknown Error", "nvidia-smi", "container"]),
        ],
    )
    def test_a_broken_driver_is_told_with_what_to_do(self, nvml, machine, error, trace, words):
        if trace:
            (machine / trace).parent.mkdir(parents=True)
            (machine / trace).write_text("0x10de\n")
        nvml(refuses={"Init": error})
        found = detect()
        assert found.gpus == ()
        assert all(word in found.trouble for word in words)
        assert "\n" not in found.trouble

    def test_a_driver_that_breaks_in_between_is_told_and_nvml_closed(self, nvml):
        library = nvml(FakeCard(), refuses={"DeviceGetCount": pynvml.NVML_ERROR_UNKNOWN})
        found = detect()
        assert (found.gpus, library.open) == ((), 0)
        assert "Unknown Error" in found.trouble

    @pytest.mark.parametrize("broken", [LOST, FakeCard(refuses={"MemoryInfo": LOST})])
    def test_a_lost_card_is_told_and_the_others_are_there(self, nvml, broken):
        nvml(broken, *cards(1))
        found = detect()
        assert [gpu.index for gpu in found.gpus] == [1]
        assert found.trouble.startswith("GPU 0 cannot be used, as NVML says 'GPU is lost'")

    def test_cards_that_may_not_be_opened_at_all_are_told(self, nvml):
        nvml(HIDDEN, HIDDEN)
        assert "--gres=gpu:1" in detect().trouble

    def test_a_failing_shutdown_changes_nothing(self, nvml):
        nvml(FakeCard(), refuses={"Shutdown": pynvml.NVML_ERROR_UNKNOWN})
        assert detect().trouble is None


def test_values_can_be_made_of_their_first_fields_alone():
    gpu = Gpu("NVIDIA L4", 24 * GIB, 23 * GIB, (8, 9))
    assert Hardware("Linux", "x86_64", 8, gpus=(gpu, gpu)).title == "2 x NVIDIA L4, 24 GiB"
    assert (gpu.holders_known, gpu.power_watts, gpu.linked) == (False, None, ())
