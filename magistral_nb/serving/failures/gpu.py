"""What the GPU or the machine cannot: memory, kernels, drivers."""

from __future__ import annotations

from magistral_nb.serving.failures.failure import (
    FEWER_AND_EAGER,
    OWN_ENGINE,
    OWN_ENGINE_HELPS,
    context_that_fits,
    fewer_requests,
    gpus_that_divide,
    gpus_there_are,
    on,
    share_that_is_free,
)

MEMORY = (
    on(
        "kv_no_memory",
        r"No available memory for the cache blocks",
        cause="Nothing is left for the KV cache: weights and working memory take vLLM's whole share, or "
        "--kv-cache-memory-bytes is too small.",
        remedy="Let vLLM size the KV cache, without CUDA graphs and for fewer requests at once; else take a larger GPU "
        "or a smaller model.",
        changes=(*FEWER_AND_EAGER, ("-- --kv-cache-memory-bytes", None)),
    ),
    on(
        "kv_too_small_for_max_len",
        r"max seq len \((?P<wished>\d+)\), \((?P<need>[\d.]+) GiB KV cache is needed, which is larger than the "
        r"available KV cache memory \((?P<have>-?[\d.]+) GiB\).*?maximum model length is (?P<fits>\d+)",
        cause="A context of {wished} tokens needs {need} GiB of KV cache, and the {have} GiB left hold {fits}.",
        remedy="Take a shorter context; --kv-cache fp8 holds twice the tokens, on a GPU that can.",
        changes=context_that_fits,
    ),
    on(
        "kv_too_small_for_max_len",
        r"max seq len \((?P<wished>\d+)\), \((?P<need>[\d.]+) GiB KV cache is needed, which is larger than the "
        r"available KV cache memory \((?P<have>-?[\d.]+) GiB\)",
        cause="A context of {wished} tokens needs {need} GiB of KV cache, and {have} GiB are left for it.",
        remedy="Take a shorter context; --kv-cache fp8 holds twice the tokens, on a GPU that can.",
        changes=context_that_fits,
    ),
    on(
        "kv_too_small_for_max_len",
        r"max seq len \((?P<wished>\d+)\) is larger than the maximum number of tokens that can be stored in KV cache "
        r"\((?P<fits>\d+)\)",
        cause="A context of {wished} tokens does not fit the KV cache, which holds {fits}.",
        remedy="Take a shorter context; --kv-cache fp8 holds twice the tokens, on a GPU that can.",
        changes=context_that_fits,
    ),
    on(
        "free_memory_below_budget",
        r"Free memory on device (?:\S+ )?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than "
        r"(?:desired GPU memory utilization|the engine's budget.*?) \([\d.]+, (?P<want>[\d.]+) GiB\)",
        cause="vLLM wants {want} GiB of the GPU and {free} of {total} GiB are free: something else holds the rest.",
        remedy="%magistral_stop --all ends your servers, nvidia-smi names other holders; else take less of it.",
        changes=share_that_is_free,
    ),
    on(
        "cpu_memory_below_budget",
        r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on .+? is less than .+?"
        r"(?P<want>[\d.]+) GiB\)",
        cause="vLLM wants {want} GiB of this machine's memory and {free} of {total} GiB are free.",
        remedy="End other programs and kernels, or ask for less with -- --kv-cache-memory-bytes.",
    ),
    on(
        "profiling_assert",
        r"Error in memory profiling\. Initial free memory (?P<before>[\d.]+(?: GiB)?), "
        r"current free memory (?P<after>[\d.]+(?: GiB)?)",
        cause="Another process gave GPU memory back while vLLM measured it ({before} free before, {after} after).",
        remedy="Wait until that process has ended, then run the same line again.",
    ),
    on(
        "sampler_warmup_oom",
        r"CUDA out of memory occurred when warming up (?:sampler|pooler)(?: \(.*?\))? with (?P<requests>\d+) dummy",
        cause="The GPU has no room to choose tokens for {requests} requests at once.",
        remedy="Serve fewer requests at once.",
        changes=fewer_requests,
    ),
    on(
        "cuda_oom",
        r"CUDA out of memory\. Tried to allocate (?P<want>[\d.]+ [KMGT]iB)",
        cause="The GPU was full before the weights were loaded: another {want} did not fit.",
        remedy="Take FP8 (no --quantization none), a GPU with more memory, or several: --gpus 2.",
        loaded=False,
    ),
    on(
        "cuda_oom",
        r"CUDA out of memory\. Tried to allocate (?P<want>[\d.]+ [KMGT]iB)",
        cause="The weights fit the GPU, but not what comes beside them: another {want} was wanted.",
        remedy="Do without CUDA graphs, serve fewer requests at once, or take a shorter context.",
        changes=FEWER_AND_EAGER,
        loaded=True,
    ),
    on(
        "cuda_oom",
        r"CUDA error: out of memory",
        cause="The GPU was full.",
        remedy="%magistral_stop --all ends your servers, nvidia-smi names other holders; else take a larger GPU.",
    ),
    on(
        "host_memory",
        r"^(?:\w+\.)*MemoryError\b",
        r"\[Errno 12\] Cannot allocate memory",
        r"DefaultCPUAllocator: can't allocate memory",
        r"Unable to allocate [\d.]+ [KMGT]iB",
        cause="The machine's own memory ran out, not the GPU's.",
        remedy="End other programs and kernels, or take a machine with more memory.",
    ),
    on(
        "shared_memory",
        r"shared memory segment /dev/shm",
        r"No space left on device: '/dev/shm",
        r"insufficient shared memory",
        cause="The shared memory of this container (/dev/shm) is too small for vLLM's processes.",
        remedy="Start the container with --shm-size=8g or --ipc=host.",
    ),
)

