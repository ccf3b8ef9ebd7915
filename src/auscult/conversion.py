"""A published checkpoint becomes an encoder file: opened without running code, renamed, checked tensor by tensor."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from auscult import encoderfile
from auscult.encoderfile import EncoderFile
from auscult.errors import AuscultError
from auscult.nn.encoders import KINDS, Sizes

Tensors = dict[str, torch.Tensor]

_A_HEAD = 64
"""Width of a head in every published encoder of these kinds; it cannot be read off the tensors."""

_WRAPPERS = ("model", "state_dict", "module")
"""Keys under which a checkpoint keeps its tensors, beside other things."""


def convert(
    checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], kind: str, heads: int | None = None
) -> EncoderFile:
    """Make an encoder file of a published checkpoint.

    Parameters
    ----------
    checkpoint : path-like
        What torch saved (`.pt`, `.pth`, `.bin`), opened with `weights_only`, or `.safetensors`.
    output : path-like
    kind : {"beats", "ced", "eat", "ast"}
    heads : int, optional
        Of attention. Default: what the checkpoint says, or one for each 64 of the width, as all published ones have.

    Returns
    -------
    EncoderFile

    Raises
    ------
    AuscultError
        If the kind is unknown; if the checkpoint is missing, damaged, or holds more than tensors and plain
        values; if its tensors are not those of the kind. No file is written.
    """
    if kind not in KINDS:
        raise AuscultError(f"there is no encoder {kind!r}", f"--kind is one of {', '.join(KINDS)}")
    source = Path(checkpoint)
    tensors, described = _read(source)
    named = _renamed(tensors, kind)
    try:
        sizes = _SIZES[kind](named, described, heads)
    except KeyError as error:
        raise AuscultError(
            f"{source}: these are not the tensors of {kind}: missing: {error.args[0]}", "is it another kind?"
        ) from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise AuscultError(f"{source}: its tensors have not the shapes of {kind}", "is it another kind?") from error
    encoderfile.check({name: tuple(tensor.shape) for name, tensor in named.items()}, kind, sizes, str(source))
    encoderfile.write(output, kind, sizes, named)
    return encoderfile.describe(output)


def _read(source: Path) -> tuple[Tensors, Mapping[str, Any]]:
    """Tensors of a checkpoint by name, and what it says of its sizes."""
    if not source.is_file():
        raise AuscultError(f"{source}: there is no such checkpoint", "name a file")
    whole = _opened(source)
    described = whole.get("cfg")
    while True:
        inner = next((whole[key] for key in _WRAPPERS if isinstance(whole.get(key), Mapping)), None)
        if inner is None:
            break
        whole = inner
    tensors = {str(name): value for name, value in whole.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise AuscultError(f"{source}: holds no tensors", "name the checkpoint itself")
    return tensors, described if isinstance(described, Mapping) else {}


def _opened(source: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if source.suffix == ".safetensors":
        try:
            return load_file(source)
        except (SafetensorError, OSError, ValueError) as error:
            raise AuscultError(f"{source}: the checkpoint is damaged", "copy it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's age: it is opened or refused all the same
            whole = torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise AuscultError(
            f"{source}: is damaged, or holds more than tensors and plain values, which could run code; not opened",
            "use a copy that its publisher gives as safetensors",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of a file that is no checkpoint, torch may say anything
        raise AuscultError(f"{source}: the checkpoint is damaged", "copy it again") from error
    if not isinstance(whole, Mapping):
        raise AuscultError(f"{source}: holds no tensors by name", "name the checkpoint itself")
    return whole


def _renamed(tensors: Tensors, kind: str) -> Tensors:
    """The encoder's own tensors by the names that auscult has for them, others left out."""
    encoder = KINDS[kind]
    named: Tensors = {}
    for name, tensor in tensors.items():
        new = name
        for old, replacement in encoder.renames:
            new = re.sub(old, replacement, new)
        if not re.match(encoder.heads_of_others, new):
            named[new] = tensor.float() if tensor.is_floating_point() else tensor
    return _multiplied_out(named) if kind == "beats" else _trimmed(named) if kind == "eat" else named


def _multiplied_out(tensors: Tensors) -> Tensors:
    """The weights of a convolution that is kept as direction and size, in either of torch's spellings."""
    where = "encoder.pos_conv"
    for size, direction in (("weight_g", "weight_v"), *_PARAMETRIZED):
        if (first := f"{where}.0.{size}") in tensors and (second := f"{where}.0.{direction}") in tensors:
            kernel = tensors.pop(second)
            lengths = kernel.square().sum((0, 1), keepdim=True).sqrt()
            tensors[f"{where}.weight"] = tensors.pop(first) * kernel / lengths
    return tensors


