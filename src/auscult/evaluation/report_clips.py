"""The cards of a report's most anomalous clips: what was scored, what is seen and heard."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult.corpus.clip import Clip
from auscult.errors import AuscultError
from auscult.evaluation.explanation import strangest_region
from auscult.evaluation.scales import frequency_ticks, map_ceiling, round_numbers
from auscult.evaluation.thumbnails import map_png, spectrogram_png
from auscult.evaluation.words import describe, sentence, verdict
from auscult.features import FrontEnd

if TYPE_CHECKING:
    from auscult.model import Model

LONGEST_SOUND = 12.0
"""Seconds of a clip that can be listened to."""


@dataclass
class Card:
    """One of the most anomalous clips, as the page shows it."""

    name: str
    machine: str
    condition: str
    decision: str
    verdict: str
    sentence: str = ""
    spectrogram: str = ""
    anomaly_map: str = ""
    brightest: float = 0.0
    box: tuple[float, float, float, float] | None = None
    hertz: list[tuple[float, str]] = field(default_factory=list)
    seconds: list[tuple[float, str]] = field(default_factory=list)
    sound: str = ""
    sound_note: str = ""
    notes: list[str] = field(default_factory=list)


class Budget:
    """Bytes that pictures and sound may still take; `exceeded` once something was refused."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.exceeded = False

    def admits(self, size: int) -> bool:
        """Take `size` bytes of what is left, if there is as much."""
        if size > self.left:
            self.exceeded = True
            return False
        self.left -= size
        return True


def make_card(row: dict[str, Any], folder: Path, model: Model | None, data: Path | None, budget: Budget) -> Card:
    """Show one clip, as far as it is found, can be read and the budget lasts.

    Parameters
    ----------
    row : dict
        Of the table of scores, with a score.
    folder : Path
        Where the scores lie.
    model : Model or None
        Without it there is no anomaly map.
    data : Path or None
        Folder of the clips, or a manifest in it.
    budget : Budget
        Is charged for the pictures and the sound.
    """
    threshold, p_value = (float(row[key]) if np.isfinite(row[key]) else None for key in ("threshold", "p_value"))
    card = Card(
        name=row["path"],
        machine=f"{row['machine_type']} {row['machine_id']}",
        condition=row["condition"],
        decision=row["decision"],
        verdict=sentence(verdict(float(row["score"]), threshold, p_value)),
    )
    if budget.exceeded:
        return card
    file = _find_clip(row["path"], folder, data)
    if file is None:
        card.notes.append(
            "The recording was not found, so there is neither picture nor sound; "
            "run the report with --data FOLDER, the folder that its path starts from."
        )
        return card
    clip = Clip(
        path=row["path"], file=file, machine_type=row["machine_type"], machine_id=row["machine_id"],
        condition=row["condition"],
    )  # fmt: skip
    shown = Card(**{**vars(card), "notes": []})
    try:
        _illustrate(shown, clip, model)
    except AuscultError as error:
        card.notes.append(sentence(str(error)))
        return card
    size = len(shown.spectrogram) + len(shown.anomaly_map) + len(shown.sound)
    return shown if budget.admits(size) else card


def _find_clip(path: str, folder: Path, data: Path | None) -> Path | None:
    """As the path is, else from the scores' folder, else from the data."""
    places = [Path(path), folder / path]
    if data is not None:
        places.append((data if data.is_dir() else data.parent) / path)
    return next((place for place in places if _is_file(place)), None)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):
        # A name that no file can have.
        return False


def _illustrate(card: Card, clip: Clip, model: Model | None) -> None:
    front = model.detector.front_end if model else FrontEnd()
    wave = clip.waveform(front.sample_rate, front.channel)
    logmel = np.asarray(model.logmel(clip)) if model else front.logmel(wave).numpy().T
    n_frames = logmel.shape[1]
    hop = front.hop_length / front.sample_rate
    card.spectrogram = _data_uri("image/png", spectrogram_png(logmel))
    card.hertz = [((p + 0.5) / front.n_mels, text) for p, text in frequency_ticks(front, apart=0.16)]
    card.seconds = [((s / hop + 0.5) / n_frames, f"{s:g} s") for s in round_numbers(0, n_frames * hop, 6)]
    middle = 0.0
    if model:
        relative = np.asarray(model.relative_map(clip))
        region = strangest_region(relative, front)
        card.anomaly_map = _data_uri("image/png", map_png(relative))
        card.brightest = map_ceiling(relative)
        card.sentence = describe(region, relative)
        card.box = (
            region.frames.start / n_frames,
            1 - region.bands.stop / front.n_mels,
            (region.frames.stop - region.frames.start) / n_frames,
            (region.bands.stop - region.bands.start) / front.n_mels,
        )
        middle = (region.start + region.stop) / 2
    card.sound, card.sound_note = _sound(wave, front.sample_rate, middle)


def _sound(wave: np.ndarray, rate: int, middle: float) -> tuple[str, str]:
    """Encode the seconds around `middle` so that a browser plays them, and say what was done to them."""
    import soundfile

    length = round(LONGEST_SOUND * rate)
    start = int(np.clip(round(middle * rate) - length // 2, 0, max(0, len(wave) - length)))
    cut = wave[start : start + length]
    notes = []
    if len(cut) < len(wave):
        notes.append(f"seconds {start / rate:.0f}–{(start + len(cut)) / rate:.0f} of {len(wave) / rate:.0f}")
    peak = float(np.abs(cut).max())
    gain = min(0.7 / peak, 100.0) if peak > 0 else 1.0
    if gain > 1.26:
        notes.append(f"played {20 * np.log10(gain):.0f} dB louder than recorded")
        cut = cut * np.float32(gain)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, format="OGG", subtype="VORBIS") as file:
        # libsndfile's Vorbis encoder keeps what it is given at once on the stack.
        for block in range(0, len(cut), 1 << 14):
            file.write(cut[block : block + (1 << 14)])
    return _data_uri("audio/ogg", buffer.getvalue()), ", ".join(notes)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
