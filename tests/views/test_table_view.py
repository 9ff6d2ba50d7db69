"""Plans and surveys as people see them."""

from __future__ import annotations

import io

from magistral_nb.views.table_view import show_table, table_html

ROWS = [("context", "2,048 tokens", "all that the model has"), ("thinking", "reasoning", "")]


def test_every_row_is_shown_with_its_reason():
    out = io.StringIO()
    show_table("A plan", ROWS, ["A note."], rich=False, stream=out)
    assert out.getvalue().splitlines() == [
        "A plan",
        "  context   2,048 tokens  all that the model has",
        "  thinking  reasoning",
        "A note.",
    ]
    page = table_html("A plan", ROWS, ["A note."])
    assert all(word in page for row in ROWS for word in row)


def test_a_source_stands_behind_its_reason():
    rows = [("KV cache", "64 MiB", "set, as vLLM takes 10 GiB otherwise", "measured with vLLM 0.32")]
    out = io.StringIO()
    show_table("A plan", rows, rich=False, stream=out)
    assert out.getvalue().endswith("otherwise [measured with vLLM 0.32]\n")
    assert "measured with vLLM 0.32</i></td>" in table_html("A plan", rows)


def test_a_name_is_no_html_and_drives_no_terminal():
    hostile = "/tmp/<img src=x onerror=alert(1)>"
    assert "<img" not in table_html(hostile, [(hostile,) * 3], [hostile])
    out = io.StringIO()
    show_table("\x1b[2J", [("\x1b]0;x\x07", "", "")], rich=False, stream=out)
    assert "\x1b" not in out.getvalue()
