"""Two records of golden runs held against each other."""

import math
from collections.abc import Iterator
from typing import Any

RELATIVE, ABSOLUTE = 5e-3, 5e-4
"""For another machine: sums in another order differ by 1e-6 at first, and AdamW's division lets that grow."""
_ROUNDING_ALONE = (".key.bias", "sha256")
"""What only one machine repeats. Attention does not depend on the bias of its keys, which adds the same to all scores
of a query. So its gradient is rounding alone, and AdamW makes whole steps of it."""


def differences(found: Any, expected: Any, *, exact: bool, where: str = "") -> Iterator[str]:
    """Each place where `found` is not `expected`, with both values.

    Args:
        found: what runs did now, as `measure` returns it.
        expected: what they did before.
        exact: whether numbers and digests must be the same to the bit; else numbers to rounding, digests not at all.
        where: what the places are called.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            place = f"{where}/{key}" if where else str(key)
            if key not in found or key not in expected:
                yield f"{place} is only in what was {'expected' if key in expected else 'found'}"
            elif exact or not str(key).endswith(_ROUNDING_ALONE):
                yield from differences(found[key], expected[key], exact=exact, where=place)
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, exact=exact, where=f"{where}[{number}]")
    elif not _same(found, expected, exact):
        yield f"{where} is {found!r}, and was {expected!r}"


def _same(found: Any, expected: Any, exact: bool) -> bool:
    if exact or not (_is_number(found) and _is_number(expected)):
        return bool(found == expected)
    return math.isclose(found, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
