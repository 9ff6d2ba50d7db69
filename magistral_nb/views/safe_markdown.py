"""Markdown that a model wrote, written again so that nothing in it can run.

A trusted notebook executes scripts found in Markdown, so a model's words must not reach it as they are. They
are parsed by markdown-it with HTML switched off, and written out anew from the tree in one plain spelling:
in text every sign that means something to Markdown, HTML or MathJax is an entity, links lead to the web
only, and an image is a link, for fetching it would tell its server. What a front end's own parser makes of the
result does not depend on how it reads the original, only on how it reads this spelling.

A `<` is left in three places: in fenced code at the top level, in `<code>` and `<pre>` whose content is all
entities, and in `<span>` around a dollar or a backslash, which keeps MathJax from seeing it.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from magistral_nb.views.maths import INTERRUPTED, add_maths, clean_tex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

_WEB = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_UNSAFE_IN_URL = re.compile(r"[^A-Za-z0-9\-._:/?#@!&+,;=%]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")
_ODD_BREAK = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_LANGUAGE = re.compile(r"(?!mermaid)[A-Za-z0-9_+#.-]{1,30}")  # nbconvert passes mermaid's text on unescaped
_PLAIN_CODE = re.compile(r"(?! )(?:(?!\]\()[^<>&$`\\|~\n])+(?<! )")
_PLAIN_NESTED_CODE = re.compile(r"(?:(?!\]\()[^<>&$`\\~])*")
_OWN_TAG = re.compile(r"<code>([^<>`\n]+)</code>|<span>(&#36;|&#92;)</span>")
_MATHS_MARK = re.compile(r"\$\$|\\\\[()\[\]]|\\(?:begin|end)\{")
_CODE_BLOCK = re.compile(r"<pre><code>([^<>`\n]*)</code></pre>[ \t]*")

_HARD_BREAK = "\0"  # until its line is stripped; no NUL comes in from outside

_SIGNS = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "*": "&#42;",
        "`": "&#96;",
        "[": "&#91;",
        "]": "&#93;",
        "|": "&#124;",
        "~": "&#126;",
        "$": "<span>&#36;</span>",
        "\\": "<span>&#92;</span>",
    }
)
_LOOSE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"^(?:(\d{1,9})([.)])(?=\s|$)|([#+\-=:]))", re.MULTILINE)


def sanitise_markdown(text: str) -> str:
    r"""The same Markdown without anything that could run, load or mislead a parser. Pure.

    `\(x\)` and `\[x\]` come out as `$x$` and `$$x$$`, which every front end sets.

    Example:
        >>> sanitise_markdown("If \\(a<b\\): <img src=x onerror=alert(1)> `x < y`")
        'If $a\\lt b$: &lt;img src=x onerror=alert(1)&gt; <code>x &#60; y</code>'
    """
    text = _ODD_BREAK.sub(" ", _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return _blocks(SyntaxTreeNode(_parser().parse(text)).children, top=True)


def escape_text(text: str) -> str:
    """Words as Markdown that shows exactly these words.

    Example:
        >>> escape_text("5 < 6 * 7")
        '5 &lt; 6 &#42; 7'
    """
    text = _CONTROL.sub("", re.sub(r"\s", " ", text))
    text = _LOOSE_UNDERSCORE.sub("&#95;", text.translate(_SIGNS))
    # A `!` before a link makes an image of it, a `#` after a blank may end a heading.
    return re.sub(r"!$", "&#33;", re.sub(r"(^|\s)#", r"\1&#35;", text))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.validateLink = lambda url: bool(_WEB.match(url))  # type: ignore[method-assign]
    add_maths(parser)
    # What this module itself writes is read back as what it was, so that a second pass changes nothing.
    parser.inline.ruler.before("escape", "own_tag", _own_tag)
    parser.block.ruler.before("fence", "code_block_tag", _code_block_tag, {"alt": INTERRUPTED})
    return parser


def _own_tag(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    match = _OWN_TAG.match(state.src, state.pos, state.posMax)
    if match is None:
        return False
    if not silent:
        code, sign = match.groups()
        if code:
            token = state.push("code_inline", "code", 0)
            token.content = html.unescape(code)
        else:
            state.pending += html.unescape(sign)
    state.pos = match.end()
    return True


def _code_block_tag(state: StateBlock, start: int, _end: int, silent: bool) -> bool:  # noqa: FBT001
    match = _CODE_BLOCK.fullmatch(state.src, state.bMarks[start] + state.tShift[start], state.eMarks[start])
    if match is None:
        return False
    if not silent:
        token = state.push("fence", "code", 0)
        token.content = html.unescape(match[1])
        token.map = [start, start + 1]
        state.line = start + 1
    return True


# Blocks ------------------------------------------------------------------------------------------------


def _blocks(nodes: Sequence[SyntaxTreeNode], *, top: bool = False) -> str:
    return "\n\n".join(filter(None, (_block(node, top=top) for node in nodes)))


def _block(node: SyntaxTreeNode, *, top: bool) -> str:  # noqa: PLR0911  # one line a kind
    match node.type:
        case "paragraph":
            return _lines(node)
        case "heading":
            return "#" * int(node.tag[1]) + " " + _lines(node).replace("\n", " ")
        case "fence" | "code_block":
            return _code(node.content, node.info, top=top)
        case "math_block":
            return _maths(node)
        case "bullet_list" | "ordered_list":
            return _list(node)
        case "blockquote":
            return "\n".join(f"> {line}".rstrip() for line in _blocks(node.children).split("\n"))
        case "table":
            return _table(node)
        case "hr":
            return "___"
        case _:  # a rule of a later markdown-it: its words, not its marks
            return escape_text(node.content)


def _lines(node: SyntaxTreeNode) -> str:
    """A paragraph's or heading's inside; no line of it starts like a list, a heading or a rule."""
    text = "".join(_inline(inline.children) for inline in node.children)
    lines = [line for line in map(str.strip, text.split("\n")) if line.strip(_HARD_BREAK)]
    text = "\n".join(lines).removesuffix(_HARD_BREAK)
    return _LINE_START.sub(_plain_start, text).replace(_HARD_BREAK, "  ")


def _plain_start(match: re.Match[str]) -> str:
    number, stop, sign = match.groups()
    return f"{number or ''}&#{ord(stop or sign)};"


def _code(content: str, info: str, *, top: bool) -> str:
    content = content.removesuffix("\n")
    # Parsers disagree about fences inside lists, and nbconvert's looks for maths before it looks for fences.
    if _MATHS_MARK.search(content) if top else not _PLAIN_NESTED_CODE.fullmatch(content):
        return f"<pre><code>{_entities(content)}</code></pre>"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    language = _LANGUAGE.match(info.strip())
    return f"{fence}{language[0] if language else ''}\n{content}\n{fence}"


def _list(node: SyntaxTreeNode) -> str:
    first = int(node.attrs.get("start", 1))
    tight = _is_tight(node)
    items: list[str] = []
    for index, item in enumerate(node.children):
        marker = item.markup if node.type == "bullet_list" else f"{min(first + index, 999_999_999)}{item.markup}"
        body = ""
        for child in item.children:
            close = tight and child.type in ("bullet_list", "ordered_list")
            body += ("\n" if close else "\n\n") + _block(child, top=False) if body else _block(child, top=False)
        indent = " " * (len(marker) + 1)
        items.append(f"{marker} {body}".rstrip().replace("\n", f"\n{indent}").replace(f"\n{indent}\n", "\n\n"))
    loose = not tight or any("\n\n" in item for item in items)
    return ("\n\n" if loose else "\n").join(items)


def _is_tight(node: SyntaxTreeNode) -> bool:
    paragraphs = [child for item in node.children for child in item.children if child.type == "paragraph"]
    return all(paragraph.hidden for paragraph in paragraphs)


def _table(node: SyntaxTreeNode) -> str:
    rows = [row for part in node.children for row in part.children]
    lines = ["| " + " | ".join(_inline_of(cell) for cell in row.children) + " |" for row in rows]
    marks = {"text-align:left": ":--", "text-align:center": ":-:", "text-align:right": "--:"}
    rule = [marks.get(str(cell.attrs.get("style", "")), "---") for cell in rows[0].children]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _inline_of(cell: SyntaxTreeNode) -> str:
    return "".join(_inline(inline.children) for inline in cell.children).strip()


# Inline ------------------------------------------------------------------------------------------------


def _inline(nodes: Sequence[SyntaxTreeNode]) -> str:
    out = ""
    for node in nodes:
        piece = _span(node)
        if out.endswith("$") and piece.startswith("$"):  # `$a$$b$` would read as one display
            out += " "
        elif out.endswith("`") and piece.startswith("`"):  # and two pieces of code as one
            piece = _code_element(node.content)
        out += piece
    return out


def _span(node: SyntaxTreeNode) -> str:  # noqa: PLR0911  # one line a kind
    marks = {"em": "*", "strong": "**", "s": "~~"}
    match node.type:
        case "softbreak":
            return "\n"
        case "hardbreak":
            return f"{_HARD_BREAK}\n"
        case "code_inline":
            return f"`{node.content}`" if _PLAIN_CODE.fullmatch(node.content) else _code_element(node.content)
        case "math_inline":
            return _maths(node)
        case "link":
            return _link(_inline(node.children), str(node.attrs["href"]))
        case "image":
            alt = escape_text(_words(node)) or "image"
            return alt if _is_inside(node, "link") else _link(alt, str(node.attrs["src"]))
        case kind if kind in marks:
            return f"{marks[kind]}{_inline(node.children)}{marks[kind]}"
        case _:  # text, and what a rule of a later markdown-it may find: its words
            return escape_text(node.content)


def _maths(node: SyntaxTreeNode) -> str:
    tex = clean_tex(node.content, display=node.markup == "$$", in_table=_is_inside(node, "table"))
    return f"{node.markup}{tex}{node.markup}" if tex else ""


def _words(node: SyntaxTreeNode) -> str:
    return "".join(inner.content for inner in node.walk(include_self=False) if inner.type != "image")


def _is_inside(node: SyntaxTreeNode, kind: str) -> bool:
    while node.parent is not None:
        node = node.parent
        if node.type == kind:
            return True
    return False


def _code_element(code: str) -> str:
    return f"<code>{_entities(code)}</code>"


def _link(words: str, url: str) -> str:
    if not _WEB.match(url):  # `[x]()`; other schemes were no link to the parser either
        return words
    url = _UNSAFE_IN_URL.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), url)
    return f"[{words}]({url.replace('&', '&amp;')})"


def _entities(code: str) -> str:
    """Code in which no parser finds anything to do: all but letters, digits, blanks and commas as entities."""
    return re.sub(r"[^\w ,]|_", lambda match: f"&#{ord(match[0])};", code)
