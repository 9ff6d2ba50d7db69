"""What is wrong with the model's files, or with the packages of the engine that should load them."""

from __future__ import annotations

from magistral_nb.serving.failures.failure import OWN_ENGINE, OWN_ENGINE_HELPS, on

_MISTRAL_FORMAT = tuple((f"-- --{kind}", "mistral") for kind in ("tokenizer-mode", "config-format", "load-format"))
_LOG_IN = "log in with `hf auth login` in a terminal, and run the same line again."

FILES = (
    on(
        "no_params_json",
        r"Failed to load mistral 'params\.json' config for model (?P<model>\S+?)\. ",
        cause="vLLM finds no params.json of {model}: it is not in Mistral's format, or not on this machine.",
        remedy="Fetch it first, or load it in the hub's format.",
        changes=(("-- --config-format", "auto"), ("-- --load-format", "auto")),
    ),
    on(
        "no_config_json",
        r"Unrecognized model in (?P<model>\S+?)\. Should have a `model_type` key",
        cause="{model} has no config.json that tells its kind, and the hub's format was asked for.",
        remedy="Leave --config-format away: the files tell which format it is.",
        changes=(("-- --config-format", None),),
    ),
    on(
        "no_weights",
        r"Cannot find any model weights with `(?P<model>[^`]+)`",
        cause="{model} holds no weights of the format that was asked for, or its download was cut.",
        remedy="Run the same line again, which fetches what is missing; look whether it has consolidated*.safetensors "
        "(load format mistral) or model-*.safetensors (auto).",
    ),
    on(
        "hf_tokenizer_missing",
        r"Can't load tokenizer for '(?P<model>mistralai/[^']+)'",
        cause="{model} has Mistral's tokenizer alone (tekken.json), and the hub's format was asked for.",
        remedy="Load it in Mistral's format.",
        changes=_MISTRAL_FORMAT,
    ),
    on(
        "hf_tokenizer_missing",
        r"Can't load tokenizer for '(?P<model>[^']+)'",
        cause="{model} has no tokenizer that vLLM can load.",
        remedy="Fetch the whole repository; with a tekken.json in it add -- --tokenizer-mode mistral.",
    ),
    on(
        "no_tekken",
        r"No tokenizer file found",
        r"Found 0 files matching the pattern",
        r"Make sure that a Mistral tokenizer is present",
        r"No such file or directory: '[^']*tekken\.json",
        r"Entry Not Found for url: \S+/tekken\.json",
        cause="The checkpoint has no Mistral tokenizer: tekken.json is missing.",
        remedy="Put the tekken.json of the model's repository beside the weights, and run the same line again.",
    ),
    on(
        "torn_weights",
        # What vLLM reads before it loads weights: params.json and their head. A Git LFS pointer there claims a head of
        # exabytes, which ends as a MemoryError without a message.
        r"Error parsing config for (?P<model>.+?):"
        r"(?: ?,| ?$| (?:Expecting |Unterminated |Extra data|Invalid |'utf-8'))",
        cause="A file of {model} is not whole: params.json, or its weights, which may be a Git LFS pointer.",
        remedy="Fetch it again (git lfs pull in a clone) and run the same line again.",
    ),
    on(
        "torn_weights",
        r"SafetensorError",
        r"Error while deserializing header",
        r"Consistency check failed: file should be of size",
        cause="A file of weights is not whole: its download was cut, or it is a Git LFS pointer and not the file.",
        remedy="Delete that file (downloads lie in HF_HOME, else in ~/.cache/huggingface) and run the same line again.",
    ),
    on(
        "weights_mismatch",
        r"Following weights were not initialized from checkpoint: \{'(?P<name>[^']+)'",
        cause="The weights lack {name}, which params.json or config.json speaks of.",
        remedy="Take both from the same repository, as it has them.",
    ),
    on(
        "weights_mismatch",
        r"(?P<what>shape '\[[\d, -]+\]' is invalid for input of size \d+)",
        r"(?P<what>Attempted to load weight \(.+?\) into parameter \(.+?\))",
        r"(?P<what>num_heads \(\d+\) is not divisible by num_kv_heads \(\d+\))",
        cause="The weights are not what params.json or config.json says: {what}.",
        remedy="Take both from the same repository, as it has them.",
        loaded=False,
    ),
    on(
        "torn_json",
        r"json\.decoder\.JSONDecodeError: (?P<what>.+)",
        r"Value error, (?P<what>.+: line \d+ column \d+ \(char \d+\))",
        cause="A JSON file that vLLM reads is torn or was edited: {what}.",
        remedy="Mostly it is tekken.json, params.json or an index of the weights: fetch these again.",
    ),
    on(
        "gated",
        r"GatedRepoError",
        r"[Cc]annot access gated repo",
        r"You are trying to access a gated repo",
        r"403 Forbidden: Please enable access to public gated repositories",
        cause="The repository is gated: its owner wants an account with access, and none is logged in here.",
        remedy=f"Ask for access on the model's page, {_LOG_IN}",
    ),
    on(
        "token_refused",
        r"Invalid credentials in Authorization header",
        r"Invalid user token",
        cause="The hub refuses the token that is stored here, or in HF_TOKEN.",
        remedy=f"Remove HF_TOKEN from the environment or renew it: {_LOG_IN}",
    ),
    on(
        "repository_not_found",
        r"Repository Not Found for url: \w+://[^/\s]+/(?:api/models/)?(?P<model>[^/\s]+/[^/\s.]+)",
        r"Invalid repository ID or local directory specified: '(?P<model>[^']+)'",
        r"Repo id must be in the form [^:]+: '(?P<model>[^']+)'",
        cause="There is no repository {model} that you may see, and no folder of that name with a model in it.",
        remedy=f"Check the name; if the repository is private, {_LOG_IN}",
    ),
    on(
        "repository_not_found",
        r"RepositoryNotFoundError",
        r"is not a local folder and is not a valid model identifier",
        cause="There is no such repository and no such folder, or it is private.",
        remedy=f"Check the name; if the repository is private, {_LOG_IN}",
    ),
    on(
        "offline",
        r"outgoing traffic has been disabled",
        r"offline mode is enabled",
        cause="Not all files of the model are on this machine, and HF_HUB_OFFLINE keeps vLLM from fetching them.",
        remedy="Name folders that have them all; or restart the kernel, set HF_HUB_OFFLINE=0 (%env) and name a "
        "repository: what is served from a folder never asks the hub.",
    ),
    on(
        "hub_busy",
        r"429 Client Error",
        r"Too Many Requests for url",
        r"50[0234] Server Error",
        cause="The hub is busy, or answers this address no more for a while.",
        remedy="Wait some minutes, then run the same line again: what was fetched is kept.",
    ),
    on(
        "hub_unreachable",
        r"An error happened while trying to locate the files? on the Hub",
        r"We couldn't connect to '",
        r"Temporary failure in name resolution",
        r"Name or service not known",
        r"Max retries exceeded with url",
        cause="The hub cannot be reached from here, and the model's files are not all on this machine.",
        remedy="Check network and proxy, then run the same line again: what was fetched is kept.",
    ),
    on(
        "disk_full",
        r"\[Errno 28\]",
        r"No space left on device",
        r"Disk quota exceeded",
        r"Not enough free disk space to download",
        cause="The disk is full: Magistral's weights alone take 48 GB.",
        remedy="Free some; or restart the kernel, set HF_HOME to a folder on a larger disk (%env), and run it again.",
    ),
    on(
        "no_permission",
        r"\[Errno (?:13|30)\] [^:]+: '(?P<path>[^']+)'",
        cause="vLLM may not write or read {path}.",
        remedy="Make it yours (chown); or restart the kernel and set HF_HOME and VLLM_CACHE_ROOT (%env) to folders of "
        "yours.",
    ),
    on(
        "too_many_files",
        r"\[Errno 24\] Too many open files",
        cause="vLLM has more files and sockets open than this system allows.",
        remedy="Raise the limit in the shell that starts Jupyter (ulimit -n 65536), and start it again.",
    ),
)