GPU = (
    on(
        "world_size",
        r"World size \((?P<wished>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        cause="{wished} GPUs were asked for, and there are {gpus}.",
        remedy="Ask for as many as there are, and for a model that fits them.",
        changes=gpus_there_are,
    ),
    on(
        "heads_not_divisible",
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<wished>\d+)\)",
        cause="{heads} attention heads cannot be shared evenly by {wished} GPUs.",
        remedy="Take a number of GPUs that divides the heads.",
        changes=gpus_that_divide,
    ),
    on(
        "bf16_unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\. Your (?P<gpu>.+?) GPU",
        cause="A {gpu} has no bfloat16.",
        remedy="Compute in float16.",
        changes=(("-- --dtype", "half"),),
    ),
    on(
        "triton_shmem",
        r"out of resource: shared memory, Required: (?P<need>\d+), Hardware limit: (?P<have>\d+)",
        cause="A Triton kernel wants {need} bytes of the GPU's shared memory and this card has {have}.",
        remedy="Try another kernel (-- --attention-backend FLASHINFER), a newer GPU, or %magistral_serve abacus.",
    ),
    on(
        "quant_capability",
        r"The quantization method (?P<method>\S+) is not supported for the current GPU\. Minimum capability: "
        r"(?P<need>\d+)\. Current capability: (?P<have>\d+)",
        cause="{method} weights need a GPU of compute capability {need} (in tenths), and this one has {have}.",
        remedy="Take a newer GPU, or a checkpoint that is quantised for this one.",
    ),
    on(
        "quant_capability",
        r"Quantization scheme is not supported for the current GPU\. (?:Required|Min) capability: (?P<need>\d+)\. "
        r"Current capability: (?P<have>\d+)",
        cause="These weights need a GPU of compute capability {need} (in tenths), and this one has {have}.",
        remedy="Take a newer GPU, or a checkpoint that is quantised for this one.",
    ),
    on(
        "fp8_kv_refused",
        r"fp8_e5m2 kv-cache is not supported with fp8 checkpoints",
        cause="FP8 weights do not go with a KV cache of type fp8_e5m2.",
        remedy="Take fp8, which is e4m3.",
        changes=(("-- --kv-cache-dtype", "fp8"),),
    ),
    on(
        "fp8_kv_refused",
        r"No valid attention backend found for .*?kv_cache_dtype=(?P<kind>fp8\w*)",
        cause="No attention kernel of this vLLM reads a KV cache of type {kind} on this GPU.",
        remedy="Keep the KV cache in the type of the weights.",
        changes=(("--kv-cache", "auto"),),
    ),
    on(
        "no_attention_backend",
        r"No valid attention backend found for",
        r"Selected backend .+? is not valid for this configuration",
        cause="This vLLM has no attention kernel for this model on this GPU, as configured.",
        remedy="Leave raw flags away; if there are none, take a newer GPU or another vLLM.",
        changes=(("-- --attention-backend", None),),
    ),
    on(
        "gpu_not_built",
        r"no kernel image is available for execution on the device",
        cause="This vLLM or its PyTorch was not built for this GPU: the card is older or newer than the build.",
        remedy=f"{OWN_ENGINE_HELPS} A card below compute capability 7.5 is too old for it.",
        changes=OWN_ENGINE,
    ),
    on(
        "driver_too_old",
        r"The NVIDIA driver on your system is too old",
        r"PTX was compiled with an unsupported toolchain",
        r"CUDA driver version is insufficient for CUDA runtime version",
        r"Error 80[34]: (?:system has unsupported display driver|forward compatibility was attempted)",
        cause="The NVIDIA driver is older than the CUDA that this vLLM was built with.",
        remedy="Take the engine that --install makes, which is chosen by the driver; or update the driver.",
        changes=OWN_ENGINE,
    ),
    on(
        "no_gpu",
        r"Failed to infer device type",
        r"No CUDA GPUs are available",
        r"Found no NVIDIA driver on your system",
        r"no CUDA-capable device is detected",
        r"CUDA driver initialization failed",
        r"NVIDIA-SMI has failed",
        cause="vLLM sees no GPU here.",
        remedy="See what nvidia-smi says and what CUDA_VISIBLE_DEVICES hides; in Colab choose a GPU runtime; "
        "%magistral_serve abacus needs none, %magistral_connect URL reaches one elsewhere.",
    ),
    on(
        "no_libcuda",
        r"libcuda\.so(?:\.1)?: cannot open shared object file",
        cause="The NVIDIA driver's library (libcuda.so.1) is not here, and this vLLM was built for CUDA.",
        remedy="Install the driver, or start the container with --gpus all; %magistral_serve abacus needs no GPU.",
    ),
    on(
        "cuda_library_missing",
        r"(?P<library>lib(?:cu|nv|nccl)[\w-]*\.so[.\d]*): cannot open shared object file",
        cause="vLLM was built for another CUDA than the one installed beside it: {library} is missing.",
        remedy=OWN_ENGINE_HELPS,
        changes=OWN_ENGINE,
    ),
    on(
        "nccl",
        r"NCCL error: (?!remote process)(?P<what>[^(\n]+?) *(?:\(|$)",
        r"NCCL error in: \S+, (?!remote process)(?P<what>[^(,\n]+)",
        cause="The GPUs cannot talk to each other: NCCL reports {what}.",
        remedy="Set NCCL_DEBUG=INFO (%env in a notebook), run it again and see %magistral_logs; or use one GPU.",
    ),
    on(
        "cuda_error",
        r"CUDA error: (?P<what>[^\n]+?)(?:\.|$)",
        cause="The GPU stopped working on it: {what}.",
        remedy="Run the same line again; if it comes back, restart the machine, or do without CUDA graphs.",
        changes=(("-- --enforce-eager", ""),),
    ),
)
