"""Draw the pictures of the gallery from fitted models.

auscult fit DATA -d auddsr -o fan.auscult
python docs/images/gallery.py fan fan.auscult HEALTHY.wav FAULTY.wav …

writes `gallery-fan-simulated.png`, a healthy clip with anomalies simulated in it and where the detector finds them, and
`gallery-fan-found.png`, the maps of real or synthetic faulty clips; prints how much of the codebooks is in use.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from auscult import load, read_clips
from auscult.detectors.auddsr import AudDSR
from auscult.detectors.images import laid
from auscult.evaluation.scales import MAP_COLOURS, SPECTROGRAM_COLOURS
from auscult.model import Model
from auscult.nn.anomaly_shapes import anomaly_shapes
from auscult.nn.dsr import Corruption, DualDecoder

HERE = Path(__file__).parent
INK = "#1f2933"
SIMULATED = 4
"""Two with Perlin noise, two with bands."""


def simulate(network: DualDecoder, logmel: torch.Tensor, length: int, seed: int) -> list[dict[str, np.ndarray]]:
    """A clip's first image, several times with other anomalies: before, after, what was hidden, what is found."""
    torch.manual_seed(seed)
    windows, _ = laid(logmel, length)
    windows = windows[:1].repeat(SIMULATED, 1, 1)
    half = SIMULATED // 2
    height = windows.shape[2]
    masks = torch.cat([anomaly_shapes(half, height, length, share) for share in (1.0, 0.0)])
    strong = torch.full((SIMULATED,), 0.6)
    everywhere = torch.ones(SIMULATED, dtype=torch.bool)
    with torch.no_grad():
        images = network.general.standardised(windows)
        quantised = network.general.codes(images)
        before = network.general.decode(*quantised)
        corrupted1, corrupted2, truth = network.corrupted(
            images, masks, Corruption(everywhere, everywhere, strong, strong)
        )
        after = network.general.decode(corrupted1, corrupted2)
        logits, healed, _ = network.judge(corrupted1, corrupted2)
    found = logits.softmax(1)[:, 1]
    parts = {"before": before[:, 0], "after": after[:, 0], "healed": healed[:, 0], "truth": truth, "found": found}
    return [{name: part[k].numpy() for name, part in parts.items()} for k in range(SIMULATED)]


def panel(axes: Axes, image: np.ndarray, colours: str, low: float, high: float, title: str) -> None:
    """One picture without axes; low frequencies below."""
    axes.imshow(image, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_simulated(shown: list[dict[str, np.ndarray]]) -> Figure:
    """A row for each simulated anomaly."""
    figure = Figure(figsize=(9.6, 1.5 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 4, squeeze=False)
    titles = (
        "as the codes say it",
        "foreign codes in it",
        "as the machine's decoder has it",
        "found, and put in (lines)",
    )
    for number, (row, one) in enumerate(zip(grid, shown, strict=True)):
        low, high = (float(q) for q in np.quantile(one["before"], (0.01, 0.99)))
        for axes, title, name in zip(row, titles, ("before", "after", "healed", "found"), strict=True):
            scale = (MAP_COLOURS, 0.0, 1.0) if name == "found" else (SPECTROGRAM_COLOURS, low, high)
            panel(axes, one[name], *scale, title if number == 0 else "")
        row[1].contour(one["truth"], levels=[0.5], colors="white", linewidths=0.8)
        row[3].contour(one["truth"], levels=[0.5], colors=INK, linewidths=0.8)
    return figure


def draw_found(model: Model, paths: list[str]) -> Figure:
    """Faulty clips above, their maps below."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    grid = figure.subplots(2, len(paths), squeeze=False)
    for column, path in enumerate(paths):
        clip = read_clips(path)[0]
        logmel, found = model.logmel(clip), model.relative_map(clip)
        low, high = (float(q) for q in np.quantile(logmel, (0.02, 0.995)))
        panel(grid[0, column], logmel, SPECTROGRAM_COLOURS, low, high, f"score {model.score([path])[0]:.2f}")
        panel(grid[1, column], found, MAP_COLOURS, 0.8, max(2.0, float(np.quantile(found, 0.998))), "")
    return figure


def save(figure: Figure, name: str) -> None:
    """As a light PNG."""
    path = HERE / name
    figure.savefig(path, dpi=110)
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main(machine: str, model_file: str, healthy: str, *faulty: str) -> None:
    """Draw both pictures of a machine."""
    model = load(model_file)
    detector = model.detector
    assert isinstance(detector, AudDSR)
    assert isinstance(detector.network, DualDecoder)
    logmel = torch.from_numpy(model.logmel(read_clips(healthy)[0]).T.copy())
    print({name: round(value, 3) for name, value in detector.network.general.figures().items()})
    save(
        draw_simulated(simulate(detector.network, logmel, detector.frames, seed=0)), f"gallery-{machine}-simulated.png"
    )
    if faulty:
        save(draw_found(model, list(faulty)), f"gallery-{machine}-found.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
