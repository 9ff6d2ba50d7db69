r"""The sanitiser against what a model might write, and against two of the parsers that will read it.

`seen` is a page as a browser would build it: nbconvert's own parser, then the elements and attributes.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings, strategies as st
from markdown_it import MarkdownIt

from magistral_nb.views.safe_markdown import escape_text, sanitise_markdown

# A grammar of addresses that nbconvert's validator of notebooks takes a second to build, and can do without.
sys.modules.setdefault("rfc3987_syntax", None)
from nbconvert.filters.markdown_mistune import markdown2html_mistune  # noqa: E402

ALLOWED = {
    *(
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "pre",
        "code",
        "blockquote",
        "hr",
        "br",
        "div",
        "span",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "em", "strong", "del", "s", "a"),
}


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def by_nbconvert(markdown: str) -> Page:
    return Page(markdown2html_mistune(markdown))


def by_commonmark(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


def assert_harmless(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag in ALLOWED
        for name, value in attributes.items():
            assert name in {"href", "class", "id", "style", "start", "align"}
            if name == "href":
                assert re.match(r"(https?:|mailto:|#)", value or "", re.IGNORECASE)


def without_code(markdown: str) -> str:
    """The Markdown without its fences and without the three tags that the sanitiser itself writes."""
    markdown = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"</?(?:pre><)?code>(?:</pre>)?|</?pre>|<span>&#(?:36|92);</span>", "", markdown)


# Pieces that mean something to one of the parsers; strung together they try what no one thinks of.
PIECES = (
    r"""
<img src=x onerror=alert(1)>|<script>alert(1)</script>|<b>|</b>|<|&lt;|&#36;|&#60;svg onload=alert(1)&#62;|$|$$
\(|\)|\[|\]|\\[|\\]|\begin{a}|\end{a}|{|}|`|``|```|````|~~~|~~|- |* |1. |> |# |a |word| |*|**|_|\|[|]|(|)|!
[x](javascript:alert(1))|[x](http://e/a_b)|![i](http://e/i.png)|![](data:text/html,x)|[r]: javascript:alert(1)|[r]
<http://x>|<javascript:alert(1)>|<code>|</code>|<code>a</code>|<pre><code>x</code></pre>|<!--|-->|&Tab;|&NewLine;
@@0@@|```html" onload=1|```mermaid|===|---|%|\href{javascript:x}{y}|www.x.com|$" onclick=alert(1) "$|`$$`|&amp;|:
`<i onclick=1>`
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)
HOSTILE = st.lists(st.sampled_from([*PIECES, "\n", "\n\n", "\n    ", "| a | b |\n|---|---|\n"]), max_size=40).map(
    "".join
)


@settings(max_examples=400, deadline=None)
@given(HOSTILE | st.text())
@example("`$$` `$$` `<img src=x onerror=alert(1)>`")  # nbconvert looks for maths before it looks for code
@example("$\\begin{a}$\n\n```\n\\end{a} <img src=x onerror=alert(1)>\n```")
@example("$%\\$)$\n\n```\n$$ <img src=x onerror=alert(1)>\n```\n\n```\n$$ <img src=x onerror=alert(1)>\n```")
@example("```mermaid\n<script>alert(1)</script>\n```")  # nbconvert passes its text on unescaped
@example('```html" onload="alert(1)\nx\n```')
@example("- x\n  ```\n  <img src=x onerror=alert(1)>\n  ```")
@example("[x]: javascript:alert(1)\n\n[x]")
@example("\\![x](http://e/track.png)")
def test_nothing_a_model_writes_can_run(text):
    safe = sanitise_markdown(text)
    assert not re.search(r"<[A-Za-z/!?]", without_code(safe))
    assert_harmless(by_nbconvert(safe))
    assert_harmless(by_commonmark(safe))
    assert_harmless(by_nbconvert(sanitise_markdown(safe)))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_escaped_text_shows_exactly_its_words(text):
    words = re.sub(
        r"\s+", " ", re.sub("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]", "", re.sub(r"\s", " ", text))
    )
    shown = by_commonmark(f"x{escape_text(text)}x").text
    assert re.sub(r"\s+", " ", shown).strip() == f"x{words}x"


