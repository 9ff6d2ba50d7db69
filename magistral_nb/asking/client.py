"""The openai client of an endpoint, and its exceptions in our words."""

from __future__ import annotations

import importlib
import os
import re
import threading
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from magistral_nb.asking.endpoint import LOOPBACK, UNIX
from magistral_nb.asking.wire import error_text
from magistral_nb.errors import Rejected, Unauthorized, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    import openai

    from magistral_nb.asking.endpoint import Endpoint, Limits
    from magistral_nb.errors import AskFailed

_LONGEST_PAUSE = 60.0  # seconds; who wants us to wait longer is given up on
_FIRST_PAUSE = 0.5  # seconds; each further pause is twice as long
_UNREACHED_TRIES = 2
_BUSY_TRIES = 5
_BUSY = (429, 503)
_TURNED_AWAY = (301, 302, 303, 307, 401, 403)  # by a hub: to its login page, or flatly
_ON_A_HUB = re.compile(r"/user/.+/proxy/")  # how jupyter-server-proxy serves a port of somebody's machine
_PORTS = {"http": 80, "https": 443}
HUB_VARIABLE = "MAGISTRAL_NB_HUB_TOKEN"
# Where the hub is that this token is of: told by people, or by a hub that knows its own public address.
HUB_ADDRESSES = ("MAGISTRAL_NB_HUB", "JUPYTERHUB_PUBLIC_HUB_URL")

_clients: dict[tuple[str, str | None, Limits], openai.OpenAI] = {}
_lock = threading.Lock()


def client_for(endpoint: Endpoint) -> openai.OpenAI:
    """The one client, so the one pool of connections, of this endpoint; safe to share between threads.

    It never tries again by itself.

    Raises:
        Unreachable: the environment names a proxy that cannot be used.
        Unauthorized: a hub's token would travel readable, or to another host than its hub.
    """
    key = (endpoint.base_url, endpoint.api_key, endpoint.limits)
    with _lock:
        if key not in _clients:
            _clients[key] = _new_client(endpoint)
        return _clients[key]


def close_clients(base_url: str | None = None) -> None:
    """Close the connections to this address, or all; the next question opens new ones."""
    with _lock:
        for key in [key for key in _clients if base_url in (None, key[0])]:
            _clients.pop(key).close()


def _new_client(endpoint: Endpoint) -> openai.OpenAI:
    """Takes the endpoint and not its key: a verbose traceback prints every name that its lines speak of."""
    import openai

    limits = endpoint.limits
    timeout = openai.Timeout(limits.first_token, connect=limits.connect)
    options: dict[str, Any] = {"timeout": timeout}
    if endpoint.base_url.startswith(UNIX):
        # The client's own HTTP library, whichever that is: openai 3 changed it.
        library = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
        options["transport"] = library.HTTPTransport(uds=endpoint.base_url.removeprefix(UNIX))
    elif _is_local(endpoint):
        # What runs on this machine is asked directly: a proxy cannot reach it, and would be handed its key.
        options["trust_env"] = False
    if is_on_a_hub(endpoint):
        _check_hub(endpoint)
        options |= {"auth": _signed(endpoint), "follow_redirects": False}
    try:
        http = openai.DefaultHttpxClient(**options)
        # The client insists on a key; endpoints without one ignore it.
        return openai.OpenAI(
            base_url=endpoint.http_url, api_key=endpoint.api_key or "none", max_retries=0, http_client=http
        )
    except (ImportError, ValueError) as error:
        raise Unreachable(f"The proxy that the environment names cannot be used: {error}.") from error


def is_on_a_hub(endpoint: Endpoint) -> bool:
    """Whether it is reached through a JupyterHub, which wants a token of its own before anything else."""
    return _hub_token(endpoint) is not None


def _hub_token(endpoint: Endpoint) -> str | None:
    """A token that was meant for such servers. The notebook's own, which its hub gives it, goes to nobody.

    jupyter-server-proxy hands it on to whoever serves there, and an address may be anybody's.
    """
    if not _ON_A_HUB.search(urlsplit(endpoint.base_url).path):
        return None
    return os.environ.get(HUB_VARIABLE, "").strip() or None


def _check_hub(endpoint: Endpoint) -> None:
    """Refuse to tell a hub's token to anybody else: any address may look like one of a hub's.

    Raises:
        Unauthorized: this is not its hub, or what is sent there could be read.
    """
    hub = next((address for name in HUB_ADDRESSES if (address := os.environ.get(name, "").strip())), None)
    if hub is None:
        raise Unauthorized(
            f"{HUB_VARIABLE} is set, but not which hub may have it: set {HUB_ADDRESSES[0]} to the hub's address, such "
            "as https://hub.example.org."
        )
    if _origin(hub) != _origin(endpoint.base_url):
        raise Unauthorized(
            f"{endpoint.base_url} is not on the hub {hub}, so it is not sent {HUB_VARIABLE}: connect to an address "
            f"there, or unset {HUB_VARIABLE}."
        )
    if not _is_local(endpoint) and not endpoint.base_url.startswith("https:"):
        raise Unauthorized(
            f"{endpoint.base_url} wants Jupyter's own token, which would travel readable: connect to its https:// "
            "address."
        )


