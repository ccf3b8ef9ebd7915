"""Masks: what is hidden, what is given, and that the two never overlap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auscult.errors import AuscultError
from auscult.nn import masks
from auscult.nn.masks import Partition

SIZE = (5, 128)


@given(seed=st.integers(0, 2**31), frames=st.sampled_from([3, 5, 7]), bands=st.integers(3, 140))
def test_a_partition_has_every_bin_on_one_side(seed: int, frames: int, bands: int) -> None:
    mask = masks.random_rows_and_columns(frames, bands, torch.Generator().manual_seed(seed))
    sides = Partition.of(mask)
    together = torch.cat([sides.context, sides.target]).sort().values
    assert torch.equal(together, torch.arange(frames * bands))
    assert mask.flatten()[sides.target].all()
    assert not mask.flatten()[sides.context].any()


def test_random_rows_and_columns_are_one_or_two_frames_and_up_to_two_bands() -> None:
    torch.manual_seed(0)
    seen = set()
    for _ in range(400):
        mask = masks.random_rows_and_columns(*SIZE)
        n_frames, n_bands = int(mask.all(1).sum()), int(mask.all(0).sum())
        assert int(mask.sum()) == n_frames * 128 + n_bands * 5 - n_frames * n_bands
        seen.add((n_frames, n_bands))
    assert seen == {(c, r) for c in (1, 2) for r in (0, 1, 2)}


def test_random_masks_come_from_the_global_generator_and_the_fixed_ones_do_not() -> None:
    torch.manual_seed(3)
    one = masks.random_rows_and_columns(*SIZE)
    torch.manual_seed(3)
    assert torch.equal(one, masks.random_rows_and_columns(*SIZE))
    state = torch.get_rng_state()
    first, second = masks.fixed_rows_and_columns(*SIZE), masks.fixed_rows_and_columns(*SIZE)
    assert torch.equal(state, torch.get_rng_state())
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({a.numpy().tobytes() for a in first}) == 3


def test_the_centre_frame_is_the_third_of_five() -> None:
    sides = Partition.of(masks.centre_frame(*SIZE))
    assert sides.target.tolist() == list(range(256, 384))
    assert len(sides.context) == 512


def test_three_of_eight_keeps_400_bins_evenly() -> None:
    mask = masks.three_of_eight(*SIZE)
    sides = Partition.of(mask)
    assert (len(sides.context), len(sides.target)) == (400, 240)
    assert ((~mask).sum(1) == 80).all(), "every frame keeps 80 bins"
    assert (~mask).any(0).all(), "no band is without context"
    assert mask.any(0).all(), "no band is without a target"
    runs = mask.T.flatten().int()
    assert int(runs.unfold(0, 8, 8).sum(1).min()) == int(runs.unfold(0, 8, 8).sum(1).max()) == 3


@pytest.mark.parametrize("frames", [3, 7, 9, 17])
def test_three_of_eight_in_windows_of_other_lengths(frames: int) -> None:
    mask = masks.three_of_eight(frames, 128)
    assert mask.any(0).all()
    assert (~mask).any(0).all()
    assert ((~mask).sum(1) == 80).all()


def test_the_hardest_two_bands_and_frame_of_each_window() -> None:
    torch.manual_seed(0)
    mask = masks.three_of_eight(*SIZE)
    surprise = torch.rand(6, 240)
    chosen = masks.hardest(surprise, mask)
    for window in range(6):
        spread = torch.zeros(SIZE)
        spread[mask] = surprise[window]
        by_band = [float(spread[mask[:, b], b].mean()) for b in range(128)]
        by_frame = [float(spread[f, mask[f]].mean()) for f in range(5)]
        expected = masks.hide(
            *SIZE,
            frames=[max(range(5), key=by_frame.__getitem__)],
            bands=sorted(range(128), key=by_band.__getitem__)[-2:],
        )
        assert torch.equal(chosen[window], expected)
    sides = Partition.of(chosen)
    assert sides.target.shape == (6, 136)
    assert sides.context.shape == (6, 504)


def test_a_hidden_corner_counts_once() -> None:
    mask = masks.hide(5, 8, frames=[1], bands=[2, 7], boxes=[(range(2), range(3))])
    assert int(mask.sum()) == 8 + 2 * 4 + 2
    assert mask[0].tolist() == [True, True, True, False, False, False, False, True]


def test_a_mask_in_words() -> None:
    mask = masks.parse_mask("frames:10-14, bands:3, box:20-29x40-60", 100, 64)
    assert torch.equal(
        mask, masks.hide(100, 64, frames=range(10, 15), bands=[3], boxes=[(range(20, 30), range(40, 61))])
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read"),
        ("frames", "cannot be read"),
        ("frames:1x2", "cannot be read"),
        ("box:1-2", "cannot be read"),
        ("frames:-3", "cannot be read"),
        ("time:1-2", "cannot be read"),
        ("frames:9-3", "backwards.*write 3-9"),
        ("frames:100", "frame 100.*there are 100"),
        ("bands:0-999999999999999999", "band 999999999999999999.*there are 64"),
        ("box:0-3x60-64", "band 64"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(AuscultError, match=complaint):
        masks.parse_mask(text, 100, 64)


def test_a_mask_that_hides_nothing_is_refused() -> None:
    with pytest.raises(AuscultError, match="hides nothing"):
        masks.hide(5, 8)
    with pytest.raises(AuscultError, match="frame -1"):
        masks.hide(5, 8, frames=[-1])


def test_a_thinned_context_is_a_part_of_it_drawn_by_lot() -> None:
    sides = Partition.of(masks.centre_frame(*SIZE))
    torch.manual_seed(0)
    one, other = sides.thinned(0.25), sides.thinned(0.25)
    assert len(one.context) == len(set(one.context.tolist())) == 128
    assert set(one.context.tolist()) < set(sides.context.tolist())
    assert torch.equal(one.target, sides.target)
    assert not torch.equal(one.context, other.context)
    assert sides.thinned(1.0) is sides
    assert len(sides.thinned(1e-9).context) == 1
