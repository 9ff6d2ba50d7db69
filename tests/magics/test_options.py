"""What people type."""

from __future__ import annotations

import pytest

from magistral_nb import errors, options
from magistral_nb.magics.interpolate import interpolate


@pytest.mark.parametrize(
    ("line", "words", "question"),
    [
        ("What's 2+2?", [], "What's 2+2?"),
        ("--quiet What's 2+2?", ["--quiet"], "What's 2+2?"),
        ("--seed 3 -5 + 3 = ?", ["--seed", "3"], "-5 + 3 = ?"),
        ("--seed=3 x", ["--seed", "3"], "x"),
        ('--system "Be  brief." x "y"', ["--system", "Be  brief."], 'x "y"'),
        ("--system", ["--system"], ""),
        ("", [], ""),
    ],
)
def test_question_is_kept_as_written(line, words, question):
    assert options.split_question(line, options.reason_options("%reason")) == (words, question)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--contxt", "5"], "did you mean --context"),
        (["--context", "many"], "number of tokens"),
        (["--quantization", "int3"], "int3"),
        (["abacus", "2506"], "2506"),
        (["--port"], "expected one argument"),
    ],
)
def test_complaints_are_one_line_with_a_remedy(words, says):
    with pytest.raises(errors.InvalidOption, match=says) as caught:
        options.serve_options("%magistral_serve").parse_args(words)
    assert "\n" not in str(caught.value)


def test_help_is_the_options_text():
    with pytest.raises(options.Help, match="--context"):
        options.serve_options("%magistral_serve").parse_args(["--help"])


def test_an_open_quotation_mark_is_told():
    with pytest.raises(errors.InvalidOption, match="not closed"):
        options.split_words('--system "oh')


def test_system_from_a_file(tmp_path):
    (tmp_path / "prompt.txt").write_text("Think in verse.", encoding="utf-8")
    assert options.read_system(f"@{tmp_path / 'prompt.txt'}") == "Think in verse."
    assert options.read_system("plain") == "plain"
    with pytest.raises(errors.InvalidOption, match="cannot be read"):
        options.read_system("@/nowhere.txt")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Is {n} prime?", "Is 7 prime?"),
        ("{n}{n}", "7{n}"),
        ("({n}), '{n}' and x{n}", "(7), '7' and x7"),
        ("{unknown} {n.real} {n:02d}", "{unknown} {n.real} {n:02d}"),
        ('{"n": {n}}', '{"n": 7}'),
        (r"\frac{n}{n} \sqrt[n]{n} x^{n} x_{n}", r"\frac{n}{n} \sqrt[n]{n} x^{n} x_{n}"),
        (r"\frac{\sqrt{n}}{n}", r"\frac{\sqrt{n}}{n}"),
        (r"\begin{n} {{n}}", r"\begin{n} {{n}}"),
        ("{m}", "{n}"),
    ],
)
def test_interpolation_leaves_json_and_latex_alone(text, result):
    assert interpolate(text, {"n": 7, "m": "{n}"}) == result
