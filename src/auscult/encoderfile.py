"""The weights of a published encoder in a local file: tensors and their sizes, no code, nothing fetched.

A safetensors file. Its metadata holds one key, `auscult_encoder`, with JSON: format version, kind and sizes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from auscult.errors import AuscultError
from auscult.files import atomic, digest
from auscult.nn.encoders import KINDS, Encoder, Sizes

FORMAT_VERSION = 1
FOLDER = "AUSCULT_ENCODERS"
"""Environment variable: a folder in which a file is looked for that is not where it was."""

_KEY = "auscult_encoder"
_NAMED = 3
"""So many tensors are named in a complaint; the rest are counted."""

_opening = threading.Lock()


@dataclass(frozen=True)
class EncoderFile:
    """What is known of a weights file without its tensors.

    Attributes
    ----------
    path : Path
    kind : str
    sizes : Sizes
    sha256 : str
        Of the whole file.
    """

    path: Path
    kind: str
    sizes: Sizes
    sha256: str


def write(path: str | os.PathLike[str], kind: str, sizes: Sizes, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a weights file whole, or not at all.

    Raises
    ------
    AuscultError
        If the tensors are not those of such an encoder, or the file cannot be written.
    """
    from safetensors.torch import save_file

    check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, kind, sizes, str(path))
    header = {"format_version": FORMAT_VERSION, "kind": kind, "sizes": sizes.model_dump(mode="json")}
    with atomic(path) as temporary:
        whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, {_KEY: json.dumps(header)})


def describe(path: str | os.PathLike[str]) -> EncoderFile:
    """Read what a weights file says of itself, and what tells it from others.

    Raises
    ------
    AuscultError
        If it is missing, damaged, none of auscult's, or of a later version.
    """
    found = locate(path)
    with _opening:
        return _described(found, _state(found))


def load(file: EncoderFile, layer: int) -> Encoder:
    """The first blocks of an encoder, ready to hear.

    The last two are remembered: several detectors of a process share one.

    Parameters
    ----------
    file : EncoderFile
    layer : int
        How many blocks.

    Raises
    ------
    AuscultError
        If the file does not hold the tensors that it should, or a library is missing.
    """
    with _opening:
        return _loaded(file, layer)


def locate(path: str | os.PathLike[str]) -> Path:
    """Where a weights file lies: where it is said to, or by its name in the folder AUSCULT_ENCODERS.

    Raises
    ------
    AuscultError
        If it is in neither place.
    """
    asked = Path(path)
    folder = os.environ.get(FOLDER)
    places = [asked, *([Path(folder) / asked.name] if folder else [])]
    for place in places:
        if place.is_file():
            return place
    raise AuscultError(
        f"{asked}: there is no such encoder file",
        f"copy it there, or into a folder that the environment variable {FOLDER} names; "
        "`auscult convert-encoder` makes one of a published checkpoint",
    )


def check(shapes: Mapping[str, tuple[int, ...]], kind: str, sizes: Sizes, where: str) -> None:
    """Refuse tensors that are not exactly those of an encoder.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of all tensors, by name.
    kind : str
    sizes : Sizes
    where : str
        What to call them.

    Raises
    ------
    AuscultError
        In one line, with what is missing, what should not be there, and what is of another shape.
    """
    wanted = _shapes(_built(kind, sizes, sizes.depth))
    missing = _some(sorted(wanted.keys() - shapes.keys()))
    surplus = _some(sorted(shapes.keys() - wanted.keys()))
    others = _some(
        f"{name} {shapes[name]} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & shapes.keys())
        if shapes[name] != wanted[name]
    )
    wrong = {"missing": missing, "unexpected": surplus, "of another shape": others}
    if any(wrong.values()):
        reasons = "; ".join(f"{how}: {names}" for how, names in wrong.items() if names)
        raise AuscultError(f"{where}: these are not the tensors of {kind}: {reasons}", "is it another kind or size?")


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _built(kind: str, sizes: Sizes, layer: int) -> Encoder:
    """An encoder of the right shapes, whose tensors are nowhere yet."""
    with torch.device("meta"):
        return KINDS[kind](sizes, layer)


def _shapes(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _described(path: Path, state: tuple[int, int, int]) -> EncoderFile:  # noqa: ARG001  (told apart by it)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise AuscultError(
                f"{path}: is no encoder file of auscult", "make one of a checkpoint: auscult convert-encoder"
            )
        header: dict[str, Any] = json.loads(metadata[_KEY])
        if int(header["format_version"]) > FORMAT_VERSION:
            raise AuscultError(f"{path}: was written by a later auscult", "pip install --upgrade auscult")
        kind = str(header["kind"])
        sizes = KINDS[kind].sizes_class.model_validate(header["sizes"])
    except (SafetensorError, OSError, ValidationError, ValueError, KeyError, TypeError) as error:
        raise AuscultError(f"{path}: the encoder file is damaged", "copy it again, or convert it anew") from error
    return EncoderFile(path, kind, sizes, digest(path))


@lru_cache(maxsize=2)
def _loaded(file: EncoderFile, layer: int) -> Encoder:
    from safetensors import SafetensorError, safe_open

    encoder = _built(file.kind, file.sizes, layer)
    try:
        with safe_open(file.path, "pt") as source:
            shapes = {name: tuple(source.get_slice(name).get_shape()) for name in source.keys()}  # noqa: SIM118
            check(shapes, file.kind, file.sizes, str(file.path))
            tensors = {name: source.get_tensor(name) for name in encoder.state_dict()}
    except (SafetensorError, OSError) as error:
        raise AuscultError(f"{file.path}: the encoder file is damaged", "copy it again, or convert it anew") from error
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    encoder.load_state_dict(whole, strict=True, assign=True)
    return encoder.eval().requires_grad_(False)
