"""What a machine has beside its GPUs: memory that may be used, and CUDA's compiler."""

from pathlib import Path

import psutil
import pytest

from magistral_nb.serving import hardware
from magistral_nb.serving.hardware import detect


class TestMemory:
    def test_is_not_more_than_the_machine_s(self):
        assert 0 < detect().memory <= psutil.virtual_memory().total

    @pytest.mark.parametrize(
        ("groups", "files", "limits"),
        [
            ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "500"}, [500]),
            ("0::/a/b\n", {"a/b/memory.max": "300", "a/memory.max": "500"}, [300, 500]),
            ("0::/\n", {"memory.max": "700"}, [700]),
            ("0::/elsewhere\n", {"memory.max": "700"}, [700]),
            ("5:cpu:/a\n4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "600"}, [600]),
            ("4:hugetlb,memory:/docker/1\n", {"memory/memory.limit_in_bytes": "800"}, [800]),
            ("0::/a:b\n", {"a:b/memory.max": "900"}, [900]),
            ("0::/a\n", {}, []),
            ("", {}, []),
        ],
    )
    def test_is_limited_by_the_cgroup_and_those_around_it(self, tmp_path, groups, files, limits):
        for name, limit in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(limit + "\n")
        assert list(hardware._memory_limits(groups, tmp_path)) == limits


def test_this_very_machine_is_detected():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "_PID_NAMESPACE", Path("/proc/self/ns/pid"))
        found = detect()
    assert found.cpus >= 1
    assert all(gpu.free <= gpu.total for gpu in found.gpus)


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH", "PATH"])
def test_the_compiler_is_looked_for_where_flashinfer_does(tmp_path, monkeypatch, variable):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    empty, nvcc = tmp_path / "empty", tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv(variable, str(nvcc.parent if variable == "PATH" else nvcc.parent.parent))
    assert hardware.detect().nvcc
    monkeypatch.setenv("CUDA_HOME", str(empty))
    assert not hardware.detect().nvcc, "CUDA_HOME counts before all others"
