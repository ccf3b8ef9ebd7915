"""A fitted detector becomes one file, and back: tensors and JSON, no code.

A model file is a safetensors file. Its metadata holds one key, `auscult`, with JSON: format version, auscult
version, detector, settings, front end, calibration, provenance, and a digest of all this and the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from auscult.errors import AuscultError
from auscult.files import atomic

FORMAT_VERSION = 1
_KEY = "auscult"


def write(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a model file whole, or not at all.

    Raises
    ------
    AuscultError
        If it cannot be written.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format_version": FORMAT_VERSION, **header}
    header["digest"] = digest(header, whole)
    with atomic(path) as temporary:
        temporary.write_bytes(save(whole, {_KEY: json.dumps(header, allow_nan=False)}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a model file.

    Returns
    -------
    header : dict
    tensors : dict of Tensor

    Raises
    ------
    AuscultError
        If the file is missing, damaged, none of auscult's, or of a later version.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise AuscultError(f"{source}: there is no such model file", "fit one: auscult fit DATA -o MODEL")
    try:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(source, "it is cut short, or no model file") from error
    if _KEY not in metadata:
        raise AuscultError(f"{source}: is a safetensors file, but no model of auscult", "fit one with auscult fit")
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY])
        version = int(header["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _damaged(source, "its description cannot be read") from error
    if version > FORMAT_VERSION:
        raise AuscultError(
            f"{source}: was written by a later auscult ({header.get('auscult_version', '?')}, format {version})",
            f"this one reads format {FORMAT_VERSION}; upgrade it: pip install --upgrade auscult",
        )
    if header.pop("digest", None) != digest(header, tensors):
        raise _damaged(source, "its content is not what was written")
    return header, tensors


def _damaged(source: Path, how: str) -> AuscultError:
    return AuscultError(f"{source}: the model file is damaged: {how}", "copy it again, or fit it anew")


def digest(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """What tells one content from another: SHA-256 of JSON and tensors."""
    whole = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return whole.hexdigest()
