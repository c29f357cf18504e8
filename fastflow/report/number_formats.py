"""Numbers as a page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def short(value: float, digits: int = 3) -> str:
    """A measured value with three significant digits and a true minus sign: 0.0210, 12.3, 1.20e−5."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}".rstrip(".")
    if "e+" in text and abs(value) < 1e6:
        text = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    mantissa, mark, exponent = text.partition("e")
    return (mantissa + (f"e{int(exponent)}" if mark else "")).replace("-", "\N{MINUS SIGN}")


def exact(value: float) -> str:
    """A chosen value, such as a target, in full and with a true minus sign: 0.05, 0.1, 1e−5."""
    return f"{value:.10g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "not finite"


def value_text(value: float | None, apart_from: Sequence[float | None] = ()) -> str:
    """A value with three digits, or with more if three would show it equal to a limit that it differs from."""
    if value is None:
        return "not measured"
    digits = 3
    # Compared as numbers: a reader takes "0.0500" and "0.05" for the same.
    while digits < 17 and any(
        limit is not None and value != limit and float(f"{value:.{digits}g}") == limit for limit in apart_from
    ):
        digits += 1
    return short(value, digits)


def percent(share: float | None, apart_from: float | None = None) -> str:
    """A share of 1 in per cent, with enough digits not to show it equal to 100% or a limit that it differs from."""
    if share is None:
        return "not measured"
    if not math.isfinite(share):
        return "not finite"
    text = ""
    for digits in range(1, 12):
        text = f"{100 * share:.{digits}f}"
        touches = any(
            limit is not None and share != limit and float(text) == 100 * limit for limit in (1.0, apart_from)
        )
        if not touches:
            break
    return f"{text}%"
