"""Which bins of a spectrogram are given (context) and which are asked for (target).

A mask is a tensor of bool, shape (n_frames, n_mels), true where a bin is hidden. A partition lists the bins of
both sides by number; bin `frame * n_mels + band`, as windows are flattened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from auscult.errors import AuscultError

Box = tuple[range, range]
"""A range of frames and a range of bands."""

_ITEM = re.compile(
    r"(?P<kind>frames|bands|box):(?P<first>\d+)(-(?P<last>\d+))?(x(?P<first_band>\d+)(-(?P<last_band>\d+))?)?"
)


@dataclass(frozen=True)
class Partition:
    """The bins of a window, each on one side.

    Attributes
    ----------
    context, target : Tensor of int64, shape (n,) or (batch, n)
        Bin numbers, for all windows or for each.
    """

    context: torch.Tensor
    target: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor) -> Partition:
        """Partition of one mask, (n_frames, n_mels), or of a batch of masks that hide equally many bins each."""
        hidden = mask.flatten(-2)
        sides = [side.nonzero()[:, -1].reshape(*side.shape[:-1], -1) for side in (~hidden, hidden)]
        return cls(*sides)

    def thinned(self, share: float) -> Partition:
        """Keep a share of a shared context, at least one bin, by lot from torch's global generator."""
        if share == 1:
            return self
        kept = torch.randperm(len(self.context))[: max(1, round(share * len(self.context)))]
        return Partition(self.context[kept], self.target)

    def to(self, device: torch.device) -> Partition:
        """The same bins, listed on another device."""
        return Partition(self.context.to(device), self.target.to(device))


# Masks over a window ------------------------------------------------------------------------------------


def hide(
    n_frames: int,
    n_mels: int,
    *,
    frames: Sequence[int] | torch.Tensor = (),
    bands: Sequence[int] | torch.Tensor = (),
    boxes: Sequence[Box] = (),
) -> torch.Tensor:
    """Mask that hides whole frames, whole bands, and boxes.

    Parameters
    ----------
    n_frames, n_mels : int
    frames, bands : sequence of int
        Counted from 0.
    boxes : sequence of (range, range)
        Frames and bands of each.

    Returns
    -------
    Tensor of bool, shape (n_frames, n_mels)

    Raises
    ------
    AuscultError
        If one of them lies outside, or nothing is hidden.
    """
    all_frames, all_bands = torch.as_tensor(frames).long(), torch.as_tensor(bands).long()
    _check("frame", [*all_frames.tolist(), *(f for box in boxes for f in box[0])], n_frames)
    _check("band", [*all_bands.tolist(), *(b for box in boxes for b in box[1])], n_mels)
    mask = torch.zeros(n_frames, n_mels, dtype=torch.bool)
    mask[all_frames] = True
    mask[:, all_bands] = True
    for some_frames, some_bands in boxes:
        mask[some_frames.start : some_frames.stop, some_bands.start : some_bands.stop] = True
    if not mask.any():
        raise AuscultError("the mask hides nothing", "name frames, bands or boxes of both")
    return mask


