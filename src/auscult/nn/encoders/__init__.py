"""Published encoders of sound, which turn a clip into a map of tokens over time and frequency bands."""

from auscult.nn.encoders.ast import AST
from auscult.nn.encoders.base import Encoder, Sizes
from auscult.nn.encoders.beats import BEATs
from auscult.nn.encoders.ced import CED
from auscult.nn.encoders.eat import EAT
from auscult.nn.encoders.tokens import TokenMap, token_map

__all__ = ["KINDS", "Encoder", "Sizes", "TokenMap", "token_map"]

KINDS: dict[str, type[Encoder]] = {one.kind: one for one in (BEATs, CED, EAT, AST)}
"""Encoders by name."""
