"""A server behind JupyterHub and jupyter-server-proxy (a scripted server stands for both, no engine)."""

from __future__ import annotations

import pytest
from stand_in import Reply, StandIn, content, deltas, done, finish, refuse

from magistral_nb import errors
from magistral_nb.asking import client
from magistral_nb.asking.endpoint import Endpoint, Question
from magistral_nb.asking.running import Running

GOOD = deltas([content("4"), finish("stop"), done()])
PATH = "/user/ada/proxy/8000/v1"


@pytest.fixture
def nowhere(monkeypatch):
    """The environment of a notebook on no hub."""
    for name in (client.HUB_VARIABLE, *client.HUB_ADDRESSES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def hub(nowhere, stand_in):
    """The environment of a notebook on a hub, whose owner has made a token for such servers."""
    nowhere.setenv(client.HUB_VARIABLE, "hub-secret")
    nowhere.setenv(client.HUB_ADDRESSES[0], stand_in.root)
    return nowhere


def ask(root, path=PATH, key="k-123"):
    return Running(Endpoint(f"{root}{path}", "m", api_key=key), Question(text="2+2?")).follow([])


def headers(stand_in, path=PATH, **how):
    stand_in.enqueue(GOOD)
    assert ask(stand_in.root, path, **how).text == "4"
    sent = stand_in.requests[-1].headers
    return sent.get("authorization"), sent.get("x-api-key")


@pytest.mark.parametrize("path", [PATH, "/hub-base/user/ada/lab-2/proxy/8000/v1", "/user/a%40b.c/proxy/absolute/80/v1"])
def test_the_hub_gets_its_token_and_the_server_its_key(hub, stand_in, path):
    assert headers(stand_in, path) == ("token hub-secret", "k-123")


def test_without_a_key_there_is_none(hub, stand_in):
    assert headers(stand_in, key=None) == ("token hub-secret", None)


@pytest.mark.parametrize("path", ["/v1", "/proxy/8000/v1", "/user/ada/v1"])
def test_nobody_else_is_told_the_token(hub, stand_in, path):
    assert headers(stand_in, path) == ("Bearer k-123", None)


def test_the_notebook_s_own_token_goes_to_nobody(nowhere, stand_in):
    nowhere.setenv("JUPYTERHUB_API_TOKEN", "its-own")
    assert headers(stand_in) == ("Bearer k-123", None)


def test_outside_of_a_hub_nothing_changes(nowhere, stand_in):
    assert headers(stand_in) == ("Bearer k-123", None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_enough_says_who_can_help(hub, stand_in, status):
    stand_in.enqueue(refuse(status, "no"))
    with pytest.raises(errors.Unauthorized, match=r"MAGISTRAL_NB_HUB_TOKEN to a token .* with access:servers"):
        ask(stand_in.root)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1", "http://127.0.0.1", "https://hub.example", "http://localhost:{port}", "https://127.0.0.1:{port}",
     "http://127.0.0.1:{port}0", "127.0.0.1:{port}"],
)  # fmt: skip
def test_the_token_goes_to_its_own_hub_only(hub, stand_in, address):
    address = address.format(port=stand_in.root.rpartition(":")[2])
    hub.setenv(client.HUB_ADDRESSES[0], address)
    with pytest.raises(
        errors.Unauthorized, match=r"is not on the hub .*: connect to an address there, or unset"
    ) as caught:
        ask(stand_in.root)
    assert not stand_in.requests
    assert "hub-secret" not in str(caught.value)


def test_a_token_of_an_unknown_hub_goes_nowhere(hub, stand_in):
    hub.delenv(client.HUB_ADDRESSES[0])
    with pytest.raises(errors.Unauthorized, match=r"set MAGISTRAL_NB_HUB to the hub's address"):
        ask(stand_in.root)
    assert not stand_in.requests


def test_a_hub_tells_its_notebooks_where_it_is(hub, stand_in):
    hub.delenv(client.HUB_ADDRESSES[0])
    hub.setenv("JUPYTERHUB_PUBLIC_HUB_URL", f"{stand_in.root}/hub/")
    assert headers(stand_in) == ("token hub-secret", "k-123")


def test_the_token_does_not_travel_readable(hub):
    hub.setenv(client.HUB_ADDRESSES[0], "http://hub.example")
    with pytest.raises(errors.Unauthorized, match=r"would travel readable: connect to its https://") as caught:
        ask("http://hub.example")
    assert "hub-secret" not in str(caught.value)


def test_a_redirect_takes_neither_token_nor_key_elsewhere(hub, stand_in):
    with StandIn() as elsewhere:
        stand_in.enqueue(Reply(302, {"Location": f"{elsewhere.root}/login"}))
        with pytest.raises(errors.Unauthorized, match="access:servers"):
            ask(stand_in.root)
        assert not elsewhere.requests


@pytest.mark.parametrize("replies", [[refuse(400, "no")], [refuse(403, "no")], []])
def test_neither_is_in_any_traceback_however_verbose(hub, stand_in, replies, monkeypatch):
    from IPython.core.ultratb import VerboseTB

    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    stand_in.enqueue(*replies)
    if not replies:
        stand_in.close()
    with pytest.raises(errors.AskFailed) as caught:
        ask(stand_in.root)
    ours = caught.value.__traceback__
    while ours.tb_frame.f_code.co_filename == __file__:  # whose lines name the key
        ours = ours.tb_next
    text = VerboseTB().text(type(caught.value), caught.value, ours)
    assert "k-123" not in text
    text += repr(client.client_for(Endpoint(f"{stand_in.root}{PATH}", "m", api_key="k-123")).__dict__)
    assert "hub-secret" not in text
