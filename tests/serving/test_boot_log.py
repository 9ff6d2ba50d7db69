"""Stages from log lines."""

from __future__ import annotations

from fake_engine import LOG

from magistral_nb.serving.boot_log import BootLog

GPU_BOOT = [
    "(EngineCore pid=1) INFO 11-21 23:51:11 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model=",
    "(EngineCore pid=1) INFO [gpu_model_runner.py:1] Starting to load model mistralai/Magistral-Small-2509...",
    "Loading safetensors checkpoint shards:  40% Completed | 4/10 [00:10<00:15]",
    "(EngineCore pid=1) INFO torch.compile took 21.3 s in total",
    "(EngineCore pid=1) INFO [gpu_worker.py:1] Available KV cache memory: 45.1 GiB",
    "Capturing CUDA graphs:  73%|███████▎  | 49/67",
    "(APIServer pid=1) INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:8000",
]


def test_a_gpu_boot_goes_through_its_stages():
    log, seen = BootLog(), []
    for line in GPU_BOOT:
        log.feed(line)
        seen.append((log.stage, log.detail))
    assert seen == [
        ("Preparing the engine", ""),
        ("Loading the weights", ""),
        ("Loading the weights", "40%"),
        ("Compiling", ""),
        ("Sizing the KV cache", ""),
        ("Capturing CUDA graphs", "73%"),
        ("Opening the API", ""),
    ]


def test_stages_never_go_back():
    log = BootLog()
    for line in [*LOG.splitlines(), "INFO Starting to load model again", "shards: 10%"]:
        log.feed(line)
    assert log.stage == "Opening the API"


def test_a_warning_that_nothing_is_compiled_is_no_stage():
    log = BootLog()
    log.feed("WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs")
    assert log.stage == "Starting vLLM"
