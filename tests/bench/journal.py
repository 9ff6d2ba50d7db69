"""What keeping every answer costs and gives, beside the plainest way to do it.

    python tests/bench/journal.py [--answers 100000]

The rival writes one INSERT and one COMMIT for each answer, with SQLite's own settings, and searches with
LIKE '%word%'. Both use the same folder. Then processes are killed in the middle of a stream.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from magistral_nb import paths
from magistral_nb.answers.answer import Answer, Pieces, Usage
from magistral_nb.answers.history import history, recall
from magistral_nb.answers.journal import journal

ANSWER_BYTES = 2000
WORDS = ("prime", "therefore", "rareword", "the", '"because of"', "remain", "prime therefore")
STREAM = """
import sys, time, uuid
from magistral_nb.answers.answer import Pieces
from magistral_nb.answers.journal import journal
kept, key, pieces = journal(), uuid.uuid4().hex, Pieces()
kept.begin(key, "How long?", "m", "default", pieces)
print(key, flush=True)
while True:
    pieces.thinking.append(f"{time.monotonic()} ")
    time.sleep(0.001)
"""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:  # /tmp may be memory
        os.environ[paths.HOME_VARIABLE] = folder
        answers = made_up(chosen.answers)
        rival = Rival(Path(folder) / "rival.sqlite3")
        write(answers, rival)
        search(rival)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[paths.HOME_VARIABLE] = folder
        kill(chosen.kills)


def made_up(count: int) -> list[Answer]:
    """Answers of about 2 kB; how common a word is falls off as in real text."""
    chance = random.Random(7)
    vocabulary = ["the", "is", "because", "of", "therefore", "prime", "remainder"] + [f"word{n}" for n in range(20_000)]
    weights = [1 / (rank + 2) for rank in range(len(vocabulary))]
    pool = chance.choices(vocabulary, weights, k=400_000)
    answers = []
    for n in range(count):
        start = chance.randrange(len(pool) - 400)
        text = " ".join(pool[start : start + 400])[:ANSWER_BYTES]
        if n % 5000 == 0:
            text += " rareword"
        answers.append(
            Answer(
                prompt=f"Question {n}: is {n} prime?",
                thinking=text[:1600],
                text=text[1600:],
                finish_reason="stop",
                id=uuid.UUID(int=chance.getrandbits(128)).hex,
                usage=Usage(20, 350, 90, 440),
                seconds=4.2,
                time_to_first_token=0.2,
                model="m",
                server="default" if n % 1000 else "other",
            )
        )
    return answers


class Rival:
    """One row and one commit for each answer; LIKE."""

    def __init__(self, path: Path) -> None:
        """An empty file."""
        self.db = sqlite3.connect(path)
        self.db.execute("CREATE TABLE answers (id PRIMARY KEY, created, prompt, thinking, text)")

    def insert(self, answer: Answer) -> None:
        """Write it."""
        row = (answer.id, time.time(), answer.prompt, answer.thinking, answer.text)
        self.db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", row)

    def find(self, words: str) -> list[tuple[str]]:
        """The 100 newest that have all the words."""
        parts = [words.strip('"')] if words.startswith('"') else words.split()
        where = " AND ".join(["(prompt LIKE ? OR thinking LIKE ? OR text LIKE ?)"] * len(parts))
        values = [f"%{part}%" for part in parts for _ in range(3)]
        statement = f"SELECT * FROM answers WHERE {where} ORDER BY created DESC LIMIT 100"
        return self.db.execute(statement, values).fetchall()


def write(answers: list[Answer], rival: Rival) -> None:
    """Answers a second, in turns, so that both see the same machine."""
    ours, theirs, committed = 0.0, 0.0, 0
    kept = journal()
    for begin in range(0, len(answers), 5000):
        batch = answers[begin : begin + 5000]
        start = time.perf_counter()
        for answer in batch:
            pieces = Pieces(
                [answer.thinking[at : at + 400] for at in range(0, len(answer.thinking), 400)], [answer.text]
            )
            kept.begin(answer.id, answer.prompt, answer.model, answer.server, pieces)
            kept.finish(answer)
        if not kept.flush(600):
            raise SystemExit("the journal could not write")
        ours += time.perf_counter() - start
        some = batch[:100]  # its rate does not change, and all of them would take an hour on a slow disk
        start = time.perf_counter()
        for answer in some:
            rival.insert(answer)
            rival.db.commit()
        theirs += time.perf_counter() - start
        committed += len(some)
        for answer in batch[100:]:
            rival.insert(answer)
        rival.db.commit()
    rate, plain = len(answers) / ours, committed / theirs
    size = sum(file.stat().st_size for file in paths.journal().parent.iterdir())
    print(f"\n{len(answers):,} answers of {ANSWER_BYTES:,} bytes, written as they stream and indexed")
    print(f"  {'journal':<34}{rate:>10,.0f} answers/s   (target 2,000)")
    print(f"  {'one INSERT and COMMIT each':<34}{plain:>10,.0f} answers/s   ratio {rate / plain:.1f}")
    print(f"  {'file':<34}{size / len(answers):>10,.0f} bytes an answer")


def search(rival: Rival) -> None:
    """Seconds from words to a DataFrame of the newest 100."""
    history("warm up")
    ours, theirs = [], []
    print(f"\nsearch{'found':>27}{'history()':>13}{'LIKE':>10}{'ratio':>8}")
    for words in WORDS:
        mine = [timed(history, words) for _ in range(5)]
        other = [timed(rival.find, words) for _ in range(2)]
        ours += [seconds for seconds, _ in mine]
        theirs += [seconds for seconds, _ in other]
        median, plain = (statistics.median(seconds for seconds, _ in each) for each in (mine, other))
        print(f"  {words:<24}{len(mine[0][1]):>7}{median:>11.3f} s{plain:>8.3f} s{plain / median:>8.1f}")
    extra = [timed(history, "the", server="other"), timed(history, "the", since="1h"), timed(history)]
    for name, (seconds, found) in zip(("the --server other", "the --since 1h", "(all)"), extra, strict=True):
        print(f"  {name:<24}{len(found):>7}{seconds:>11.3f} s")
    print(f"  {'median':<31}{statistics.median(ours):>11.3f} s{statistics.median(theirs):>8.3f} s")
    print(f"  {'largest (target 0.2 s)':<31}{max(ours):>11.3f} s{max(theirs):>8.3f} s")


def timed(call, *given, **options):
    """Seconds, and what was returned."""
    start = time.perf_counter()
    found = call(*given, **options)
    return time.perf_counter() - start, found


def kill(times: int) -> None:
    """SIGKILL in the middle of a stream of 1,000 pieces a second."""
    chance = random.Random(11)
    losses = []
    for _ in range(times):
        with subprocess.Popen([sys.executable, "-c", STREAM], stdout=subprocess.PIPE, text=True) as process:
            key = process.stdout.readline().strip()
            time.sleep(chance.uniform(0.3, 2.5))
            process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
        times_kept = [float(each) for each in recall(key).thinking.split()]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times_kept)]
        losses.append(max(0.0, killed - times_kept[-1], *gaps))
    print(f"\nSIGKILL at {times} random moments of a stream: what was lost (a gap in what is kept counts)")
    print(f"  median {statistics.median(losses):.2f} s, largest {max(losses):.2f} s   (target under 1 s)")


if __name__ == "__main__":
    main()
