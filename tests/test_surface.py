"""What can be typed has one name everywhere, and the README says it as the code has it."""

from __future__ import annotations

import inspect

import pytest
import surface

import magistral_nb
from magistral_nb import cli, magics

TOPICS = {verb.topic: verb for verb in surface.VERBS if verb.topic}


def test_the_readme_has_the_tables_of_this_code():
    readme = surface.README.read_text(encoding="utf-8")
    assert readme == surface.written(readme), "python tests/surface.py writes them anew"


def test_every_verb_has_its_place():
    names = {name for verb in surface.VERBS for name in verb.python}
    callables = {name for name in magistral_nb._ROOMS if inspect.isfunction(getattr(magistral_nb, name))}
    assert callables == {name for name in names if "." not in name}
    assert set(magics._MAGICS) == {verb.magic for verb in surface.VERBS if verb.magic}
    assert set(cli._VERBS) == {verb.command for verb in surface.VERBS}


@pytest.mark.parametrize("topic", TOPICS)
def test_magic_and_command_have_the_same_options(topic):
    verb = TOPICS[topic]
    magic = set(surface.options_of(surface.parser_of_magic(verb.magic)))
    command = set(surface.options_of(surface.parser_of_command(verb.command)))
    assert magic - command == {name for its_topic, name in surface.NOTEBOOK_ONLY if its_topic == topic}
    assert command - magic == {name for its_topic, name in surface.TERMINAL_ONLY if its_topic == topic}


@pytest.mark.parametrize("topic", TOPICS)
def test_an_option_is_a_keyword_of_the_same_name(topic):
    verb = TOPICS[topic]
    parsers = surface.parser_of_magic(verb.magic), surface.parser_of_command(verb.command)
    typed = {name: action for parser in parsers for name, action in surface.options_of(parser).items()}
    excused = {name for its_topic, name in surface.NOT_A_KEYWORD if its_topic == topic}
    assert excused <= set(typed), "an excuse for what there is not"
    names = {name.removeprefix("--").replace("-", "_") for name in set(typed) - excused}
    assert names == {typed[name].dest for name in set(typed) - excused}
    assert names <= {name for function in verb.python[:1] for name in surface.arguments_of(function)}
    untyped = {name for function in verb.python[:1] for name in surface.keywords_of(function)} - names
    assert untyped == {name for its_topic, name in surface.NOT_AN_OPTION if its_topic == topic}


def test_what_is_awaited_takes_what_blocks_takes():
    assert set(surface.arguments_of("reason")) - set(surface.arguments_of("areason")) <= {"views"}
    assert set(surface.arguments_of("areason")) <= set(surface.arguments_of("reason"))