def random_rows_and_columns(n_frames: int, n_mels: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide one or two frames and up to two bands, all by lot (ANP paper, 2.2: "Random RowCol").

    Parameters
    ----------
    n_frames, n_mels : int
        At least 3 each, so that some context is left.
    generator : Generator, optional
        Default: torch's global one, which the training loop seeds and keeps in its checkpoints.
    """
    n_columns = int(torch.randint(1, 3, (), generator=generator))
    n_rows = int(torch.randint(0, 3, (), generator=generator))
    columns = torch.randperm(n_frames, generator=generator)[:n_columns]
    rows = torch.randperm(n_mels, generator=generator)[:n_rows]
    return hide(n_frames, n_mels, frames=columns, bands=rows)


def fixed_rows_and_columns(n_frames: int, n_mels: int, count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    """Draw a few such masks from a fixed seed: the same for every clip, else scores would carry the masks' noise."""
    generator = torch.Generator().manual_seed(seed)
    return [random_rows_and_columns(n_frames, n_mels, generator) for _ in range(count)]


def centre_frame(n_frames: int, n_mels: int) -> torch.Tensor:
    """Hide the middle frame, number (n_frames + 1) / 2 counted from 1 (ANP paper, 2.2)."""
    return hide(n_frames, n_mels, frames=[n_frames // 2])


def three_of_eight(n_frames: int, n_mels: int) -> torch.Tensor:
    """Hide three bins of eight, evenly: the first pass of likelihood bootstrapping keeps 62.5 % (ANP paper, 2.2).

    Bins are counted with time running fastest. With frequency running fastest the pattern would hide the same 48
    of 128 bands in every frame. With an odd number of frames it walks through all of them,
    and every band has a hidden bin.
    """
    number = torch.arange(n_frames * n_mels)
    kept = (number + 1) * 5 // 8 > number * 5 // 8
    return ~kept.view(n_mels, n_frames).T


def hardest(surprise: torch.Tensor, mask: torch.Tensor, n_rows: int = 2, n_columns: int = 1) -> torch.Tensor:
    """Hide the bands and the frame that were hardest to predict, of each window its own (ANP paper, 2.2).

    Parameters
    ----------
    surprise : Tensor, shape (batch, n_targets)
        Negative log-likelihood of each bin that `mask` hides, in the order of `Partition.of(mask)`.
    mask : Tensor of bool, shape (n_frames, n_mels)
        At least one hidden bin in every frame and band, as `three_of_eight` has: a band's or frame's likelihood
        is the mean over its hidden bins alone.

    Returns
    -------
    Tensor of bool, shape (batch, n_frames, n_mels)
    """
    batch = len(surprise)
    spread = surprise.new_zeros(batch, *mask.shape)
    spread[:, mask] = surprise
    rows = (spread.sum(1) / mask.sum(0)).topk(n_rows).indices
    columns = (spread.sum(2) / mask.sum(1)).topk(n_columns).indices
    chosen = torch.zeros_like(spread, dtype=torch.bool)
    each = torch.arange(batch, device=surprise.device)[:, None]
    chosen[each, columns] = True
    chosen.transpose(1, 2)[each, rows] = True
    return chosen


# Masks as users write them ------------------------------------------------------------------------------


def parse_mask(text: str, n_frames: int, n_mels: int) -> torch.Tensor:
    """Mask over a clip from what a user wrote.

    Parameters
    ----------
    text : str
        Items joined by commas: `frames:10-14`, `bands:60`, `box:10-200x40-60` (frames, then bands). Counted from
        0, both ends included.
    n_frames, n_mels : int
        Of the clip.

    Returns
    -------
    Tensor of bool, shape (n_frames, n_mels)

    Raises
    ------
    AuscultError
        If an item cannot be read, or lies outside the clip.
    """
    frames: list[int] = []
    bands: list[int] = []
    boxes: list[Box] = []
    for item in text.replace(" ", "").split(","):
        match = _ITEM.fullmatch(item)
        if match is None or (match["kind"] == "box") != (match["first_band"] is not None):
            raise AuscultError(f"the mask {item!r} cannot be read", "write frames:10-14, bands:60 or box:10-200x40-60")
        what, count = ("band", n_mels) if match["kind"] == "bands" else ("frame", n_frames)
        first = _inclusive(what, match["first"], match["last"], count)
        if match["kind"] == "box":
            boxes.append((first, _inclusive("band", match["first_band"], match["last_band"], n_mels)))
        else:
            (frames if match["kind"] == "frames" else bands).extend(first)
    return hide(n_frames, n_mels, frames=frames, bands=bands, boxes=boxes)


def _inclusive(what: str, first: str, last: str | None, count: int) -> range:
    start, end = int(first), int(last or first)
    if end < start:
        raise AuscultError(f"the mask's range {start}-{end} runs backwards", f"write {end}-{start}")
    _check(what, [start, end], count)
    return range(start, end + 1)


def _check(what: str, numbers: Sequence[int], count: int) -> None:
    outside = [number for number in numbers if not 0 <= number < count]
    if outside:
        raise AuscultError(f"the mask names {what} {outside[0]}", f"there are {count}, counted from 0")
