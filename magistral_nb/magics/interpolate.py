"""`{name}` in a question takes a variable; the braces of JSON and LaTeX stay as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# What comes first is passed over: \command{…}[…]{…}, ^{…} and _{…}, and a group right behind another one.
_BRACES = re.compile(
    r"\\[A-Za-z]+\*?(?:\[[^\]]*\])?(?:\{[^{}]*\})+"
    r"|[\^_]\{[^{}]*\}"
    r"|(?<=\})\{[^{}]*\}"
    r"|\{\{[^{}]*\}\}"
    r"|\{(?P<name>[A-Za-z_]\w*)\}"
)


def interpolate(text: str, variables: Mapping[str, Any]) -> str:
    r"""Replace each {name} of a known variable by its text, once.

    Example:
        >>> print(interpolate(r"Is {n} prime? \frac{n}{2} {unknown} {{1, 2}}", {"n": 7}))
        Is 7 prime? \frac{n}{2} {unknown} {{1, 2}}
    """

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        return str(variables[name]) if name is not None and name in variables else match[0]

    return _BRACES.sub(replaced, text)
