"""A sample of what abacus can do, on the real engine; tests/bench/abacus_accuracy.py has the full tables."""

import asyncio
import os
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from abacus.verify import false_checks
from openai import OpenAI

import magistral_nb
from magistral_nb.abacus.generator import LEVELS, evaluation, is_refusal, is_right
from magistral_nb.serving.engine import find_engine
from magistral_nb.serving.server import find_server

pytestmark = pytest.mark.engine

# Six of a cell say little of it, but greedy answers to the same questions stay the same: what falls has changed.
SEED, TIMES = 4, 6
OF_A_KIND, OVERALL = 0.5, 0.85
BUDGETS = (0, 100, 800)
_asked = []  # once for all tests: each has a home of its own, in which a fixture of the module would not be
ROOT = Path(__file__).parents[2]


async def ask(problems, server, **how):
    gate = asyncio.Semaphore(16)

    async def one(problem):
        async with gate:
            return await magistral_nb.areason(problem.question, server=server, temperature=0, **how)

    return list(zip(problems, await asyncio.gather(*map(one, problems)), strict=True))


def sample(times, seed):
    return [
        problem
        for kind, levels in LEVELS.items()
        if kind != "second turn"
        for level in range(1, levels + 1)
        for problem in evaluation(kind, times, seed, level, seen=False)
    ]


@pytest.fixture
def asked(abacus):
    if not _asked:
        _asked.extend(asyncio.run(ask(sample(TIMES, SEED), abacus)))
    return _asked


def test_most_answers_are_right_in_every_kind(asked):
    right = defaultdict(list)
    for problem, answer in asked:
        right[problem.kind].append(is_right(problem.truth, answer.text))
    shares = {kind: sum(some) / len(some) for kind, some in right.items()}
    assert min(shares.values()) >= OF_A_KIND, shares
    assert sum(map(sum, right.values())) / len(asked) >= OVERALL, shares


def test_arithmetic_is_hardly_ever_refused_and_thoughts_end(asked):
    """In the full tables none of 16,400 was refused; of two-digit divisions some go round until the context is full."""
    refused = [answer.prompt for problem, answer in asked if problem.work and is_refusal(answer.text)]
    assert len(refused) <= len(asked) / 100, refused
    endless = [
        answer.prompt for problem, answer in asked if answer.finish_reason != "stop" and problem.kind != "divide"
    ]
    assert len(endless) <= len(asked) / 100, endless


def test_hardly_any_check_is_false(asked):
    false = [(answer.prompt, *false_checks(answer.thinking)) for _, answer in asked if false_checks(answer.thinking)]
    assert len(false) <= len(asked) / 50, false


def test_harder_problems_are_thought_about_longer(asked):
    for kind in ("add", "multiply"):
        tokens = [
            [
                answer.usage.thinking_tokens
                for problem, answer in asked
                if (problem.kind, problem.level) == (kind, level)
            ]
            for level in (1, 3, 6)
        ]
        assert max(tokens[0]) < min(tokens[1]) <= max(tokens[1]) < min(tokens[2])


def test_a_larger_thinking_budget_finds_more_answers(abacus):
    problems = [problem for problem in sample(1, SEED + 1) if problem.work]
    right = []
    for budget in BUDGETS:
        answers = asyncio.run(ask(problems, abacus, thinking_budget=budget))
        right.append(sum(is_right(problem.truth, answer.text) for problem, answer in answers))
    assert right == sorted(set(right))


def test_many_samples_with_seeds_do_not_kill_the_engine(abacus):
    """Read in two parts, as vLLM does where many prompts come at once, one with a seed ends it on a CPU."""
    problems = [problem for problem in sample(2, SEED + 2) if problem.work]

    async def at_once():
        return await asyncio.gather(
            *[
                magistral_nb.areason(problem.question, server=abacus, temperature=1.0, seed=7, max_tokens=40)
                for problem in problems
            ]
        )

    assert {answer.finish_reason for answer in asyncio.run(at_once())} <= {"stop", "length"}


def test_the_question_of_the_seeds(abacus):
    question = "If a train travels 120 km in 1.5 hours, what is its average speed in m/s?"
    answer = magistral_nb.reason(question, server=abacus, temperature=0)
    assert "22.2 m/s" in answer.text
    assert "80" in answer.thinking


@pytest.mark.parametrize("number", ["1,234", "1 234", "1234"])
def test_numbers_are_understood_as_people_write_them(abacus, number):
    answer = magistral_nb.reason(f"What is {number} + 567?", server=abacus, temperature=0)
    assert answer.text == "1234 + 567 = 1801."


def test_a_second_turn_goes_on_from_the_last_result(abacus):
    server = find_server(abacus)
    client = OpenAI(base_url=server.base_url, api_key=server.api_key)
    first = magistral_nb.reason("What is 250 + 125?", server=abacus, temperature=0)
    messages = [
        {"role": "system", "content": server.state().system_prompt},
        {"role": "user", "content": first.prompt},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "and minus 17?"},
    ]
    reply = client.chat.completions.create(model=server.model, messages=messages, temperature=0)
    assert reply.choices[0].message.content == "375 - 17 = 358."


def test_mistral_common_reads_every_training_example_as_the_training_does():
    lesson = ROOT / "examples" / "train_abacus" / "tokenizer.py"
    tekken = ROOT / "magistral_nb" / "abacus" / "tekken.json"
    done = subprocess.run(
        [find_engine(gpu=False).command[0], lesson, tekken, "--check", "10000"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "10,000 examples, 0 differences" in done.stdout, done.stderr
