"""How students reach a shared server, and what that way keeps secret."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from magistral_nb.asking.endpoint import LOOPBACK

if TYPE_CHECKING:
    from magistral_nb.sharing.usage import Report

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with
_ELSEWHERE = ("192.0.2.1", 9)  # an address that documentation may use (RFC 5737); nothing is sent there


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that shares.

    Attributes:
        address: its own on its network.
        login: as ssh takes it.
        hub_prefix: path of this user's Jupyter server on a hub, such as "/user/ada/"; None is no hub.
    """

    address: str
    login: str
    hub_prefix: str | None = None

    @staticmethod
    def here() -> Machine:
        """This one."""
        name = socket.gethostname()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(_ELSEWHERE)  # asks for the way only
                address = str(probe.getsockname()[0])
        except OSError:
            address = name
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without a name
            user = "USER"
        return Machine(address, f"{user}@{name}", os.environ.get("JUPYTERHUB_SERVICE_PREFIX"))


def ways(report: Report, machine: Machine) -> list[str]:
    """How students get there, in lines.

    Example:
        >>> from magistral_nb.processes import Process
        >>> from magistral_nb.sharing.usage import Report
        >>> report = Report(Process(1, 0.0), "0.0.0.0", 8443, tls=False, seats=8)
        >>> ways(report, Machine("10.0.0.5", "ada@gpu"))[0]
        'On the same network: http://10.0.0.5:8443/v1'
    """
    scheme = "https" if report.tls else "http"
    loopback = "[::1]" if report.host == "::1" else "127.0.0.1"
    local = f"{scheme}://{loopback}:{report.port}/v1"
    is_near, is_on_hub = report.host in LOOPBACK, machine.hub_prefix is not None
    lines = []
    if is_near and is_on_hub:
        lines.append(f"On a hub that is this one machine: {local}, for all of its users.")
        lines.append(
            "On a hub with a pod for each user: share with --share-host 0.0.0.0, and students take its address."
        )
    elif is_near:
        lines.append(f"On this machine: {local}")
        lines.append(
            f"Through a tunnel: ssh -N -L {report.port}:{loopback}:{report.port} {machine.login}, then {local}"
        )
    else:
        host = machine.address if report.host in _ANY else report.host
        where = "On the same network, from pod to pod as well" if is_on_hub else "On the same network"
        lines.append(f"{where}: {scheme}://{f'[{host}]' if ':' in host else host}:{report.port}/v1")
    if machine.hub_prefix is not None and not report.tls:
        lines.append(_through_hub(machine.hub_prefix, report.port))
    lines.append(_secrecy(report))
    lines.append("A student types %magistral_connect ADDRESS; the key is asked for, and not shown.")
    return lines


def _through_hub(prefix: str, port: int) -> str:
    """The way that gives most away: jupyter-server-proxy asks for the same access as the terminal and the kernels."""
    user, _, name = unquote(prefix).partition("/user/")[2].rstrip("/").partition("/")
    return (
        f"Where neither is possible, by jupyter-server-proxy: https://HUB{prefix}proxy/{port}/v1. Students then need "
        "access to your server, and whoever may access your server can run code as you. Their token, in "
        f"MAGISTRAL_NB_HUB_TOKEN, should have the single scope access:servers!server={user}/{name}; MAGISTRAL_NB_HUB "
        "is the hub's address."
    )


def _secrecy(report: Report) -> str:
    if report.tls:
        return "TLS: keys and questions travel encrypted, if students' machines trust the certificate."
    if report.host in LOOPBACK:
        return (
            "No TLS, but nothing leaves this machine except through a tunnel or a hub whose address begins with https: "
            "both encrypt."
        )
    return (
        "No TLS: whoever listens on this network can read keys, questions and answers. Use --share-cert, a tunnel or "
        "a hub where that matters."
    )
