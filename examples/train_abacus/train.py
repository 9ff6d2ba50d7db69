"""Train abacus from scratch on two CPU cores; stop and go on at will.

    PYTHONPATH=. python examples/train_abacus/train.py OUT --seconds 3600
    PYTHONPATH=. python examples/train_abacus/train.py OUT --seconds 900 --decay

Two processes of one thread each share the parameters. The learning rate stays flat, however often this is called;
with --decay it falls to zero within --seconds, and what comes out, OUT/final.pt, is what is exported.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch._dynamo
import torch.multiprocessing as mp
from model import Model, Shape
from optimizer import Optimizer
from tokenizer import PAD, Tokenizer
from torch import Tensor
from torch.nn import functional

from examples import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Barrier

PROCESSES = 2
# Lengths, and how many examples of this length go into a batch; a few longer ones are left out.
BUCKETS = ((160, 26), (288, 14), (448, 9), (704, 6), (1152, 3))
TOKENS_A_STEP = 4096  # what the loss of a step is divided by
WARM_UP, REPORT, SAVE_SECONDS = 100, 50, 180

torch._dynamo.config.recompile_limit = 64  # noqa: SLF001 - one graph for each bucket


class Batch(NamedTuple):
    """Inputs, targets, and how much each counts."""

    ids: Tensor
    targets: Tensor
    weights: Tensor


class Shared(NamedTuple):
    """What both processes see."""

    model: Model
    gradients: list[list[Tensor]]
    state: list[list[Tensor]]  # of the optimizer
    counts: Tensor  # steps, then the next chunk of data of each process, then statistics
    stop: Tensor
    barrier: Barrier


def batches(seed: int, rank: int, tokenizer: Tokenizer, counts: Tensor) -> Iterator[Batch]:
    """Examples of about the same length together, in random order."""
    waiting: dict[tuple[int, int], list[tuple[list[int], list[float]]]] = {bucket: [] for bucket in BUCKETS}
    shuffle = torch.Generator().manual_seed(seed + rank)
    for chunk in stream(seed, rank, int(counts[1 + rank]), tokenizer):
        counts[1 + rank] += 1
        ready = []
        for each in chunk:
            bucket = next((bucket for bucket in BUCKETS if len(each.ids) <= bucket[0] + 1), None)
            if bucket:
                waiting[bucket].append((each.ids, each.weights))
        for (length, size), queue in waiting.items():
            while len(queue) >= size:
                ids, weights = torch.full((size, length + 1), PAD), torch.zeros(size, length + 1)
                for row in range(size):
                    tokens, counted = queue.pop()
                    ids[row, : len(tokens)] = torch.tensor(tokens)
                    weights[row, : len(tokens)] = torch.tensor(counted)
                ready.append(Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()))
        for at in torch.randperm(len(ready), generator=shuffle).tolist():
            yield ready[at]


def losses(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss to be minimised, and that of each token."""
    logits = model(batch.ids).float().view(-1, model.shape.vocabulary)
    each = functional.cross_entropy(logits, batch.targets.view(-1), reduction="none")
    return (each * batch.weights.view(-1)).sum() / TOKENS_A_STEP, each