ENGINE = (
    on(
        "mistral_common_pair",
        r"get_lark_from_jinja",
        r"force_tool_names",
        cause="This vLLM and its mistral-common do not fit: from 1.13 on, every question is answered with an error.",
        remedy=f"{OWN_ENGINE_HELPS} Or, in the engine's environment: pip install 'mistral-common>=1.11.6,<1.13'.",
        changes=OWN_ENGINE,
    ),
    on(
        "transformers_v4",
        r"Support for Transformers v4",
        cause="This vLLM needs transformers 5, and the environment it runs in has 4.",
        remedy=OWN_ENGINE_HELPS,
        changes=OWN_ENGINE,
    ),
    on(
        "torch_clash",
        r": undefined symbol: ",
        r"'_OpNamespace' '\w+' object has no attribute",
        cause="A compiled part of the engine was built for another PyTorch than the one in its environment.",
        remedy=OWN_ENGINE_HELPS,
        changes=OWN_ENGINE,
    ),
    on(
        "import_mismatch",
        r"cannot import name '(?P<name>[^']+)' from '(?P<module>[^']+)'",
        cause="The engine's packages do not fit each other: {module} has no {name}.",
        remedy=OWN_ENGINE_HELPS,
        changes=OWN_ENGINE,
    ),
    on(
        "module_missing",
        r"No module named '(?P<module>[^']+)'",
        r"No package metadata was found for (?P<module>\S+)",
        cause="A package of the engine is missing: {module}.",
        remedy=OWN_ENGINE_HELPS,
        changes=OWN_ENGINE,
    ),
    on(
        "system_too_old",
        r"version `(?P<version>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found",
        cause="This Linux is too old for the engine, which wants {version}.",
        remedy="Use a newer Linux or a container with one.",
    ),
    on(
        "arch_unsupported",
        r"Model architectures \[(?P<architecture>[^\]]+)\] are not supported for now",
        cause="This vLLM does not know models of the kind {architecture}.",
        remedy="Take a newer vLLM (--engine PATH), or another model.",
    ),
    on(
        "no_python_h",
        r"fatal error: Python\.h: No such file or directory",
        cause="A kernel is compiled on this machine, and Python's headers are missing.",
        remedy="Install them (apt-get install python3-dev), then run the same line again.",
    ),
    on(
        "no_compiler",
        r"Failed to find C compiler",
        r"No working C\+\+ compiler found",
        cause="A kernel is compiled on this machine, and there is no C compiler.",
        remedy="Install one (apt-get install build-essential), then run the same line again.",
    ),
    on(
        "no_cuda_compiler",
        r"No such file or directory: '(?P<tool>ninja|nvcc)'",
        r"Could not find (?P<tool>nvcc)",
        r"bin/(?P<tool>nvcc): not found",
        r"(?P<tool>Ninja) is required to load C\+\+ extensions",
        cause="FlashInfer compiles a kernel on this machine, and there is no {tool}.",
        remedy="Install CUDA's toolkit and ninja; or set VLLM_USE_FLASHINFER_SAMPLER=0 (%env in a notebook).",
    ),
    on(
        "no_cuda_compiler",
        r"Ninja build failed",
        cause="FlashInfer could not compile a kernel: CUDA's toolkit on this machine does not fit the GPU or the vLLM.",
        remedy="Install the toolkit of vLLM's own CUDA; or set VLLM_USE_FLASHINFER_SAMPLER=0 (%env in a notebook).",
    ),
    on(
        "ready_timeout",
        r"Timed out waiting for engine core processes to start.*?Waited (?P<seconds>\d+)s",
        cause="Loading took longer than the {seconds} s that vLLM waits: a download, or a slow disk.",
        remedy="Set VLLM_ENGINE_READY_TIMEOUT_S=3600 (%env in a notebook) and run it again: what was fetched is kept.",
    ),
    on(
        "ready_timeout",
        r"Timed out waiting for engine core processes to start",
        cause="Loading took longer than vLLM waits: a download, or a slow disk.",
        remedy="Set VLLM_ENGINE_READY_TIMEOUT_S=3600 (%env in a notebook) and run it again: what was fetched is kept.",
    ),
    on(
        "notebook_fileno",
        r"UnsupportedOperation: fileno",
        cause="vLLM ran inside a notebook's kernel, whose output is no file.",
        remedy="Start it with %magistral_serve, which gives it a process and a log of its own.",
    ),
)
