"""What is said of one clip: the region that is named, and the words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.evaluation.explanation import Region, strangest_region
from auscult.evaluation.words import describe, verdict
from auscult.features import FrontEnd

FRONT = FrontEnd()


def healthy_map(n_frames: int = 313, n_mels: int = 128, seed: int = 0) -> np.ndarray:
    """Errors of mean 1, single bins reach 8."""
    return np.random.default_rng(seed).gamma(2, 0.5, (n_mels, n_frames)).astype(np.float32)


# The strangest region ---------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    band=st.integers(0, 100), height=st.integers(12, 28), frame=st.integers(3, 250), width=st.integers(15, 55),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_finds_an_injected_block(band: int, height: int, frame: int, width: int, seed: int) -> None:
    strange = healthy_map(seed=seed)
    strange[band : band + height, frame : frame + width] *= 15
    region = strangest_region(strange, FRONT)
    found = np.zeros_like(strange, dtype=bool)
    found[region.bands, region.frames] = True
    true = np.zeros_like(found)
    true[band : band + height, frame : frame + width] = True
    assert (found & true).sum() > 0.6 * found.sum()
    assert (found & true).sum() > 0.4 * true.sum()
    assert region.level == pytest.approx(strange[found].mean(), rel=1e-5)


def test_gives_seconds_and_hertz_of_the_block() -> None:
    strange = healthy_map()
    strange[60:76, 100:130] += 10
    region = strangest_region(strange, FRONT)
    hop = FRONT.hop_length / FRONT.sample_rate
    assert region.start == pytest.approx(100 * hop, abs=0.1)
    assert region.stop == pytest.approx(130 * hop, abs=0.1)
    centres = FRONT.band_centres()
    assert region.low == pytest.approx(centres[60], rel=0.08)
    assert region.high == pytest.approx(centres[75], rel=0.08)


def test_best_of_all_rectangles_by_brute_force() -> None:
    """On a map no larger than the grid, against loops over every rectangle."""
    front = FrontEnd(n_mels=12, n_fft=512, hop_length=512)
    strange = np.random.default_rng(1).gamma(1.0, 2.0, (12, 24))
    inner = strange[:, 1:-1]
    rows = np.unique(np.linspace(0, 12, 7).round().astype(int))
    columns = np.unique(np.linspace(0, 22, 8).round().astype(int))
    cells = [inner[a:b, c:d].mean() for a, b in pairwise(rows) for c, d in pairwise(columns)]
    usual = max(1.0, float(np.median(cells)))
    best = max(
        ((inner[a:b, c:d].mean() - usual) * inner[a:b, c:d].size ** 0.4, a, b, c, d)
        for a in rows for b in rows[rows > a] for c in columns for d in columns[columns > c]
    )  # fmt: skip
    region = strangest_region(strange, front)
    assert (region.bands.start, region.bands.stop) == best[1:3]
    assert (region.frames.start - 1, region.frames.stop - 1) == best[3:5]


def test_passes_over_frames_that_hear_the_padding() -> None:
    strange = healthy_map()
    strange[:, 0] *= 100
    strange[:, -1] *= 100
    region = strangest_region(strange, FRONT)
    assert region.frames.start >= 1
    assert region.frames.stop <= 312
    assert region.level < 20


def test_a_map_without_contrast_is_strange_as_a_whole() -> None:
    strange = np.full((128, 313), 4.0, np.float32)
    region = strangest_region(strange, FRONT)
    assert region.level == pytest.approx(4.0)
    assert "throughout, at all frequencies: 4.0 times" in describe(region, strange)


@pytest.mark.parametrize("n_frames", [1, 2, 5, 31])
def test_short_maps_have_a_region_inside_the_clip(n_frames: int) -> None:
    region = strangest_region(healthy_map(n_frames), FRONT)
    assert 0 <= region.frames.start < region.frames.stop <= n_frames
    assert 0 <= region.start < region.stop or n_frames == 1


# The words ----------------------------------------------------------------------------------------


def test_describes_where_and_how_strange() -> None:
    region = Region(3.1, 3.9, 2120, 3390, 6.23, slice(60, 80), slice(97, 122))
    strange = np.full((128, 313), 1.4, np.float32)
    assert describe(region, strange) == (
        "Strangest at 3.1–3.9 s, 2.1–3.4 kHz: 6.2 times the healthy level (1.4 over the whole clip)."
    )
    hum = replace(region, frames=slice(2, 311), low=48, high=253, level=41.3)
    assert "Strangest throughout, 50–250 Hz: 41 times" in describe(hum, strange)
    assert "0.85–1.04 kHz" in describe(replace(region, low=853, high=1041), strange)
    assert describe(replace(region, level=1.6), strange).startswith("No region stands out")


@pytest.mark.parametrize(
    ("threshold", "p_value", "said"),
    [
        (9.81, 0.004, "score 12.4, above the threshold of 9.81; p-value 0.004: at most about 1 in 250 healthy clips"),
        (20.0, 0.3, "not above the threshold of 20; p-value 0.3: at most about 30 % of healthy clips score as high"),
        (None, None, "score 12.4"),
        (float("inf"), None, "score 12.4, not above the threshold of inf"),
    ],
)
def test_verdict(threshold: float | None, p_value: float | None, said: str) -> None:
    assert said in verdict(12.4, threshold, p_value)