def compile_all(model: Model, *, tell: bool) -> Callable[[Model, Batch], tuple[Tensor, Tensor]]:
    """Compile the step for each length, which takes minutes once."""
    compiled: Callable[[Model, Batch], tuple[Tensor, Tensor]] = torch.compile(losses, dynamic=False)
    for length, size in BUCKETS:
        if tell:
            print(f"compiling for {size} × {length} tokens", flush=True)
        nothing = torch.zeros(size, length, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            compiled(model, Batch(nothing, nothing.clone(), torch.zeros(size, length)))[0].backward()
        model.zero_grad(set_to_none=True)
    return compiled


def work(rank: int, shared: Shared, options: argparse.Namespace) -> None:
    """One process: a gradient of its own batch, then its share of the update."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    model, counts = shared.model, shared.counts
    parameters = list(model.parameters())
    optimizer = Optimizer(model, shared.state, options.rate, rank, PROCESSES)
    compiled = compile_all(model, tell=rank == 0)
    shared.barrier.wait()
    began = saved = time.monotonic()
    data = batches(options.seed, rank, Tokenizer(options.folder / "tekken.json"), counts)
    seen = torch.zeros(4, dtype=torch.float64)  # loss, tokens that count, those that were hard, all tokens
    while True:
        passed = (time.monotonic() - began) / options.seconds
        if rank == 0:
            shared.stop[0] = passed
        shared.barrier.wait()
        passed = float(shared.stop[0])
        if passed >= 1:
            break
        batch = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            loss, each = compiled(model, batch)
        loss.backward()
        for gradient, parameter in zip(shared.gradients[rank], parameters, strict=True):
            gradient.copy_(parameter.grad)
            parameter.grad = None
        weights = batch.weights.view(-1)
        with torch.no_grad():
            hard = ((each > 0.7) & (weights > 0)).sum()  # noqa: PLR2004 - less likely than a coin's side
            seen += torch.stack([(each * weights).sum(), weights.sum(), hard, torch.tensor(weights.numel())])
        shared.barrier.wait()
        step = int(counts[0]) + 1
        optimizer.step(step, min(1, step / WARM_UP) * (1 - passed if options.decay else 1), shared.gradients)
        shared.barrier.wait()
        if rank == 0:
            counts[0] = step
        if step % REPORT == 0:
            counts[3 + 4 * rank : 7 + 4 * rank] = seen
            seen.zero_()
            shared.barrier.wait()
            if rank == 0:
                report(counts, time.monotonic() - began)
                if time.monotonic() - saved > SAVE_SECONDS:
                    save(options.folder / ("decay.pt" if options.decay else "flat.pt"), shared)
                    saved = time.monotonic()
        shared.barrier.wait()
    if rank == 0:
        save(options.folder / ("final.pt" if options.decay else "flat.pt"), shared)


def report(counts: Tensor, seconds: float) -> None:
    """One line on how it goes."""
    total, counted, hard, tokens = (counts[3:7] + counts[7:11]).tolist()
    speed = tokens / (seconds - float(counts[11]))
    counts[11] = seconds
    print(
        f"step {int(counts[0]):,}, {seconds:,.0f} s: loss {total / counted:.4f}, hard {hard / counted:.2%}, "
        f"{speed:,.0f} tokens/s",
        flush=True,
    )


def save(path: Path, shared: Shared) -> None:
    """A checkpoint from which training can go on, replaced at once."""
    new = path.with_suffix(".new")
    torch.save(
        {
            "shape": asdict(shared.model.shape),
            "model": shared.model.state_dict(),
            "optimizer": shared.state,
            "counts": shared.counts,
        },
        new,
    )
    new.replace(path)


def main() -> None:
    """Start both processes, where the last call left off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds tekken.json and, later, the checkpoints")
    parser.add_argument("--seconds", type=float, default=3600, help="when to stop")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=1, help="of weights and data")
    parser.add_argument("--decay", action="store_true", help="let the learning rate fall to zero, and finish")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = Model(Shape())
    state, counts = Optimizer.fresh_state(model), torch.zeros(12, dtype=torch.float64)
    if (options.folder / "flat.pt").is_file():
        checkpoint = torch.load(options.folder / "flat.pt")
        model.load_state_dict(checkpoint["model"])
        state, counts = checkpoint["optimizer"], checkpoint["counts"]
        counts[11] = 0  # when the last report was
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, from step {int(counts[0]):,}", flush=True)
    model.share_memory()
    gradients = [[torch.zeros_like(each).share_memory_() for each in model.parameters()] for _ in range(PROCESSES)]
    shared = Shared(
        model,
        gradients,
        [[tensor.share_memory_() for tensor in each] for each in state],
        counts.share_memory_(),
        torch.zeros(1, dtype=torch.float64).share_memory_(),
        mp.get_context("spawn").Barrier(PROCESSES),
    )
    mp.spawn(work, (shared, options), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
