"""Make the docs' pictures again.

`python docs/images/draw.py` draws what comes from arithmetic alone; `python docs/images/draw.py strange.png` turns the
picture that the quick start's `auscult explain` draws into `explain.png`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

HERE = Path(__file__).parent
INK, QUIET = "#1f2933", "#66717d"
COLOURS = {20: "#D55E00", 100: "#0072B2", 500: "#009E73"}
RATE = 0.05


def draw_promise() -> Figure:
    """The law of the actual false-alarm rate, over draws of n calibration clips, at 5 %."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    rates = np.linspace(0, 0.2, 801)
    for n, colour in COLOURS.items():
        k = math.floor(RATE * (n + 1) + 1e-9)
        axes.plot(
            100 * rates, stats.beta.pdf(rates, k, n + 1 - k) / 100, color=colour, lw=2, label=f"{n} calibration clips"
        )
    axes.axvline(100 * RATE, color=QUIET, ls=":", lw=1)
    axes.set_xlabel("false-alarm rate that one model really has, %", color=INK)
    axes.set_ylabel("density", color=INK)
    axes.set_xlim(0, 20)
    axes.set_ylim(0)
    axes.set_yticks([])
    axes.legend(frameon=False, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def shrink(picture: str) -> None:
    """Make a picture of `auscult explain` light enough for a README."""
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    width = 1400
    image = image.resize((width, width * image.height // image.width), Image.Resampling.LANCZOS)
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        HERE / "explain.png", optimize=True
    )


if __name__ == "__main__":
    for picture in sys.argv[1:]:
        shrink(picture)
    mpl.rcParams["svg.hashsalt"] = "auscult"
    draw_promise().savefig(HERE / "promise.svg", metadata={"Date": None})
