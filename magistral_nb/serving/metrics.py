"""What a vLLM says of itself on its /metrics page: requests, tokens, and how full its KV cache is."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magistral_nb.dialect import KV_CACHE_GAUGES
from magistral_nb.errors import Rejected

if TYPE_CHECKING:
    from magistral_nb.asking.endpoint import Endpoint

_SECONDS = 2.0  # a page of 60 kB that is made in milliseconds
# Newest name first, and the first that stands counts. Counters are looked for without the "_total" that most exporting
# libraries put behind them.
_RUNNING = ("vllm:num_requests_running",)
_WAITING = ("vllm:num_requests_waiting",)
_GENERATED = ("vllm:generation_tokens",)
_PROMPT = ("vllm:prompt_tokens",)
_FINISHED = ("vllm:request_success",)
_PREEMPTIONS = ("vllm:num_preemptions",)
_HITS = ("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits")
_QUERIES = ("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries")
_LOOKED_FOR = (
    *_RUNNING,
    *_WAITING,
    *KV_CACHE_GAUGES,
    *_GENERATED,
    *_PROMPT,
    *_FINISHED,
    *_PREEMPTIONS,
    *_HITS,
    *_QUERIES,
)
# "name{labels} value [timestamp]"; a label's value may hold anything, also braces and spaces, but no bare line feed.
_SAMPLE = re.compile(r"([\w:]+)(?:\{.*\})?\s+(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A server at one moment; counts are since it booted, and of all its engines together.

    Attributes:
        when: seconds, of any clock that does not go back.
        running: requests that are computed now.
        waiting: requests that are in the queue.
        kv_cache_share: 0 to 1, what running requests hold of the KV cache. With data parallelism that of the fullest
            engine: a request lives in one engine, and is preempted there however empty the others are.
        generated_tokens: thinking and answers.
        prompt_tokens: as asked, also those that the prefix cache knew.
        finished: requests that ended, whether by themselves, cut, aborted or failed.
        preemptions: how often a running request was put back, to be computed again.
        prefix_hits: prompt tokens that the prefix cache knew; None where it is not told.
        prefix_queries: prompt tokens that it was asked for; None where it is not told.
        engines: of data parallelism, each with a KV cache and a --max-num-seqs of its own.
    """

    when: float
    running: int
    waiting: int
    kv_cache_share: float
    generated_tokens: int
    prompt_tokens: int
    finished: int
    preemptions: int
    prefix_hits: int | None = None
    prefix_queries: int | None = None
    engines: int = 1

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.running == self.waiting == 0

    def restarted_since(self, earlier: Metrics) -> bool:
        """Whether the engine booted anew in between: no counter goes back otherwise."""
        return (
            self.generated_tokens < earlier.generated_tokens
            or self.prompt_tokens < earlier.prompt_tokens
            or self.finished < earlier.finished
            or self.preemptions < earlier.preemptions
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a server was between two moments.

    Attributes:
        seconds: between them.
        tokens_per_second: generated, of all requests together.
        requests_per_second: finished.
    """

    seconds: float
    tokens_per_second: float
    requests_per_second: float


def rates(earlier: Metrics, later: Metrics) -> Rates | None:
    """How fast the server was; None where no time went by, or where the engine restarted.

    Example:
        >>> from dataclasses import replace
        >>> earlier = Metrics(
        ...     when=10.0, running=3, waiting=0, kv_cache_share=0.2, generated_tokens=100, prompt_tokens=9, finished=1,
        ...     preemptions=0,
        ... )
        >>> rates(earlier, replace(earlier, when=12.0, generated_tokens=380))
        Rates(seconds=2.0, tokens_per_second=140.0, requests_per_second=0.0)
    """
    seconds = later.when - earlier.when
    if seconds <= 0 or later.restarted_since(earlier):
        return None
    return Rates(
        seconds,
        (later.generated_tokens - earlier.generated_tokens) / seconds,
        (later.finished - earlier.finished) / seconds,
    )


def parse(text: str, when: float) -> Metrics:
    r"""Read a /metrics page.

    It looks at the dozen lines that matter. prometheus_client's parser reads all of them: 14.5 ms for the 569 lines
    of vLLM 0.32, which once a second is more than the hundredth of a CPU that watching a server may cost, and
    113 ms and 12 MB to import where nothing else is loaded. This takes 0.2 ms.

    Args:
        text: in Prometheus' exposition format.
        when: seconds.

    Raises:
        ValueError: it is no page of a vLLM.

    Example:
        >>> page = 'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_running{engine="1"} 4.0\n'
        >>> page += 'vllm:num_requests_waiting 0.0\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        >>> metrics = parse(page, when=0.0)
        >>> metrics.running, metrics.kv_cache_share, metrics.engines
        (7, 0.25, 2)
    """
    samples: dict[str, list[float]] = {}
    for line in text.split("\n"):  # splitlines would also break at what a label's value may hold
        if line.startswith(_LOOKED_FOR) and (match := _SAMPLE.match(line)):
            value = float(match[2])
            if math.isfinite(value):
                samples.setdefault(match[1].removesuffix("_total"), []).append(value)
    running = _gauge(samples, _RUNNING)
    return Metrics(
        when=when,
        running=int(sum(running)),
        waiting=int(sum(_gauge(samples, _WAITING))),
        kv_cache_share=max(_gauge(samples, KV_CACHE_GAUGES)),
        # A counter that has never been raised need not be shown.
        generated_tokens=_count(samples, _GENERATED) or 0,
        prompt_tokens=_count(samples, _PROMPT) or 0,
        finished=_count(samples, _FINISHED) or 0,
        preemptions=_count(samples, _PREEMPTIONS) or 0,
        prefix_hits=_count(samples, _HITS),
        prefix_queries=_count(samples, _QUERIES),
        engines=len(running),
    )


def read(endpoint: Endpoint, timeout: float = _SECONDS) -> Metrics:
    """Ask a server for its metrics, as of `time.monotonic`.

    Args:
        endpoint: a vLLM; the page lies beside its "/v1".
        timeout: seconds for the connection, and for each piece of the page.

    Raises:
        Unreachable: nothing answers there, or not in time.
        Unauthorized: it wants another key for this page.
        Rejected: it has no such page, or not a vLLM's.

    Example:
        >>> from magistral_nb.serving.server import find_server
        >>> read(find_server().endpoint).running  # doctest: +SKIP
        3
    """
    import openai

    from magistral_nb.asking.client import client_for, explain

    try:
        text = client_for(endpoint).get(f"{endpoint.root_url}/metrics", cast_to=str, options={"timeout": timeout})
        return parse(text, time.monotonic())
    except (openai.NotFoundError, ValueError) as error:
        raise Rejected(
            f"{endpoint.base_url} has no /metrics page of a vLLM, and other servers tell nothing of that: "
            "%magistral_serve starts a vLLM, %magistral_connect URL reaches one."
        ) from error
    except openai.OpenAIError as error:
        raise explain(error, endpoint) from error


def _gauge(samples: dict[str, list[float]], names: tuple[str, ...]) -> list[float]:
    for name in names:
        if name in samples:
            return samples[name]
    raise ValueError(f"no {names[0]} on this page")


def _count(samples: dict[str, list[float]], names: tuple[str, ...]) -> int | None:
    return next((int(sum(samples[name])) for name in names if name in samples), None)
