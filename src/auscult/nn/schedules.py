"""Learning-rate schedules: the factor on the base rate at a step, counted from 1."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def warm_up(steps: int) -> Schedule:
    """Rise linearly over so many steps, then stay: with a base rate of 1e-3, 1e-3 from step `steps` on."""
    return lambda step: min(1.0, step / steps)


def noam(steps: int) -> Schedule:
    """Rise linearly over so many steps, then fall with the root of the step (Vaswani et al., NeurIPS 2017, 5.3).

    The peak, at step `steps`, is the base rate itself. The formula as published has the width of the model
    in it, which would make the peak 1.398e-3 for 128 units; multiplied by a base rate of 1e-3 it would
    never learn.
    """
    return lambda step: min(step / steps, (steps / step) ** 0.5)


def cosine(steps: int) -> Schedule:
    """Fall along half a cosine over so many steps, to nearly nothing at the last (Loshchilov, Hutter, ICLR 2017)."""
    return lambda step: (1 + math.cos(math.pi * min(step - 1, steps) / steps)) / 2