_PARAMETRIZED = (("parametrizations.weight.original0", "parametrizations.weight.original1"),)


def _trimmed(tensors: Tensors) -> Tensors:
    """Positions of the ten seconds that are heard at once; later ones are left out."""
    most = Sizes().most_times * Sizes().n_bands
    if "positions" in tensors:
        tensors["positions"] = tensors["positions"][:, :most]
    return tensors


# Sizes, as far as they can be read off the tensors ------------------------------------------------------


def _heads(width: int, heads: int | None) -> int:
    if heads is None and width % _A_HEAD:
        raise AuscultError(f"tokens of {width} numbers: nothing says how many heads there are", "say it: --heads N")
    return heads or width // _A_HEAD


def _depth(tensors: Tensors, blocks: str) -> int:
    numbers = (re.match(rf"{re.escape(blocks)}\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(number[1]) for number in numbers if number), default=0)


def _ced(tensors: Tensors, described: Mapping[str, Any], heads: int | None) -> Sizes:  # noqa: ARG001
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    return KINDS["ced"].sizes_class(
        width=width,
        depth=_depth(tensors, "blocks"),
        heads=_heads(width, heads),
        feed_forward=len(tensors["blocks.0.mlp.fc1.weight"]),
        patch=patch,
        time_stride=patch,
        band_stride=patch,
        n_mels=len(tensors["init_bn.weight"]),
        frames=patch * tensors["time_pos_embed"].shape[-1],
    )


def _eat(tensors: Tensors, described: Mapping[str, Any], heads: int | None) -> Sizes:  # noqa: ARG001
    width, _, patch, _ = tensors["local_encoder.proj.weight"].shape
    n_bands = Sizes().n_mels // patch
    return KINDS["eat"].sizes_class(
        width=width,
        depth=_depth(tensors, "blocks"),
        heads=_heads(width, heads),
        feed_forward=len(tensors["blocks.0.mlp.fc1.weight"]),
        patch=patch,
        time_stride=patch,
        band_stride=patch,
        frames=patch * (tensors["positions"].shape[1] // n_bands),
    )


def _ast(tensors: Tensors, described: Mapping[str, Any], heads: int | None) -> Sizes:  # noqa: ARG001
    width, _, patch, _ = tensors["model.embeddings.patch_embeddings.projection.weight"].shape
    usual = KINDS["ast"].sizes_class(patch=patch)
    n_times = (tensors["model.embeddings.position_embeddings"].shape[1] - 2) // usual.n_bands
    same = n_times == usual.most_times
    return KINDS["ast"].sizes_class(
        width=width,
        depth=_depth(tensors, "model.layers"),
        heads=_heads(width, heads),
        feed_forward=len(tensors["model.layers.0.mlp.fc1.weight"]),
        patch=patch,
        frames=usual.frames if same else (n_times - 1) * usual.time_stride + patch,
    )


def _beats(tensors: Tensors, described: Mapping[str, Any], heads: int | None) -> Sizes:
    other = {"layer_norm_first": True, "gru_rel_pos": False, "relative_position_embedding": False}
    for setting, unlike in other.items():
        if described.get(setting, not unlike) == unlike:
            raise AuscultError(f"a BEATs with {setting}={unlike} is of another make", "use a published one")
    patch_width, _, patch, _ = tensors["patch_embedding.weight"].shape
    width = len(tensors["encoder.layer_norm.weight"])
    depth = _depth(tensors, "encoder.layers")
    buckets, own_heads = tensors["relative_attention_bias.weight"].shape
    _, in_group, reach = tensors["encoder.pos_conv.weight"].shape
    return KINDS["beats"].sizes_class.model_validate(
        {
            "width": width,
            "depth": depth,
            "heads": heads or own_heads,
            "feed_forward": len(tensors["encoder.layers.0.fc1.weight"]),
            "patch": patch,
            "time_stride": patch,
            "band_stride": patch,
            "patch_width": patch_width,
            "reach": reach,
            "groups": width // in_group,
            "buckets": buckets,
            "farthest": described.get("max_distance", 800),
            "residual": (2 * depth) ** 0.25 if described.get("deep_norm", True) else 1.0,
        }
    )


_SIZES: dict[str, Callable[[Tensors, Mapping[str, Any], int | None], Sizes]] = {
    "beats": _beats,
    "ced": _ced,
    "eat": _eat,
    "ast": _ast,
}
