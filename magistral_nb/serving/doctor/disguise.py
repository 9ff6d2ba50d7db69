"""What a page that is shown to strangers must not tell: secrets, who wrote it, and on which machine."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magistral_nb.serving.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Of a variable; TOKENIZERS_PARALLELISM and PIP_KEYRING_PROVIDER hold none.
_SECRET = re.compile(r"KEY(?!BOARD|RING)|TOKEN(?!S|IZ)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|JWT", re.IGNORECASE)
_LOGIN = re.compile(r"(\w://)\S*@")  # a token may stand alone there, and a password may have a slash in it
_SHORTEST = 6  # characters; "EMPTY" is what local servers are given for a key
_NOBODY = frozenset({"root", "user", "ubuntu", "jovyan", "nobody", "localhost"})  # as images call everybody


@dataclass(frozen=True, slots=True)
class Disguise:
    """What is hidden.

    Attributes:
        homes: folders that are written as ~.
        users: names of this user.
        hosts: names of this machine.
        secrets: known ones, which are hidden wherever they stand.

    Example:
        >>> ada = Disguise(homes=("/home/ada",), users=("ada",), hosts=("node17",), secrets=("correct horse",))
        >>> ada.hides("/home/ada/models, /scratch/ada on node17.cluster.test: correct horse")
        '~/models, /scratch/<user> on <host>: ***'
    """

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def hides(self, text: str) -> str:
        """The text as strangers may read it, on one line."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        text = _LOGIN.sub(r"\1***@", masked(text))
        for home in sorted(self.homes, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(home)}(?![\w.-])", "~", text)
        for host in self.hosts:
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(\.[a-z][\w-]*)*(?![\w-])", "<host>", text, flags=re.IGNORECASE)
        for user in self.users:
            text = re.sub(rf"(?<![^\W_]){re.escape(user)}(?![^\W_])", "<user>", text)
        return "".join(char if char.isprintable() else " " for char in text)


def disguise(environment: Mapping[str, str], keys: Iterable[str] = ()) -> Disguise:
    """What is to be hidden of this user, on this machine.

    Args:
        environment: of this process.
        keys: of servers.
    """
    homes, users = {environment.get("HOME")}, {environment.get(name) for name in ("USER", "LOGNAME", "USERNAME")}
    with contextlib.suppress(Exception):
        homes |= {str(Path.home()), os.path.realpath(Path.home())}
    with contextlib.suppress(Exception):  # Windows has no such table, and a container's user may be in none
        import pwd

        entry = pwd.getpwuid(os.getuid())
        homes.add(entry.pw_dir)
        users.add(entry.pw_name)
    hosts = {platform.node(), environment.get("HOSTNAME")}
    hosts |= {host.partition(".")[0] for host in hosts if host}
    return Disguise(
        homes=tuple(sorted(home.rstrip("/") for home in homes if home and home.count("/") and home != "/")),
        users=tuple(sorted(user for user in users if user and user not in _NOBODY)),
        hosts=tuple(sorted(host for host in hosts if host and host not in _NOBODY)),
        secrets=tuple(sorted(filter(_is_long, {*keys, *secrets_in(environment)}))),
    )


def is_secret(variable: str) -> bool:
    """Whether the value of a variable of this name is not for others.

    Example:
        >>> [name for name in ("HF_TOKEN", "VLLM_API_KEY", "SLURM_JWT", "TOKENIZERS_PARALLELISM") if is_secret(name)]
        ['HF_TOKEN', 'VLLM_API_KEY', 'SLURM_JWT']
    """
    return _SECRET.search(variable) is not None


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Values of variables that are secret, and passwords in addresses, of proxies as a rule.

    Example:
        >>> sorted(secrets_in({"HF_TOKEN": "abcdefgh", "https_proxy": "http://ada:hunter2@proxy.test:3128"}))
        ['abcdefgh', 'hunter2']
    """
    logins = (value.rpartition("@")[0].rpartition("//")[2] for value in environment.values() if "@" in value)
    return {value for name, value in environment.items() if is_secret(name)} | {
        password for login in logins if (password := login.partition(":")[2])
    }


def _is_long(secret: str) -> bool:
    return len(secret) >= _SHORTEST