def _origin(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, by which browsers tell who may see what.

    Example:
        >>> _origin("https://Hub.example/user/ada/") == _origin("https://hub.example:443")
        True
    """
    try:
        parts = urlsplit(address)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:  # no port is written like that
        return address, None, None


def _is_local(endpoint: Endpoint) -> bool:
    return urlsplit(endpoint.base_url).hostname in LOOPBACK


def _signed(endpoint: Endpoint) -> Callable[[Any], Any]:
    """Signs each request as it leaves, so that the token stands in no object of ours.

    The hub reads Authorization, so the key of whoever is asked has to go elsewhere.
    """

    def sign(request: Any) -> Any:
        request.headers["Authorization"] = f"token {_hub_token(endpoint)}"
        if endpoint.api_key is not None:
            request.headers["X-API-Key"] = endpoint.api_key
        return request

    return sign


def beside(client: openai.OpenAI, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object that stands there, or answers this body; empty where there is none."""
    import openai

    try:
        reply: Any = client.get(url, cast_to=object) if body is None else client.post(url, cast_to=object, body=body)
    except openai.OpenAIError:
        return {}
    return reply if isinstance(reply, dict) else {}


def pause_before_retry(error: openai.OpenAIError, tries: int) -> float | None:
    """Seconds to wait before the question is sent again, None if it had better not be.

    A connection that failed is tried again twice, a server that is busy (429, 503) five times, and as late as
    it asks for (Retry-After), up to a minute.

    Args:
        error: what became of the last try; nothing of a reply had arrived.
        tries: how often it has been tried again already.
    """
    import openai

    pause = _FIRST_PAUSE * 2**tries
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in _BUSY or tries >= _BUSY_TRIES:
            return None
        asked = retry_after(error)
        pause = pause if asked is None else asked
        return pause if pause <= _LONGEST_PAUSE else None
    if isinstance(error, openai.APITimeoutError) and not found_nobody(error):
        return None  # it took the question, and may be at work on it
    if isinstance(error, openai.APIConnectionError):
        return pause if tries < _UNREACHED_TRIES else None
    return None


def found_nobody(error: openai.OpenAIError) -> bool:
    """Whether there was not even a connection, so that nobody was asked."""
    import openai

    return isinstance(error, openai.APIConnectionError) and "Connect" in type(error.__cause__).__name__


def retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the reply asks to wait, from its Retry-After: a number or a date."""
    said = error.response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        from datetime import datetime

        due = parsedate_to_datetime(said)
        return max(0.0, (due - datetime.now(due.tzinfo)).total_seconds())
    except ValueError:
        return None


def explain(error: openai.OpenAIError, endpoint: Endpoint) -> AskFailed:
    """The client's exception as one of ours, with what to type next."""
    import openai

    where = endpoint.base_url
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    if status in _TURNED_AWAY and _ON_A_HUB.search(urlsplit(where).path):
        # A notebook's own token reaches its own user's servers only, unless the hub is told otherwise.
        return Unauthorized(
            f"{where} turned the hub's token or the key away: set {HUB_VARIABLE} to a token of the hub with "
            "access:servers to that server, and MAGISTRAL_NB_API_KEY to your key."
        )
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return Unauthorized(
            f"{where} refused the key, or wants one: set MAGISTRAL_NB_API_KEY in the environment, then connect again."
        )
    if isinstance(error, openai.APIStatusError):
        said = error_text(error.body if error.body is not None else error.message)
        if said.startswith("<"):  # a page for people
            said = "a web page; is this an OpenAI-compatible server?"
        asked = retry_after(error) if error.status_code in _BUSY else None
        later = f" It asks to wait {asked:.0f} s: ask again then." if asked else ""
        return Rejected(f"{where} answered {error.status_code}: {said.rstrip('.')}.{later}")
    if isinstance(error, openai.APITimeoutError):
        return Unreachable(f"{where} did not answer in time: check that the server there is up, then ask again.")
    if isinstance(error, openai.APIConnectionError):
        return Unreachable(f"Nothing answers at {where}: check the address, and that the server there is up.")
    return Rejected(f"{where} did not answer as an OpenAI-compatible server does ({error}): is the address right?")
