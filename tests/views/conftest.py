"""What a page would have seen: displays and comm messages, caught at the two places where they leave."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest


@dataclass
class Page:
    displays: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The trace view's messages, whichever of its two ways they took."""
        found = []
        for message in self.messages:
            if message.get("method") == "custom":
                found.append(message["content"])
            elif message.get("method") == "update" and "so_far" in message["state"]:
                found.append(message["state"]["so_far"])
        return found

    @property
    def bytes_sent(self) -> int:
        return sum(len(json.dumps(message, ensure_ascii=False).encode()) for message in self.sent)

    def read(self, name: str) -> str:
        """The text that the page has, put together as trace_view.js does."""
        text = ""
        for message in self.sent:
            if name in message:
                start, piece = message[name]
                assert start <= len(text), "a piece is missing"
                text += piece[len(text) - start :]
        return text


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    from ipywidgets.widgets import widget

    page = Page()

    def display(bundle: Any, *, metadata: Any, raw: bool, display_id: str, update: bool) -> None:
        assert raw
        page.displays.append({"content": bundle, "metadata": metadata, "id": display_id, "update": update})

    if hasattr(widget, "Comm"):  # ipywidgets 7 takes ipykernel's own
        monkeypatch.setattr(widget, "Comm", _fake_comm(page, widget.Comm))
    else:
        import comm
        from comm.base_comm import BaseComm

        monkeypatch.setattr(comm, "create_comm", _fake_comm(page, BaseComm))
    monkeypatch.setattr("IPython.display.display", display)
    return page


def _fake_comm(page: Page, base: type) -> type:
    class FakeComm(base):
        kernel = mock.Mock()  # ipywidgets 7 sends nothing without one

        def publish_msg(self, msg_type: str, data: Any = None, **_: Any) -> None:
            if msg_type == "comm_open":
                page.opened.append(data)
            elif msg_type == "comm_msg":
                page.messages.append(json.loads(json.dumps(data)))
            elif msg_type == "comm_close":
                page.closed.append(self.comm_id)

        _publish_msg = publish_msg  # ipykernel's name for it before 6.18

    return FakeComm
