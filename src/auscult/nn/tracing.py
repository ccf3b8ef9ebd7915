"""The same lines of a detector give a number when it judges, and a piece of a graph when it is exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


@contextmanager
def traced() -> Iterator[None]:
    """Inside the block, operations are being recorded: lengths may be symbols, and no value is known."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


def is_traced() -> bool:
    """Whether operations are being recorded."""
    return _tracing.get()


def softplus(values: torch.Tensor) -> torch.Tensor:
    """log(1 + e^x), in 64 bits too while operations are recorded, where onnxruntime has none."""
    if is_traced():
        return values.clamp(min=0) + values.abs().neg().exp().log1p()
    return torch.nn.functional.softplus(values)


def number(value: torch.Tensor) -> float:
    """A tensor of one value as a number; while operations are recorded it stays a tensor."""
    return cast(float, value) if is_traced() else float(value)
