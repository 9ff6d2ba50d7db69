r"""Which part of a stream is thinking and which the answer: every trace format, decided once.

Endpoints mark a trace in one of these ways, and a stream keeps to the first that it shows:

- fields of their own: `reasoning` (newer vLLM, Ollama), `reasoning_content` (older vLLM, llama.cpp, LM Studio;
  `magistral_nb.dialect` has the versions), or thinking chunks in a content list (Mistral's API). `Wire` reads
  them; to a Trace they are thinking that came apart from the text. From then on marks in the text are text.
- marks at the start of the text: `<think>…</think>` (Magistral-Small-2506 and many others) or raw
  `[THINK]…[/THINK]`. Only then is a closing mark looked for, and only the one that fits; after it, marks are
  text. What such a stream says in a field as well is the same trace once more, and passed over.
- neither: once the text has begun without a mark, all of it is the answer, to the last byte.

A closing mark at the very start closes a thought that had no text; further on in an answer that began without
a mark it is text, and what stood before it stays the answer, as in newer vLLM.

Newlines at the edges of a thought, and between it and the answer, belong to the marks' layout
(`<think>\n…\n</think>\n`) and are dropped. Half a character (an escaped surrogate whose other half never
comes) becomes U+FFFD.

What is counted
    Thinking tokens are those of the trace, without its marks, as vLLM's own `reasoning_tokens`; a newline at
    the trace's edge counts although it is not shown. The count is made from the token ids that vLLM sends
    with each chunk. Tokens without text are bytes of an unfinished character or white space held back by
    the server, and count with the text they become. The last token of all, which ends the answer, counts
    neither as thinking nor as answer, unless it shares a chunk with text.

    Where thinking has its own field, the marks are silent tokens before and after it. Magistral's control
    tokens are known by their ids; otherwise what is silent before the thinking is its mark, and the closing
    mark is taken for the vocabulary's next token, as in every vocabulary that has a token for it. Where the
    marks are text, a token belongs to where its first character stands; of a chunk of several tokens that
    begins inside a mark, all count with the text behind the mark. Without ids there is no count: None,
    never the number of chunks.

    Known to differ from vLLM 0.32: it counts one token for a character that took several, and it leaves out the
    tokens of a text mark also where they share a chunk with the thinking that it has cut off.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from magistral_nb.asking.events import Event, Said, Thinking

if TYPE_CHECKING:
    from collections.abc import Sequence

Begins = Literal["anyhow", "thinking", "answer"]
Marks = tuple[tuple[str, str], ...]

MARKS: Marks = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))

# [THINK] and [/THINK] in tekken.json of Magistral-Small-2507 and 2509. No other vocabulary has an ordinary
# token there that could begin a trace.
THINK_IDS = _OPEN_ID, _CLOSE_ID = 34, 35
_SURROGATE = re.compile("[\ud800-\udfff]")


class Trace:
    r"""Tells thinking from answer in one choice of one stream.

    Example:
        >>> trace = Trace()
        >>> trace.add("", "<think>\n2+2", None) + trace.add("", "=4.\n</thi", None)
        [Thinking(text='2+2', tokens=None, ids=(), choice=0), Thinking(text='=4.', tokens=None, ids=(), choice=0)]
        >>> trace.add("", "nk>\n4", None)
        [Said(text='4', tokens=None, choice=0)]
    """

    def __init__(self, choice: int = 0, *, begins: Begins = "anyhow", marks: Marks = MARKS) -> None:
        """Begin a choice.

        Args:
            choice: the number that its events carry.
            begins: "thinking" where the prompt itself has opened the thought, "answer" where it has closed it.
            marks: pairs of opening and closing marks to look for at the start of the text.
        """
        self._choice = choice
        self._marks = marks
        self._kind: type[Thinking | Said] | None = None  # of the text before
        self._fresh = False  # newlines that come now stand at an edge
        self._newlines = 0  # held back: at the end of the trace they are dropped
        self._half = ""  # the first half of a surrogate pair
        self._told = False  # the endpoint tells its tokens
        self._silent: list[int] = []  # tokens whose text has not come yet
        self._control = False  # the marks are Magistral's control tokens
        self._close_id: int | None = _CLOSE_ID  # None: the closing mark is not one token
        self._closed = False  # the closing mark's token came before the answer's first text
        # While marks are looked for in the text:
        self._looking: Literal["start", "end", ""] = "start"
        self._tagged = False
        self._closers: tuple[str, ...] = ()
        self._indent: list[str] = []  # white space before the text begins
        self._buffer = ""  # text that could still be a mark
        self._owners: list[tuple[int, Sequence[int] | None]] = []  # where in it which tokens begin
        self._waiting: list[int] = []  # tokens that count with the next text
        if begins == "thinking":
            self._closers = tuple(closer for _, closer in marks)
        elif begins == "answer":
            self._kind, self._fresh, self._looking = Said, True, ""

    def add(self, thinking: str, text: str, ids: Sequence[int] | None) -> list[Event]:
        """What one chunk adds.

        Args:
            thinking: what it has in a field of its own.
            text: what it has as ordinary text.
            ids: the chunk's tokens, None where the endpoint does not tell them.
        """
        out: list[Event] = []
        if thinking and not self._tagged:
            self._told = ids is not None
            if self._looking:
                if not self._buffer:
                    self._indent.clear()
                self._stop_looking(out)
            if text and ids:
                ids, behind = self._split(ids)
                self._think(out, thinking, ids)
                self._say(out, text, behind)
            else:
                self._think(out, thinking, ids)
                if text:
                    self._say(out, text, ids)
        elif text:
            self._told = ids is not None
            if self._looking:
                self._look(out, text, ids)
            else:
                self._say(out, text, ids)
        elif ids:
            silent = self._waiting if self._looking else self._silent
            silent += ids
        return out

    def end(self, reason: str | None = None) -> list[Event]:
        """What was held back, once nothing more can come.

        Args:
            reason: the finish reason; None for a stream that broke off.
        """
        out: list[Event] = []
        if self._looking:
            self._stop_looking(out)
        self._drop_half(out)
        if self._kind is Thinking and not self._closed:
            ids = self._silent
            if self._close_id in ids:
                ids, self._newlines = ids[: ids.index(self._close_id)], 0
            elif reason == "stop":
                ids = ids[:-1]  # the token that ends the answer
            if self._newlines or ids:
                self._append(out, Thinking, "\n" * self._newlines, ids if self._told else None)
        self._newlines, self._silent = 0, []
        return out

    # Marks in the text

    def _look(self, out: list[Event], text: str, ids: Sequence[int] | None) -> None:
        if self._waiting:
            if _OPEN_ID in self._waiting:  # a thought without text
                self._silent += self._waiting
                self._open(None)
                ids = self._close(out, ids)
            elif ids is not None:
                ids = [*self._waiting, *ids]
            self._waiting = []
        if self._looking == "start" and not self._buffer:
            begun = text.lstrip()
            self._indent.append(text[: len(text) - len(begun)])
            text = begun
        self._owners.append((len(self._buffer), ids))
        self._buffer += text
        if self._looking == "start" and self._buffer:
            self._look_for_start(out)
        if self._looking == "end":
            self._look_for_end(out)

    def _look_for_start(self, out: list[Event]) -> None:
        text = self._buffer
        for opener, closer in self._marks:
            if text.startswith(opener):
                self._tagged, self._looking, self._closers = True, "end", (closer,)
                self._take_mark(opener)
                self._turn(out, Thinking)
                return
            if text.startswith(closer):
                self._end_thought(out, closer)
                return
        if any(mark.startswith(text) for pair in self._marks for mark in pair):
            return
        if self._closers:  # the prompt has opened the thought
            self._tagged, self._looking = True, "end"
            self._turn(out, Thinking)
            self._think(out, "".join(self._indent), () if self._told else None)
        else:
            self._stop_looking(out)

    def _look_for_end(self, out: list[Event]) -> None:
        text = self._buffer
        if found := [(at, closer) for closer in self._closers if (at := text.find(closer)) >= 0]:
            at, closer = min(found)
            if at:
                self._think(out, *self._take(at))
            self._end_thought(out, closer)
            return
        longest = max(map(len, self._closers), default=0) - 1
        tail = next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(c.startswith(text[-n:]) for c in self._closers)), 0
        )
        if tail < len(text):
            self._think(out, *self._take(len(text) - tail))

    def _end_thought(self, out: list[Event], closer: str) -> None:
        """The buffer begins with the mark that ends the thought."""
        self._take_mark(closer)
        self._looking = ""
        self._turn(out, Said)
        self._fresh = True
        if self._buffer:
            self._say(out, *self._take(len(self._buffer)))

    def _stop_looking(self, out: list[Event]) -> None:
        """No mark comes any more: what was held back is what it looks like."""
        looking, self._looking = self._looking, ""
        text, ids = self._take(len(self._buffer))
        if looking == "start":
            text = "".join(self._indent) + text
        if text:
            put = self._think if self._closers else self._say
            put(out, text, ids)
        self._silent += self._waiting
        self._waiting = []

    def _take(self, length: int) -> tuple[str, Sequence[int] | None]:
        """So much of the buffer's front, and the tokens that begin in it."""
        taken: list[int] | None = []
        rest: list[tuple[int, Sequence[int] | None]] = []
        for at, ids in self._owners:
            if at and at >= length:
                rest.append((at - length, ids))
            elif ids is None:
                taken, rest = None, [(0, None)]
            elif taken is not None:
                taken += ids
        text, self._buffer, self._owners = self._buffer[:length], self._buffer[length:], rest
        return text, taken

    def _take_mark(self, mark: str) -> None:
        """Drop a mark from the buffer's front; a chunk of several tokens that goes on behind it keeps them."""
        length, rest = len(mark), []
        ends = [*(at for at, _ in self._owners[1:]), len(self._buffer)]
        for (at, ids), end in zip(self._owners, ends, strict=False):
            if at >= length:
                rest.append((at - length, ids))
            elif end > length:
                rest.append((0, ids if ids is None or len(ids) > 1 else ()))
        self._buffer, self._owners = self._buffer[length:], rest

    # Marks that are tokens

    def _open(self, ids: Sequence[int] | None) -> Sequence[int] | None:
        """Leave out the token that opens the trace, here or among the silent ones, and learn which closes it."""
        silent, self._silent = self._silent, []
        if _OPEN_ID in silent:
            self._control, self._close_id = True, _CLOSE_ID
            self._silent = silent[silent.index(_OPEN_ID) + 1 :]
        elif silent:
            self._close_id = silent[0] + 1 if len(silent) == 1 else None
        elif ids and ids[0] == _OPEN_ID:
            self._control, self._close_id = True, _CLOSE_ID
            return ids[1:]
        return ids

    def _close(self, out: list[Event], ids: Sequence[int] | None) -> Sequence[int] | None:
        """Leave out the token that closes the trace; what came before it is thinking without text."""
        if self._closed:
            return ids
        silent, self._silent = self._silent, []
        if self._close_id in silent:
            at = silent.index(self._close_id)
            silent, self._silent = silent[:at], silent[at + 1 :]
        elif ids and self._close_id in ids:
            before, ids = self._split(ids)
            silent += before
        else:  # the mark is some or all of them
            silent = []
        if silent:
            self._append(out, Thinking, "", silent)
        return ids

    def _split(self, ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """The tokens before and behind the one that closes the trace; without it, all count as before."""
        if self._close_id is None or self._close_id not in ids:
            return ids, ()
        at = ids.index(self._close_id)
        self._closed = True
        return ids[:at], ids[at + 1 :]

    # Text that is known to be one or the other

    def _think(self, out: list[Event], text: str, ids: Sequence[int] | None) -> None:
        if self._kind is not Thinking:
            if not self._tagged:
                ids = self._open(ids)
            self._turn(out, Thinking)
        behind: Sequence[int] = ()
        if self._control and ids and _CLOSE_ID in ids:
            ids, behind = self._split(ids)
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        if self._newlines or text[-1:] == "\n":
            body = text.rstrip("\n")
            held = len(text) - len(body)
            if body:
                text, self._newlines = "\n" * self._newlines + body, held
            else:
                text, self._newlines = "", self._newlines + held
        self._emit(out, Thinking, text, ids)
        if self._closed:
            if self._silent:
                self._append(out, Thinking, "", self._silent)
            self._silent = [*behind]

    def _say(self, out: list[Event], text: str, ids: Sequence[int] | None) -> None:
        if self._kind is not Said:
            if self._kind is Thinking:
                ids = self._close(out, ids)
            self._turn(out, Said)
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        self._emit(out, Said, text, ids)

    def _turn(self, out: list[Event], kind: type[Thinking | Said]) -> None:
        """From here on the text is of the other kind."""
        self._drop_half(out)
        if self._tagged and self._silent and kind is Said:  # newlines before the mark
            self._append(out, Thinking, "", self._silent)
            self._silent = []
        self._fresh = kind is Thinking or self._kind is Thinking
        self._kind, self._newlines = kind, 0
        if kind is Said:
            self._closed = False

    def _emit(self, out: list[Event], kind: type[Thinking | Said], text: str, ids: Sequence[int] | None) -> None:
        if not text.isascii() or self._half:
            text = self._whole(text)
        if not text:
            self._silent += ids or ()
            return
        if self._silent:
            ids = None if ids is None else [*self._silent, *ids]
            self._silent = []
        self._append(out, kind, text, ids)

    def _append(self, out: list[Event], kind: type[Thinking | Said], text: str, ids: Sequence[int] | None) -> None:
        if kind is Said:
            out.append(Said(text, None if ids is None else len(ids), self._choice))
        elif ids is None:
            out.append(Thinking(text, None, (), self._choice))
        else:
            out.append(Thinking(text, len(ids), tuple(ids), self._choice))

    def _whole(self, text: str) -> str:
        """Put surrogate pairs together, and hold back a half at the end."""
        text, self._half = self._half + text, ""
        if _SURROGATE.search(text) is None:
            return text
        if text[-1] < "\udc00" and text[-1] >= "\ud800":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _drop_half(self, out: list[Event]) -> None:
        if self._half:
            self._half = ""
            self._append(out, self._kind or Said, "\ufffd", () if self._told else None)
