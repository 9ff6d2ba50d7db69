"""Bytes and long waits in the units that fit them, for people."""

from __future__ import annotations

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))  # as the hub and disks count: powers of 1000
_WHOLE = 100  # from here on a decimal tells nothing
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_MANY = 1.5  # of a unit, before it is the one to count in


def size(count: float) -> str:
    """Bytes.

    Example:
        >>> size(48e9), size(2.1e6), size(640e3), size(17)
        ('48.0 GB', '2.1 MB', '640 kB', '17 bytes')
    """
    for step, unit in _SIZES:
        if count >= step:
            return f"{count / step:.{0 if count >= _WHOLE * step else 1}f} {unit}"
    return f"{count:.0f} bytes"


def part_of(done: float, total: float) -> str:
    """Bytes out of others.

    Example:
        >>> part_of(24e9, 48e9), part_of(40e6, 48e9), part_of(0, 640e3)
        ('24.0 of 48.0 GB', '40.0 MB of 48.0 GB', '0 of 640 kB')
    """
    number, unit = size(done).split()
    same = not done or unit == size(total).split()[1]
    return f"{number if same else size(done)} of {size(total)}"


def wait(seconds: float) -> str:
    """A wait that is only guessed.

    Example:
        >>> wait(45), wait(1500), wait(47_000), wait(200_000)
        ('45 s', '25 min', '13.1 h', '2.3 days')
    """
    if seconds < _MANY * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _MANY * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < _MANY * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} days"
