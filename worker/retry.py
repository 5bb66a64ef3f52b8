"""When a failed batch goes again. Pure: chance and time are arguments."""

from __future__ import annotations

from typing import Final

#: Seconds of the first and of the longest wait.
FIRST_S: Final = 0.5
LONGEST_S: Final = 300.0


def delay_s(failures: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds until the next attempt: exponential with full jitter, never below what the destination asked.

    Args:
        failures: failures in a row, this one included; at least 1.
        chance: a random number in [0, 1).
        retry_after_s: the destination's own Retry-After.
    """
    ceiling = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 20))
    wait = ceiling * (0.1 + 0.9 * chance)
    return max(wait, retry_after_s or 0.0)
