"""Advice on a running server, from readings over time (metrics made up; tests/engine reads a real page)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from magistral_nb.errors import Unreachable
from magistral_nb.serving import watching
from magistral_nb.serving.metrics import Metrics

CALM = Metrics(
    when=0.0, running=2, waiting=0, kv_cache_share=0.1, generated_tokens=0, prompt_tokens=0, finished=0, preemptions=0
)


@pytest.fixture
def server(monkeypatch):
    """A server whose readings are those that the test puts into its list."""
    monkeypatch.setattr(watching, "_APART", 0)
    monkeypatch.setattr(watching, "_seen", type(watching._seen)(watching._seen.default_factory))
    plan = SimpleNamespace(max_num_seqs=4, context=40_960, devices=())
    state = SimpleNamespace(name="default", created=1.0, status="ready", plan=plan, context=None)
    readings = []

    def read(_endpoint):
        if not readings:
            raise Unreachable("nothing there")
        return readings.pop(0)

    monkeypatch.setattr(watching.metrics, "read", read)
    return SimpleNamespace(state=lambda: state, endpoint=None, readings=readings, told=state)


def test_a_calm_server_needs_no_advice(server):
    server.readings += [CALM, replace(CALM, when=0.5)]
    assert watching.advise(server) == ()
    assert not server.readings, "a first look takes two readings"


def test_an_idle_one_is_read_once(server):
    server.readings += [replace(CALM, running=0), CALM]
    assert watching.advise(server) == ()
    assert len(server.readings) == 1


def test_a_preemption_between_two_looks_is_told(server):
    server.readings += [CALM, replace(CALM, when=0.5), replace(CALM, when=30.0, preemptions=3)]
    assert watching.advise(server) == ()
    (told,) = watching.advise(server)
    assert told.id == "preemptions"


def test_what_lies_minutes_back_is_forgotten(server):
    server.readings += [CALM, replace(CALM, when=0.5), replace(CALM, when=500.0, preemptions=3)]
    watching.advise(server)
    assert watching.advise(server) == ()


def test_a_server_without_metrics_or_still_booting_is_left_alone(server):
    assert watching.advise(server) == ()
    server.told.status = "booting"
    server.readings.append(replace(CALM, kv_cache_share=0.99))
    assert watching.advise(server) == ()
    assert server.readings
