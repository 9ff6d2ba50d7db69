r"""LaTeX maths inside Markdown: where it is, and what of it may be shown.

Two rules for markdown-it find `$...$`, `$$...$$`, `\(...\)`, `\[...\]` and `\begin{...}...\end{...}`. What
they accept is maths for every front end: one piece, braces and environments closed, no blank line. Anything
else stays text. `clean_tex` rewrites the inside so that no HTML, link or code mark is left in it should a
front end see it with other eyes, and takes out the commands with which MathJax links, styles or loads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

# Opening mark -> closing mark and whether it is set on a line of its own. Longer marks first.
_MARKS = {
    "$$": ("$$", True),
    "$": ("$", False),
    r"\\[": (r"\\]", True),  # Jupyter's own spelling doubles the backslash
    r"\\(": (r"\\)", False),
    r"\[": (r"\]", True),
    r"\(": (r"\)", False),
}
# The blocks that such a block may cut short.
INTERRUPTED = ["paragraph", "reference", "blockquote", "list"]

_MAX_LINES = 100  # of a display: a model caught in a loop opens thousands and closes none

_BEGIN = re.compile(r"\\begin\{([A-Za-z]+\*?)\}")
_BEGIN_OR_END = re.compile(r"\\(begin|end)\{([^{}]*)\}")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_TEX_SIGN = re.compile(r"[\\^_]")

_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
_OPTIONAL_SPACING = re.compile(r"(\\\\)\*?\[[^\]]*\]?")
# MathJax turns these into links, inline styles, ids, attributes or a script it fetches.
_ACTIVE = re.compile(
    r"(\\+)(href|url|style|class|cssId|data|require|bbox|mmlToken|includegraphics)(?![A-Za-z])"
    r"(\s*(?:\{[^{}]*\}|\[[^\[\]]*\]))?"
)
# A backtick could open code. A quote could close an attribute: JupyterLab parses Markdown with a placeholder
# for each formula, `http://a.b$"x$` becomes a link, and the formula is put back into its address as it is.
_QUOTES = str.maketrans({"`": "\N{LEFT SINGLE QUOTATION MARK}", '"': "\N{RIGHT DOUBLE QUOTATION MARK}"})


def add_maths(parser: MarkdownIt) -> None:
    """Teach a markdown-it parser about maths: it then yields `math_inline` and `math_block` tokens.

    A token's `content` is the TeX between the marks, its `markup` "$" or "$$".
    """
    parser.block.ruler.before("fence", "math_block", _math_block, {"alt": INTERRUPTED})
    parser.inline.ruler.before("escape", "math_inline", _math_inline)


def clean_tex(tex: str, *, display: bool, in_table: bool = False) -> str:
    r"""TeX on one line that MathJax sets as before and nobody can take for HTML, a link or code.

    Example:
        >>> clean_tex("a < b % a note\n + \\href{javascript:x()}{c}", display=False)
        'a \\lt b + {}{c}'
    """
    tex = _COMMENT.sub(r"\1", tex)
    tex = tex.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    tex = re.sub(r"\s+", " ", tex)
    tex = _ACTIVE.sub(_disarm, tex)
    tex = re.sub(r"(?<!\\)((?:\\\\)*)\\?< *", r"\1\\lt ", tex).replace("](", "] (").translate(_QUOTES)
    # JupyterLab reads `\\{` as an escaped brace, TeX as a line break and a brace: a space settles it.
    tex = re.sub(r"(?<!\\)((?:\\\\)+)(?=[{}$])", r"\1 ", tex)
    if not display:  # nbconvert would take `\\[` for the start of a display
        tex = _OPTIONAL_SPACING.sub(r"\1", tex)
    if in_table:
        tex = re.sub(r"(\\?)\| *", lambda bar: r"\Vert " if bar[1] else r"\vert ", tex)
    tex = tex.strip()
    return tex + " " if tex.endswith(("$", "\\")) else tex  # do not let the end swallow the closing mark


def _disarm(match: re.Match[str]) -> str:
    backslashes, name, argument = match.groups()
    breaks = r"\\" * (len(backslashes) // 2)
    if len(backslashes) % 2 == 0:  # `\\href` is a line break and a word
        return f"{breaks} {name}{argument or ''}"
    return breaks + "{}"


def _math_inline(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    found = _maths_at(state.src[state.pos : state.posMax])
    if found is None:
        return False
    tex, markup, length = found
    if not silent:
        token = state.push("math_inline", "", 0)
        token.content, token.markup = tex, markup
    state.pos += length
    return True


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001
    """A display that starts a line and ends one; what lies between is no list, no heading, no table."""
    if state.sCount[start] - state.blkIndent >= 4:  # indented code  # noqa: PLR2004
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    if not first.startswith(("$$", r"\[", r"\\[", r"\begin{")):
        return False
    last = start + 1
    end = min(end, start + _MAX_LINES)
    while last < end and not state.isEmpty(last) and state.sCount[last] >= state.blkIndent:
        last += 1
    text = state.getLines(start, last, state.blkIndent, keepLastLF=False).lstrip()
    found = _maths_at(text)
    if found is None:
        return False
    tex, markup, length = found
    rest = text[length:].split("\n", 1)[0]
    if markup != "$$" or rest.strip(" \t.,;:"):  # more follows on the line: part of a paragraph
        return False
    if not silent:
        token = state.push("math_block", "", 0)
        # A full stop after a displayed formula belongs to it.
        token.content, token.markup, token.block = tex + rest.strip(), markup, True
        token.map = [start, start + 1 + text.count("\n", 0, length)]
        state.line = token.map[1]
    return True


def _maths_at(text: str) -> tuple[str, str, int] | None:
    """The maths that `text` starts with: TeX, "$" or "$$", and how many characters it takes."""
    if begin := _BEGIN.match(text):
        closing = f"\\end{{{begin[1]}}}"
        stop = text.find(closing)
        tex = text[: stop + len(closing)]
        return (tex, "$$", len(tex)) if stop > 0 and _is_whole(tex) else None
    for opening, (closing, display) in _MARKS.items():
        if not text.startswith(opening):
            continue
        stop = _find_unescaped(text, closing, len(opening))
        if stop < 0:
            return None
        tex = text[len(opening) : stop]
        after = stop + len(closing)
        if not _is_whole(tex) or (opening == "$" and _is_money(tex, text[after : after + 1])):
            return None
        return tex, "$$" if display else "$", after
    return None


def _find_unescaped(text: str, mark: str, start: int) -> int:
    while (found := text.find(mark, start)) >= 0:
        if not _odd_backslashes(text[:found]):
            return found
        start = found + 1
    return -1


def _is_money(tex: str, following: str) -> bool:
    """Whether `$tex$` is rather two prices: "from $5 to $10"."""
    tight = tex == tex.strip() and not following.isdigit()
    return not tight and not _TEX_SIGN.search(tex)


def _is_whole(tex: str) -> bool:
    """Whether braces and environments close, so that every front end sees the same end."""
    if not tex.strip() or _BLANK_LINE.search(tex) or _find_unescaped(tex, "$", 0) >= 0:
        return False
    depth = 0
    for mark in re.findall(r"\\.|[{}]", tex, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return False
    still_open: list[str] = []
    for verb, name in _BEGIN_OR_END.findall(tex):
        if verb == "begin":
            still_open.append(name)
        elif not still_open or still_open.pop() != name:
            return False
    return depth == 0 and not still_open


def _odd_backslashes(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1
