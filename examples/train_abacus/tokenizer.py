"""A tokenizer of 1,024 tokens in Mistral's Tekken format: trained here, read by mistral-common.

    PYTHONPATH=. python examples/train_abacus/tokenizer.py OUT/tekken.json
    PYTHONPATH=. python examples/train_abacus/tokenizer.py OUT/tekken.json --check 10000

Digits are always tokens of their own; the rest is byte-pair encoding on the examples' own words.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import regex
from scratch import SILENT

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SIZE, SPECIALS = 1024, 64
# At the ranks that Magistral's own tekken.json has them.
NAMES = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]",
    13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]",
    35: "[/THINK]",
}  # fmt: skip
BOS, EOS, INST, END_INST, PAD, SYSTEM, END_SYSTEM, THINK, END_THINK = 1, 2, 3, 4, 11, 17, 18, 34, 35
_MARKS = {"[THINK]": THINK, "[/THINK]": END_THINK}
_UNKNOWN = 1 << 30
_CACHE = 200_000


class Tokenizer:
    """Encodes as mistral-common does, fast enough to generate examples while training."""

    def __init__(self, path: Path) -> None:
        """Read tekken.json."""
        vocabulary = json.loads(path.read_text("utf-8"))["vocab"]
        self.pieces = [base64.b64decode(entry["token_bytes"]) for entry in vocabulary]
        self.ranks = {piece: rank for rank, piece in enumerate(self.pieces)}
        self._regex = regex.compile(PATTERN)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text without control tokens."""
        ids: list[int] = []
        for piece in self._regex.findall(text):
            known = self._cache.get(piece)
            if known is None:
                known = self._merge(piece)
                if len(self._cache) < _CACHE:
                    self._cache[piece] = known
            ids += known
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, control tokens by name."""
        parts = [NAMES.get(i, "?").encode() if i < SPECIALS else self.pieces[i - SPECIALS] for i in ids]
        return b"".join(parts).decode(errors="replace")

    def prompt(self, turns: list[str], system: str | None) -> list[int]:
        """A conversation up to the question to be answered: questions and answers take turns."""
        ids = [BOS]
        if system:
            ids.append(SYSTEM)
            for part in regex.split(r"(\[/?THINK\])", system):
                ids += [_MARKS[part]] if part in _MARKS else self.encode(part)
            ids.append(END_SYSTEM)
        for at, turn in enumerate(turns):
            ids += [*self.encode(turn), EOS] if at % 2 else [INST, *self.encode(turn), END_INST]
        return ids

    def trace(self, text: str) -> tuple[list[int], list[float]]:
        """The ids of a trace, and 0 for those between the marks of what is not to be learned."""
        ids: list[int] = []
        weights: list[float] = []
        for at, part in enumerate(regex.split("|".join(SILENT), text)):
            encoded = self.encode(part)
            ids += encoded
            weights += [float(at % 2 == 0)] * len(encoded)
        return ids, weights

    def _merge(self, piece: str) -> list[int]:
        word = [bytes([byte]) for byte in piece.encode()]
        while len(word) > 1:
            rank, at = min((self.ranks.get(a + b, _UNKNOWN), i) for i, (a, b) in enumerate(pairwise(word)))
            if rank == _UNKNOWN:
                break
            word[at : at + 2] = [word[at] + word[at + 1]]
        return [self.ranks[part] + SPECIALS for part in word]


def train(counts: Counter[str], size: int) -> list[bytes]:
    """Byte-pair encoding: join the commonest pair of neighbours until there are enough tokens."""
    words = [([bytes([byte]) for byte in piece.encode()], count) for piece, count in counts.items()]
    pieces = [bytes([byte]) for byte in range(256)]
    known = set(pieces)
    while len(pieces) < size:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                pairs[pair] += count
        a, b = pairs.most_common(1)[0][0]
        if a + b not in known:
            known.add(a + b)
            pieces.append(a + b)
        for word, _ in words:
            at = 0
            while at < len(word) - 1:
                if word[at] == a and word[at + 1] == b:
                    word[at : at + 2] = [a + b]
                at += 1
    return pieces


def write(path: Path, pieces: list[bytes]) -> None:
    """Write tekken.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": SIZE - SPECIALS,
        "default_vocab_size": SIZE,
        "default_num_special_tokens": SPECIALS,
        "version": "v13",
    }
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": piece.decode(errors="replace")}
        for rank, piece in enumerate(pieces)
    ]
    specials = [
        {"rank": rank, "token_str": NAMES.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(SPECIALS)
    ]
    path.write_text(
        json.dumps({"config": config, "vocab": vocabulary, "special_tokens": specials, "version": 3, "type": "Tekken"}),
        "utf-8",
    )


def texts(count: int, seed: int) -> list[str]:
    """What the tokenizer is trained on: questions, thoughts, answers and system prompts."""
    from traces import think

    from examples import CELLS, OTHER_SYSTEM_PROMPTS, SYSTEM_PROMPT
    from magistral_nb.abacus.generator import draw

    rng = random.Random(f"tokenizer {seed}")
    drawn = [*regex.split(r"\[/?THINK\]", SYSTEM_PROMPT), *OTHER_SYSTEM_PROMPTS]
    while len(drawn) < count:
        kind, level = rng.choice([*CELLS, ("off-domain", 1), ("off-domain", 1)])
        problem = draw(rng, kind, level, "training", seen=True)
        thought = think(problem, rng)
        clean = "".join(regex.split("|".join(SILENT), thought.text))
        drawn += [*problem.question.split("\n"), clean, thought.answer, thought.guess or "My best guess"]
    return drawn


def check(path: Path, count: int) -> list[str]:
    """Read examples as vLLM will: the conversations and texts that mistral-common encodes or decodes otherwise."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    from examples import example

    ours, theirs = Tokenizer(path), MistralTokenizer.from_file(path)
    raw = theirs.instruct_tokenizer.tokenizer
    rng = random.Random("tokenizer check")
    different: list[str] = []
    for _ in range(count):
        drawn = example(rng, ours)
        begin = drawn.ids.index(THINK, len(drawn.ids) - drawn.ids[::-1].index(END_INST) - 1)
        end = drawn.ids.index(END_THINK, begin)
        messages = _messages(drawn.problem.question.split("\n"), drawn.system)
        if theirs.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens != drawn.ids[:begin]:
            different.append(ours.decode(drawn.ids[:begin]))
        for ids in (drawn.ids[begin + 1 : end] if drawn.whole else [], drawn.ids[end + 1 : -1]):
            text = raw.decode(ids)
            if text != ours.decode(ids) or raw.encode(text, bos=False, eos=False) != ids:
                different.append(ours.decode(ids))
    return different


def _messages(turns: list[str], system: str | None) -> list[dict[str, object]]:
    """A conversation as it is posted, a system prompt with [THINK] in its parts."""
    parts = regex.split(r"\[/?THINK\]", system or "")
    content: list[dict[str, object]] = [{"type": "text", "text": part} for part in parts]
    for at in range(1, len(parts), 2):
        content[at] = {"type": "thinking", "thinking": parts[at], "closed": True}
    messages: list[dict[str, object]] = [{"role": "system", "content": content}] if system else []
    return messages + [{"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)]


def main() -> None:
    """Train and write, or check against mistral-common."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="tekken.json")
    parser.add_argument("--check", type=int, metavar="N", help="only hold N examples against mistral-common")
    options = parser.parse_args()
    if options.check:
        different = check(options.path, options.check)
        print(f"{options.check:,} examples, {len(different)} differences", *different[:5], sep="\n")
        sys.exit(bool(different))
    splitter = regex.compile(PATTERN)
    counts = Counter(piece for text in texts(60_000, 0) for piece in splitter.findall(text))
    # Flattened, so that the words of the questions count beside those of the long traces.
    flattened = Counter({piece: int(count**0.6) + 1 for piece, count in counts.items()})
    write(options.path, train(flattened, SIZE - SPECIALS))


if __name__ == "__main__":
    main()
