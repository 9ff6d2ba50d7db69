"""Whole logs of boots that fail, as vLLM 0.32 writes them, made of the errors that they are to show."""

from __future__ import annotations

CORE, API, WORKERS = "(EngineCore pid=812)", "(APIServer pid=700)", ("(Worker_TP0 pid=901)", "(Worker_TP1 pid=902)")
KV_TOO_SMALL = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (20.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (5.1 GiB). Based on the available memory, the estimated "
    "maximum model length is 33424. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB."
WRAPPER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)
DEAD = (
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root "
    "cause."
)
IN_WORKER = (
    "Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root "
    "cause."
)
CAUSE, MEANWHILE = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
FALLBACK = (
    f"{API} WARNING 11-22 05:50:01 [model.py:2440] Your device 'Tesla T4' (with compute capability 7.5) doesn't "
    "support torch.bfloat16. Falling back to torch.float16 for compatibility."
)
OLD_PREFIXES = (
    "ERROR 06-10 05:50:11 [core.py:396] ",
    "ERROR 07-19 10:59:03 multiproc_worker_utils.py:226] ",
    "(VllmWorker rank=0 pid=63590) ERROR 06-20 12:27:37 [multiproc_executor.py:527] ",
    "\x1b[1;36m(EngineCore_DP0 pid=9526)\x1b[0;0m ERROR 12-20 20:13:01 [core.py:868] ",
    "(APIServer pid=1) (EngineCore_DP0 pid=68) ERROR 02-06 16:34:06 [core.py:936] ",
    "ERROR:    (Worker_TP1 pid=3534) ERROR 10-11 22:28:17 [multiproc_executor.py:694] ",
    "[rank0]: ",
)
BOOTING = [
    f"{API} INFO 11-22 05:50:00 [api_utils.py:286] non-default args: {{'model_tag': 'm', 'max_model_len': 131072}}",
    "W1122 05:50:00.839000 700 torch/_library/triton.py:53] Triton not available, find_triton_kernels = []",
    f"{CORE} INFO 11-22 05:50:05 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'",
    f"{CORE} INFO 11-22 05:50:06 [gpu_model_runner.py:1] Starting to load model m...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01]",
]
LOADED = f"{CORE} INFO 11-22 05:50:09 [gpu_model_runner.py:1] Model loading took 23.4 GiB memory and 21.3 seconds"
DYING = [
    "[rank0]:[W1122 05:50:13.481004695 ProcessGroupNCCL.cpp:1476] Warning: destroy_process_group() was not called",
    "Exception ignored in: <function Pool.__del__ at 0x7f>",
    "Traceback (most recent call last):",
    '  File "/venv/multiprocessing/pool.py", line 268, in __del__',
    "TypeError: 'NoneType' object is not callable",
    "/venv/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: 1 leaked semaphore",
    "  warnings.warn('resource_tracker: There appear to be %d '",
]


def traceback(*errors, between=CAUSE):
    """A chain of exceptions, the first one first."""
    lines = []
    for error in errors:
        lines += [*(["", between, ""] if lines else []), "Traceback (most recent call last):"]
        lines += ['  File "/venv/vllm/v1/engine/core.py", line 1299, in run_engine_core']
        lines += ["    engine_core = EngineCoreProc(*args)", "                  ^^^^^^^^^^^^^^^^^^^^^"]
        lines += ['  File "/venv/vllm/x.py", line 7, in start', f"    raise {error.partition(':')[0]}(message)"]
        lines += error.split("\n")
    return lines


def logged(who, where, *lines, level="ERROR"):
    return [f"{who} {level} 11-22 05:50:11 [{where}] {line}" for line in lines]


def failed_core(*errors, between=CAUSE):
    """An engine that does not start: it logs, its process dies, the API's process gives up."""
    trace = traceback(*errors, between=between)
    core = logged(CORE, "core.py:1510", "EngineCore failed to start.", *trace)
    return [*BOOTING, *core, "Process EngineCore:", *trace, *traceback(WRAPPER), *DYING]


def failed_workers(first, second, *, booting=BOOTING):
    """Two workers, the second of which fails later; the engine's core and the API only say that something did."""
    lines = [*booting]
    for who, error in zip(WORKERS, (first, second), strict=True):
        lines += logged(who, "multiproc_executor.py:953", "WorkerProc failed to start.", *traceback(error))
    lines += logged(CORE, "core.py:1510", "EngineCore failed to start.", *traceback(IN_WORKER))
    return [*lines, *traceback(WRAPPER), *DYING]


LOGS = {
    "kv_too_small_for_max_len": failed_core(KV_TOO_SMALL),
    "cuda_oom": failed_workers(OOM, OOM),
    "unknown": failed_core("ValueError: the weights are made of cheese"),
}
