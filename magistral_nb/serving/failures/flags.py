"""Flags that do not fit the vLLM, the model or the machine."""

from __future__ import annotations

from magistral_nb.serving.failures.failure import (
    context_that_fits,
    on,
    without_flags,
)

FLAGS = (
    on(
        "unknown_flag",
        r"error: unrecognized arguments: (?P<words>[^-\s]\S*)$",
        cause="vLLM does not know what {words} is for.",
        remedy="Name the model before the --, not with --model, and give each flag behind it its own values only.",
        changes=(("-- --model", None),),
    ),
    on(
        "unknown_flag",
        r"error: unrecognized arguments: (?P<flags>.+)",
        cause="This vLLM does not know {flags}.",
        remedy="Leave it away, or look for its new name: `vllm serve --help=all`.",
        changes=without_flags,
    ),
    on(
        "flag_value",
        r"error: argument (?P<flags>--dtype): invalid choice: '(?P<why>fp8\w*)'",
        cause="{flags} {why} does not exist: a dtype is what is computed in, and FP8 weights are a quantisation.",
        remedy="Leave it away: on a GPU the weights become FP8 unless you say --quantization none.",
        changes=without_flags,
    ),
    on(
        "flag_value",
        r"error: argument (?P<flags>-[^:\s]+): (?P<why>[^(\n]+)",
        cause="vLLM refuses {flags}: {why}.",
        remedy="Give it a value that it takes, or leave it away.",
        changes=without_flags,
    ),
    on(
        "unknown_quantization",
        r"Unknown quantization method: (?P<method>[^.\s]+)",
        cause="This vLLM does not know the quantisation {method}.",
        remedy="Leave it away: on a GPU the weights become FP8 by themselves.",
        changes=(("-- --quantization", None),),
    ),
    on(
        "unknown_parser",
        r"Reasoning parser '(?P<name>[^']+)' not found",
        r"invalid reasoning parser: (?P<name>\S+)",
        cause="This vLLM has no reasoning parser named {name}.",
        remedy="Magistral's is called mistral.",
        changes=(("-- --reasoning-parser", "mistral"),),
    ),
    on(
        "unknown_parser",
        r"invalid tool call parser: (?P<name>\S+)",
        cause="This vLLM has no tool call parser named {name}.",
        remedy="Magistral's is called mistral.",
        changes=(("-- --tool-call-parser", "mistral"),),
    ),
    on(
        "context_beyond_model",
        r"max_model_len \((?P<wished>\d+)\) is greater than the derived max_model_len \([^=]*=(?P<fits>\d+)",
        cause="A context of {wished} tokens was asked for, and the model was made for {fits}.",
        remedy="Take the model's own.",
        changes=context_that_fits,
    ),
    on(
        "batch_below_context",
        r"max_num_batched_tokens \((?P<batch>\d+)\) is smaller than max_model_len \((?P<wished>\d+)\)",
        cause="A prompt of {wished} tokens does not fit a batch of {batch}, and may not be cut into chunks.",
        remedy="Let vLLM cut prompts into chunks.",
        changes=(("-- --no-enable-chunked-prefill", None), ("-- --enable-chunked-prefill", "")),
    ),
    on(
        "batch_below_requests",
        r"max_num_batched_tokens \((?P<batch>\d+)\) must be greater than or equal to max_num_seqs "
        r"\((?P<requests>\d+)\)",
        cause="A batch of {batch} tokens cannot serve {requests} requests at once.",
        remedy="Serve fewer requests at once.",
        changes=lambda figures: (("-- --max-num-seqs", figures["batch"]),),
    ),
    on(
        "sleep_unsupported",
        r"Sleep mode is not supported on current platform",
        cause="vLLM's sleep mode needs a GPU.",
        remedy="Leave --enable-sleep-mode away.",
        changes=(("-- --enable-sleep-mode", None),),
    ),
    on(
        "not_mistral_tokenizer",
        r"The tokenizer must be an instance of MistralTokenizer",
        cause="The reasoning parser mistral wants Mistral's own tokenizer, and another one was loaded.",
        remedy="Load tekken.json, which must lie beside the weights.",
        changes=(("-- --tokenizer-mode", "mistral"),),
    ),
    on(
        "no_think_tokens",
        r"could not locate think (?:start|end)",
        cause="This model has no control tokens around its thinking: it writes <think> as text, or does not reason.",
        remedy="Do without vLLM's reasoning parser: the thinking is told apart here.",
        changes=(("-- --reasoning-parser=", ""),),
    ),
    on(
        "port_in_use",
        r"error while attempting to bind on address \('[^']*', (?P<port>\d+)",
        cause="Port {port} is taken by another program.",
        remedy="Leave --port away and a free one is found; %magistral_status shows servers that run already.",
        changes=(("--port", None),),
    ),
    on(
        "port_in_use",
        r"\[Errno 98\]|[Aa]ddress already in use",
        cause="The port is taken by another program.",
        remedy="Leave --port away and a free one is found; %magistral_status shows servers that run already.",
        changes=(("--port", None),),
    ),
)
