"""How a boot ends without a cause of its own: refused questions, signals, errors that only point further up."""

from __future__ import annotations

from magistral_nb.serving.failures.failure import Failure, on, planned_context

_LOGS = "%magistral_logs shows the whole log."

REQUESTS = (
    on(
        "context_overflow",
        r"maximum context length is (?P<context>\d+) tokens.*?(?:prompt contains|request has) (?:at least )?"
        r"(?P<prompt>\d+) input tokens",
        cause="A question of {prompt} tokens and its answer do not fit the context of {context} tokens.",
        remedy="Take a longer context: without --context the plan chooses one.",
        changes=planned_context,
    ),
    on(
        "context_overflow",
        r"cannot be greater than max_model_len ?= ?(?P<context>\d+)",
        r"maximum context length is (?P<context>\d+) tokens",
        cause="A question and its answer do not fit the context of {context} tokens.",
        remedy="Take a longer context, or ask for fewer tokens.",
    ),
    on(
        "chat_template_rejected",
        r"chat_template is not supported for Mistral tokenizers",
        cause="The question brought a chat template, which Mistral's tokenizer does not take.",
        remedy="Leave chat_template and chat_template_kwargs away: the system prompt steers the thinking.",
    ),
    on(
        "no_chat_template",
        r"default chat template is no longer allowed",
        cause="The tokenizer has no chat template, so that vLLM cannot word a question for the model.",
        remedy="Take Mistral's own tokenizer, where a tekken.json lies beside the weights; else name a template: "
        "-- --chat-template FILE.",
        changes=(("-- --tokenizer-mode", "mistral"),),
    ),
    on(
        "reasoning_effort_rejected",
        r"reasoning_effort=(?P<effort>\S+) is not supported by Mistral models",
        cause="The question asked for the reasoning effort {effort}, which Mistral's tokenizer does not know.",
        remedy="Leave it away: Magistral does not use it.",
    ),
    on(
        "renamed",
        r"The model `(?P<model>[^`]+)` does not exist",
        cause="The server does not know its model as {model}: a raw flag gave it another name.",
        remedy="Leave --served-model-name away.",
        changes=(("-- --served-model-name", None),),
    ),
)

WRAPPERS = (
    on(
        "arch_unsupported",
        r"Model architectures \[(?P<architecture>[^\]]+)\] failed to be inspected",
        cause="vLLM could not load its own code for models of the kind {architecture}.",
        remedy=f"A package of the engine is broken or missing: {_LOGS}",
    ),
    on(
        "engine_dead",
        r"EngineCore encountered an issue",
        r"EngineCore encountered a fatal error",
        cause="The engine died while it served, and did not say why.",
        remedy=f"Run the same line again; {_LOGS}",
    ),
    on(
        "engine_init_wrapper",
        r"Engine core initialization failed",
        r"Frontend process failed during engine core initialization",
        r"EngineCore (?:failed to start|hit an exception)",
        r"WorkerProc (?:initialization failed|failed to start|hit an exception)",
        r"Engine (?:core )?proc(?:ess)?\b.* (?:died unexpectedly|failed to start)",
        r"Worker proc \S+ died unexpectedly",
        r"[Ss]ee (?:the )?(?:stack trace|root cause)",
        r"check the stack trace above",
        cause="The engine's process ended and did not say why.",
        remedy=f"Often the machine's memory ran out: end other programs, or take a smaller model. {_LOGS}",
    ),
    # What other processes say when the one that failed is gone.
    on(
        "engine_init_wrapper",
        r"^(?:\w+\.)*(?:BrokenPipeError|ConnectionResetError|EOFError|CancelledError|KeyboardInterrupt|SystemExit)\b",
        r"RuntimeError: cancelled",
        r"RPC call to \S+ timed out",
        r"Connection (?:closed|reset) by peer",
        r"NCCL error: remote process|NCCL error in: \S+, remote process",
        cause="A process of the engine ended and did not say why.",
        remedy=f"Often the machine's memory ran out: end other programs, or take a smaller model. {_LOGS}",
    ),
)

WARNINGS = (
    on(
        "dtype_fallback",
        r"Your device (?P<device>.+?) doesn't support (?P<wished>\S+)\. Falling back to (?P<taken>\S+) for",
        cause="The log shows no error; its last warning: {device} has no {wished} and computes in {taken}.",
        remedy=f"That alone ends nothing, but it is slow and rounds differently. {_LOGS}",
    ),
)

# What the number of a signal says where the log says nothing. Linux's numbers, as engines run there; by name they would
# be missing on Windows, where people connect.
SIGNALS: dict[int, Failure] = {
    9: on(
        "killed",
        cause="The engine was killed (SIGKILL), mostly by the system because the machine's memory ran out.",
        remedy="End other programs and kernels, take a smaller model, or a machine with more memory.",
    ),
    4: on(
        "illegal_instruction",
        cause="The engine used an instruction that this processor does not have, or keeps from it (SIGILL).",
        remedy="Leave --engine away: the engine that --install makes asks Linux for what vLLM needs; a processor "
        "without AVX2 is too old.",
    ),
    11: on(
        "segfault",
        cause="The engine crashed in compiled code (SIGSEGV).",
        remedy="Run the same line again; if it comes back, do without CUDA graphs.",
        changes=(("-- --enforce-eager", ""),),
    ),
    7: on(
        "bus_error",
        cause="The engine lost memory that it used (SIGBUS): /dev/shm is too small, or a file of weights was cut.",
        remedy="Start the container with --shm-size=8g or --ipc=host; free the disk that the weights lie on.",
    ),
    6: on(
        "aborted",
        cause="The engine gave up in compiled code (SIGABRT).",
        remedy=_LOGS,
    ),
    15: on(
        "terminated",
        cause="Something else ended the engine (SIGTERM).",
        remedy="Run the same line again; look whether a job system or a container has a time limit.",
    ),
}
