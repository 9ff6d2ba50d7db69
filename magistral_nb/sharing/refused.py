"""What the proxy answers instead of passing a request on."""

from __future__ import annotations

import math
from typing import Any

# What OpenAI's errors call these; its clients look at the status alone.
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER_ERROR = 500


class Refused(Exception):
    """A request is refused, or what runs is ended, with one clear line.

    Attributes:
        status: of the HTTP reply.
        message: the line.
        headers: of the HTTP reply.

    Example:
        >>> Refused(429, "Wait a little.", retry_after=2.5).headers
        {'Retry-After': '3'}
    """

    def __init__(self, status: int, message: str, *, retry_after: float | None = None, allow: str = "") -> None:
        """Refuse.

        Args:
            status: of the HTTP reply.
            message: the line.
            retry_after: seconds after which asking again makes sense.
            allow: the method that would have been right.
        """
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"Allow": allow} if allow else {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    @property
    def body(self) -> dict[str, Any]:
        """The line in OpenAI's form."""
        kind = "server_error" if self.status >= _SERVER_ERROR else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.status}}
