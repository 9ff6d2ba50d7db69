"""Handles on servers and which one is meant, by state files alone."""

from __future__ import annotations

import os

import pytest
from machines import MACHINES
from planning import plan_on

from magistral_nb import commands, errors, paths
from magistral_nb.processes import Process
from magistral_nb.serving import registry
from magistral_nb.serving.registry import ServerState
from magistral_nb.serving.server import Server, find_server

ME = Process.of(os.getpid())


@pytest.fixture
def known(monkeypatch):
    """Have a state file, of a server that is ready unless told otherwise."""
    plan = plan_on(MACHINES["H100 80"], "2506")

    def save(name, **changes):
        state = ServerState(
            name=name,
            status="ready",
            plan=plan,
            api_key="k",
            log_path="/dev/null",
            base_url="http://127.0.0.1:9/v1",
            engine=ME,
            supervisor=ME,
        ).with_(**changes)
        registry.save(registry.path_of(name), state)
        return state

    return save


def test_a_server_that_is_up_is_meant_rather_than_one_that_has_ended(known):
    known("default", status="ended", error="nobody asked it for 60m")
    known("second")
    assert find_server().name == "second"
    known("third", status="failed")
    assert find_server().name == "second"
    known("fourth")
    with pytest.raises(errors.ServerNotFound, match=r"Several servers are known \(fourth, second\)"):
        find_server()
    known("default")
    assert find_server().name == "default"


def test_where_all_have_ended_it_is_as_if_they_ran(known):
    known("default", status="ended")
    known("second", status="failed")
    assert find_server().name == "default"


def test_status_says_why_a_server_has_ended_and_how_to_start_it_again(known):
    known("default", status="ended", error="nobody asked it for 60m, which is its --idle-stop")
    told = commands.status_table([Server()])
    assert "nobody asked it for 60m, which is its --idle-stop. To start it again: %magistral_serve 2506" in told
    assert "%magistral_logs" not in told


def test_status_reads_each_state_once(known, monkeypatch):
    """Or one that is stopped meanwhile would end the table."""
    known("default", status="booting")
    server = Server()
    state = server.state()
    monkeypatch.setattr(server, "state", lambda: state)
    registry.forget("default")
    assert "booting" in commands.status_table([server])


def test_a_handle_can_be_shown_whatever_has_become_of_its_server(known, monkeypatch):
    known("default", status="failed")
    assert "failed" in repr(Server())
    registry.path_of("default").write_text("{}")
    assert repr(Server()) == "<Server 'default': stopped>"

    def nowhere():
        raise errors.MagistralError("no home")

    monkeypatch.setattr(paths, "servers", nowhere)
    assert repr(Server()) == "<Server 'default': stopped>"


def test_a_clock_that_was_set_back_gives_no_negative_minutes(known):
    known("default", created=4e9)
    assert " 0 min " in commands.status_table([Server()])
