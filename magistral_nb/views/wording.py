"""Numbers and model text in the words that every view uses."""

from __future__ import annotations

import math
import re

# C0 and C1 controls but for tab and newline, DEL, and halves of characters that no encoding can write.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_HOUR = 60  # minutes


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    Example:
        >>> duration(0.42), duration(14.2), duration(125), duration(7_380)
        ('0.4 s', '14 s', '2 min 05 s', '2 h 03 min')
    """
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 59.5:  # noqa: PLR2004 - 59.6 is shown as a minute, never as "60 s"
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < _HOUR:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // _HOUR} h {minutes % _HOUR:02d} min"


def token_count(tokens: int | None) -> str | None:
    """A number of tokens, None where it is unknown or none.

    Example:
        >>> token_count(1655), token_count(1), token_count(None)
        ('1,655 tokens', '1 token', None)
    """
    if not tokens:
        return None
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def token_rate(tokens_per_second: float | None) -> str | None:
    """Tokens per second, None where they are unknown.

    Example:
        >>> token_rate(118.4), token_rate(3.21), token_rate(None)
        ('118 tok/s', '3.2 tok/s', None)
    """
    if not tokens_per_second:
        return None
    return f"{tokens_per_second:,.0f} tok/s" if tokens_per_second >= 10 else f"{tokens_per_second:.1f} tok/s"  # noqa: PLR2004


def cost_in_words(cost: float | None) -> str | None:
    """A cost with two digits that count, None where it is unknown or none; its currency is the asker's.

    Example:
        >>> cost_in_words(0.00312), cost_in_words(0.5), cost_in_words(1234.5), cost_in_words(None)
        ('cost 0.0031', 'cost 0.50', 'cost 1,234.50', None)
    """
    if cost is None or not 0 < cost < math.inf:
        return None
    return f"cost {cost:,.{max(2, 1 - math.floor(math.log10(cost)))}f}"


def printable(text: str) -> str:
    r"""Text whose control characters are shown instead of obeyed: a terminal would run an escape sequence.

    Example:
        >>> printable("\x1b[2Jgone\r\n")
        '␛[2Jgone\n'
    """
    return _UNPRINTABLE.sub(_picture, text.replace("\r", ""))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:  # noqa: PLR2004 - Unicode has pictures of these
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"  # noqa: PLR2004
