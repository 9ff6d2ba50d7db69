"""How often abacus is right, on the real vLLM: by skill, wording, thinking budget, temperature and votes.

    python tests/bench/abacus_accuracy.py [--model FOLDER] [--n 200] [--parts speed cells budget …] [--kinds add …]

Problems are drawn by `magistral_nb.abacus.generator`: calculations and wordings that training has never seen, and
for comparison wordings that it has. All is asked through `magistral_nb.areason`, greedy where nothing else is said;
a second turn, which that cannot ask, goes to the server as messages. The interval is Wilson's at 95 %. Prints
Markdown for the model card.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from abacus.verify import attempts, false_checks, false_equations

import magistral_nb
from magistral_nb import paths
from magistral_nb.abacus.generator import LEVELS, NOT_ARITHMETIC, Problem, evaluation, is_refusal, is_right
from magistral_nb.asking.endpoint import system_content

SEED = 20261122
AT_ONCE = 64
ABACUS = Path(magistral_nb.__file__).parent / "abacus"
BUDGETS = (0, 50, 100, 200, 400, 800)
VOTES, HARDEST = 8, 2
GROWING = ("add", "subtract", "multiply")
CELLS = [(kind, level) for kind, levels in LEVELS.items() for level in range(1, levels + 1)]


class Said(NamedTuple):
    """What came of one question."""

    problem: Problem
    thinking: str
    text: str
    tokens: int
    finish: str

    @property
    def right(self) -> bool:
        return is_right(self.problem.truth, self.text)


_gate = asyncio.Semaphore(AT_ONCE)


async def ask(problems: list[Problem], **how: float) -> list[Said]:
    """All of them, many at once, whoever else asks."""

    async def one(problem: Problem) -> Said:
        async with _gate:
            if "\n" in problem.question:
                return await asyncio.to_thread(second_turn, problem, how.get("temperature", 0))
            answer = await magistral_nb.areason(problem.question, **{"temperature": 0} | how)
            return Said(problem, answer.thinking, answer.text, answer.usage.thinking_tokens or 0, answer.finish_reason)

    return await asyncio.gather(*map(one, problems))


def second_turn(problem: Problem, temperature: float) -> Said:
    """A question with what was said before it."""
    server = magistral_nb.servers()[0]
    messages = [{"role": "system", "content": system_content(server.endpoint.system_prompt)}]
    for at, turn in enumerate(problem.question.split("\n")):
        messages.append({"role": "assistant" if at % 2 else "user", "content": turn})
    body = {"model": server.model, "messages": messages, "temperature": temperature}
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as reply:
        said = json.load(reply)
    message, usage = said["choices"][0]["message"], said["usage"]
    thinking = message.get("reasoning") or message.get("reasoning_content") or ""
    text = message.get("content") or ""
    return Said(problem, thinking, text, usage["completion_tokens"], said["choices"][0]["finish_reason"])


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, p = 1.96, right / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def share(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{right / n:.1%} ({low:.1%}–{high:.1%})"


# The tables


async def speed(boot_seconds: float) -> None:
    """From nothing to a first answer, and one stream alone."""
    began = time.monotonic()
    await magistral_nb.areason("What is 347 × 58?", temperature=0)
    first = boot_seconds + time.monotonic() - began
    answers = [await magistral_nb.areason(f"What is {n} × 58?", temperature=0) for n in range(341, 346)]
    rate = statistics.median(answer.tokens_per_second for answer in answers)
    print(f"Booted after {boot_seconds:.0f} s, first answer after {first:.0f} s; one stream: {rate:.0f} tokens/s.\n")


async def cells(chosen: list[tuple[str, int]], n: int) -> dict[tuple[str, int], float]:
    """By skill: held-out and seen wordings, length, refusals, what is false in the traces."""
    print(f"| kind | level | trace, tokens | held-out wordings, n = {n} | seen wordings | refused | false checks |")
    print("|---|---|---|---|---|---|---|")
    shares, lengths, slipped = {}, [], Counter()
    asked = {
        (*cell, seen): asyncio.create_task(ask(evaluation(cell[0], n, SEED, cell[1], seen=seen)))
        for cell in chosen
        for seen in (False, True)
    }
    for kind, level in chosen:
        unseen, seen = await asked[kind, level, False], await asked[kind, level, True]
        both = [*unseen, *seen]
        refused = sum(is_refusal(said.text) for said in both if said.problem.truth != NOT_ARITHMETIC)
        false = sum(bool(false_checks(said.thinking)) for said in both)
        slipped["false equations"] += sum(bool(false_equations(attempts(said.thinking)[-1])) for said in both)
        slipped["traces"] += len(both)
        shares[kind, level] = sum(said.right for said in unseen) / n
        lengths += [(kind, level, said.tokens) for said in both]
        right = [share(sum(said.right for said in some), n) for some in (unseen, seen)]
        tokens = statistics.mean(said.tokens for said in both)
        print(f"| {kind} | {level} | {tokens:.0f} | {right[0]} | {right[1]} | {refused} | {false} |", flush=True)
    print(f"\nTraces whose last attempt holds a false equation: {slipped['false equations']} of {slipped['traces']}.")
    for kind in GROWING:
        pairs = [(level, tokens) for each, level, tokens in lengths if each == kind]
        if len(pairs) > 1:
            print(f"Rank correlation of level and trace length, {kind}: {spearman(pairs):.3f}.")
    return shares


async def budget(chosen: list[tuple[str, int]], n: int) -> None:
    """By thinking budget, on all skills mixed."""
    problems = [problem for kind, level in chosen for problem in evaluation(kind, n, SEED + 1, level, seen=False)]
    problems = [problem for problem in problems if "\n" not in problem.question and problem.work]
    print(f"\n| thinking budget | right, n = {len(problems)} | cut | median relative error: cut | all |")
    print("|---|---|---|---|---|")
    for tokens in BUDGETS:
        said = await ask(problems, thinking_budget=tokens)
        cut = [each for each in said if each.finish == "budget"]
        errors = [median_error(some) for some in (cut, said)]
        right = share(sum(each.right for each in said), len(said))
        print(f"| {tokens} | {right} | {len(cut) / len(said):.0%} | {errors[0]} | {errors[1]} |", flush=True)


async def slips(chosen: list[tuple[str, int]], n: int) -> None:
    """By temperature: slips that the model notices, and how it ends then."""
    print(f"\n| temperature | right, n = {n * len(chosen)} | a slip noticed | of these right |")
    print("|---|---|---|---|")
    problems = [problem for kind, level in chosen for problem in evaluation(kind, n, SEED + 2, level, seen=False)]
    for temperature in (0.0, 0.7, 1.0):
        said = await ask(problems, temperature=temperature, seed=SEED)
        noticed = [each for each in said if re.search(r"Wait|a slip", each.thinking)]
        right = share(sum(each.right for each in said), len(said))
        ended = share(sum(each.right for each in noticed), len(noticed)) if noticed else "-"
        print(f"| {temperature} | {right} | {len(noticed)} | {ended} |", flush=True)


async def votes(hardest: list[tuple[str, int]], n: int) -> None:
    """One sample at temperature 1.0 against a vote of several."""
    print(f"\n| kind | level | one sample, n = {n} × {VOTES} | vote of {VOTES} |\n|---|---|---|---|")
    for kind, level in hardest:
        problems = evaluation(kind, n, SEED + 3, level, seen=False)
        said = [await ask(problems, temperature=1.0, seed=SEED + nth) for nth in range(VOTES)]
        single = sum(each.right for some in said for each in some)
        voted = 0
        for at, problem in enumerate(problems):
            texts = Counter(some[at].text for some in said)
            voted += is_right(problem.truth, texts.most_common(1)[0][0])
        print(f"| {kind} | {level} | {share(single, n * VOTES)} | {share(voted, n)} |", flush=True)


def median_error(said: list[Said]) -> str:
    """Of the answers that are numbers, against the truth."""
    errors = []
    for each in said:
        truth = re.match(r"-?[\d.]+(?= |$)", each.problem.truth)
        guess = re.search(r"(?:= |is )(?:about )?(-?\d[\d.]*?)(?=\.?$| [a-z])", each.text)
        if truth and "?" not in each.problem.work and each.problem.work[0] not in "<>" and float(truth[0]):
            errors.append(abs(float(guess[1]) / float(truth[0]) - 1) if guess else math.inf)
    return f"{statistics.median(errors):.2%}" if errors else "-"


def spearman(pairs: list[tuple[float, float]]) -> float:
    """Rank correlation, ties sharing their mean rank."""
    return statistics.correlation(*(ranks(column) for column in zip(*pairs, strict=True)))


def ranks(values: tuple[float, ...]) -> list[float]:
    first, counts = {}, Counter(values)
    for at, value in enumerate(sorted(values)):
        first.setdefault(value, at)
    return [first[value] + (counts[value] - 1) / 2 for value in values]


async def measure(options: argparse.Namespace, boot_seconds: float) -> None:
    if "speed" in options.parts:
        await speed(boot_seconds)
    chosen = [(kind, level) for kind, level in CELLS if not options.kinds or kind in options.kinds]
    shares = {}
    if "cells" in options.parts:
        shares = await cells(chosen, options.n)
    calculated = [cell for cell in chosen if cell[0] not in {"off-domain", "second turn"}]
    if "budget" in options.parts:
        await budget(calculated, max(1, options.n // 10))
    if "slips" in options.parts:
        await slips(calculated, max(1, options.n // 10))
    if "votes" in options.parts:
        await votes(sorted(calculated, key=shares.__getitem__)[:HARDEST], max(1, options.n // 2))


def main() -> None:
    """Boot the engine and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ABACUS, help="a folder in Mistral's format")
    parser.add_argument("--n", type=int, default=200, help="problems in a cell")
    parser.add_argument("--parts", nargs="+", default=["speed", "cells", "budget", "slips", "votes"])
    parser.add_argument("--kinds", nargs="+", choices=LEVELS, default=[])
    options = parser.parse_args()
    if "votes" in options.parts and "cells" not in options.parts:
        parser.error("votes are asked on the hardest cells: add cells to --parts")
    engines = paths.engines()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[paths.HOME_VARIABLE] = folder
        (Path(folder) / "cache").mkdir()
        (Path(folder) / "cache" / "engines").symlink_to(engines)
        began = time.monotonic()
        server = magistral_nb.serve(str(options.model.absolute()))
        boot_seconds = time.monotonic() - began
        try:
            with urllib.request.urlopen(server.base_url.replace("/v1", "/version"), timeout=10) as reply:
                engine = json.load(reply)["version"]
            commit = subprocess.run(
                ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
            ).stdout.strip()
            print(f"{time.strftime('%Y-%m-%d')}, commit {commit}, vLLM {engine}, Python {platform.python_version()}\n")
            asyncio.run(measure(options, boot_seconds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
