"""What a few recordings of each machine sound like, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auscult.corpus import Clip, Manifest
from auscult.errors import AudioError
from auscult.features import FRONT_ENDS
from auscult.parallel import map_in_order
from auscult.progress import progress

CLIPS_OF_EACH = 60
"""Clips of a machine, split and condition that are listened to: enough for a median, and a minute's work at most."""

_FULL_SCALE = 0.999
_QUIET = 1e-10
_FRONT_END = FRONT_ENDS["dcase2020"]


@dataclass(frozen=True, eq=False)
class Heard:
    """One clip as it sounds.

    Attributes
    ----------
    clip : Clip
    seconds : float
    level : float
        Root mean square, in dB below full scale.
    clipped : float
        Share of samples at full scale.
    restlessness : float
        Standard deviation over time of the level of a frame, averaged over bands, in dB: a tenth or two for steady
        noise, several for strokes.
    spectrum : ndarray of float64, shape (n_mels,)
        Mean level of each band, dB.
    """

    clip: Clip
    seconds: float
    level: float
    clipped: float
    restlessness: float
    spectrum: np.ndarray


def listen(manifest: Manifest) -> list[Heard]:
    """Listen to some clips of each machine, split and condition, evenly chosen; those that cannot be read are left out.

    Returns
    -------
    list of Heard
        In the manifest's order.
    """
    clips = _some(manifest.clips())
    with progress("Listening", len(clips)) as advance:
        heard = []
        for one in map_in_order(_hear, clips):
            advance()
            if one is not None:
                heard.append(one)
    return heard


def _some(clips: Sequence[Clip]) -> list[Clip]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, clip in enumerate(clips):
        groups.setdefault((clip.machine_type, clip.machine_id, clip.split, clip.condition), []).append(number)
    chosen: set[int] = set()
    for numbers in groups.values():
        places = np.linspace(0, len(numbers) - 1, min(CLIPS_OF_EACH, len(numbers))).round().astype(int)
        chosen.update(numbers[place] for place in places)
    return [clips[number] for number in sorted(chosen)]


def _hear(clip: Clip) -> Heard | None:
    try:
        wave = clip.waveform(_FRONT_END.sample_rate)
        logmel = _FRONT_END.logmel(wave).numpy()
    except AudioError:
        return None
    power = float(np.mean(np.square(wave, dtype=np.float64)))
    return Heard(
        clip,
        seconds=len(wave) / _FRONT_END.sample_rate,
        level=10 * float(np.log10(max(power, _QUIET))),
        clipped=float(np.mean(np.abs(wave) >= _FULL_SCALE)),
        restlessness=float(logmel.mean(axis=1).std()),
        spectrum=logmel.mean(axis=0, dtype=np.float64),
    )