@pytest.mark.parametrize(
    "code",
    [
        "a < b",
        "<b>",
        "x",
        "a`b",
        "$x$ \\[y\\]",
        "a[i](j)",
        "# no heading",
        "| a |",
        "if a < b:\n    print(f'{a}')\n\n# end",
    ],
)
@pytest.mark.parametrize("place", ["{}", "text\n\n{}\n\nmore", "- item\n\n  {}", "> {}"])
def test_code_is_shown_as_it_is(code, place):
    indent = {"- item\n\n  {}": "\n  ", "> {}": "\n> "}.get(place, "\n")
    fence = f"```python\n{code}\n```".replace("\n", indent)
    safe = sanitise_markdown(place.format(fence))
    for page in (by_nbconvert(safe), by_commonmark(safe)):
        assert code in page.text
        assert "pre" in [tag for tag, _ in page.elements]
    if "\n" not in code and "`" not in code:
        safe = sanitise_markdown(place.format(f"`{code}`"))
        for page in (by_nbconvert(safe), by_commonmark(safe)):
            assert code in page.text
            assert "code" in [tag for tag, _ in page.elements]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (r"$x^2$", r"$x^2$"),
        (r"$a<b$", r"$a\lt b$"),
        (r"$a &lt; b$", r"$a \lt b$"),
        (r"\(a_1 < b\)", r"$a_1 \lt b$"),
        (r"\\(x\\)", r"$x$"),
        ("\\[\nx = 1\n\\]", r"$$x = 1$$"),
        ("$$\nx\n- y\n$$", r"$$x - y$$"),
        (r"so $$x$$ and", r"so $$x$$ and"),
        (r"\begin{align}a &= b \\ c &< d\end{align}", r"$$\begin{align}a &= b \\ c &\lt d\end{align}$$"),
        (r"$\text{50\%}$ % no comment", r"$\text{50\%}$ % no comment"),
        ("$$x % a comment\n+ y$$", "$$x + y$$"),
        (r"$\href{javascript:alert(1)}{x}$", r"${}{x}$"),
        (r"$\\href$", r"$\\ href$"),
        (r"$\require{html}\bbox[background:url(//e)]{x}$", r"${}{}{x}$"),
        ('$x"y`z$', "$x\N{RIGHT DOUBLE QUOTATION MARK}y\N{LEFT SINGLE QUOTATION MARK}z$"),
        ("$a$$b$", "$a$ $b$"),
        ("- item \\[x\\]", "- item $$x$$"),
    ],
)
def test_maths_stays_maths(written, shown):
    assert sanitise_markdown(written) == shown
    assert sanitise_markdown(shown) == shown


@pytest.mark.parametrize(
    "text", ["from $5 to $10", "$ 5 and $ 6", "$x", "a $$ b", r"$\{ {$", r"$\begin{a}$ x $\end{a}$"]
)
def test_what_is_no_maths_shows_its_dollars_and_is_not_set(text):
    safe = sanitise_markdown(text)
    assert "$" not in safe  # MathJax looks at the page's text: a <span> keeps each dollar from its neighbours
    assert by_commonmark(safe).text.strip() == text.replace(r"\{", "{")


@pytest.mark.parametrize(
    "text",
    [
        "# Title with `code` and *em*\n\ntwo **strong** and ~~gone~~ words",
        "1. one\n2. two\n   - nested\n     - deep\n\n3. three",
        "- a\n- b\n\n\n* other list\n+ third",
        "7) seven\n8) eight",
        "| a | b |\n|---|:-:|\n| 1 | *2* |\n| `x` | [l](http://e/) |",
        "> quoted\n> - list\n>\n> more",
        "hard  \nbreak and soft\nbreak",
        "a\n\n***\n\nb",
        "Setext\n===\n\nsecond\n---",
        "[link](https://e.org/a_b?c=d&e=f) <https://e.org> <mailto:a@b.org>",
        "Unicode é 🐌 &eacute; &nbsp; x",
        "    indented\n    code",
        "```python\nif a < b:\n    x = `1`\n```\n\n~~~\n```\n~~~",
        "2 * 3 * 4, snake_case, C#, 3.14, -5, a > b, e.g. x+y",
        "\\* not a list\n\\# no heading \\\\ \\`x\\`",
        "3\\. three\n\\- dash\n\\+ plus",
        "***both***, **a *b* c**",
    ],
)
def test_markdown_means_what_it_meant(text):
    def tree(markdown: str) -> list[object]:
        parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        page = Page(parser.render(markdown))
        shape = [
            (tag, {k: v for k, v in attrs.items() if k != "class"}) for tag, attrs in page.elements if tag != "span"
        ]
        return [shape, re.sub(r"\s+", " ", page.text)]

    safe = sanitise_markdown(text)
    assert tree(safe) == tree(text)
    assert sanitise_markdown(safe) == safe


def test_images_are_links_because_fetching_one_tells_its_server():
    assert sanitise_markdown("![a dog](https://e.org/d.png)") == "[a dog](https://e.org/d.png)"
    assert sanitise_markdown("[![badge](https://e.org/b.svg)](https://e.org)") == "[badge](https://e.org)"


@pytest.mark.parametrize(
    "scheme", ["javascript", "JavaScript", "data", "vbscript", "file", "attachment", "java&#115;cript"]
)
def test_other_links_are_words(scheme):
    for text in (f"[x]({scheme}:alert(1))", f"![x]({scheme}:alert(1))", f"<{scheme}:alert(1)>"):
        safe = sanitise_markdown(text)
        assert not [tag for tag, _ in by_commonmark(safe).elements if tag != "p"]


def test_links_keep_their_addresses():
    safe = sanitise_markdown("[x](<https://e.org/a b$c*d(e)|f>)")
    assert safe == "[x](https://e.org/a%20b%24c%2Ad%28e%29%7Cf)"


@pytest.mark.parametrize(
    "piece", ["$", "$a ", "\\(x ", "\\[\nx\n", "$$\nx\n", "\\begin{a}", "`a", "> ", "- ", "*a ", "[", "<", "${"]
)
@pytest.mark.timeout(20)
def test_a_model_caught_in_a_loop_does_not_hang_the_notebook(piece):
    sanitise_markdown(piece * 3000)
