"""Log-mels kept on disk, memory-mapped, computed once.

A front end has a folder; in it lie *packs*, each a flat file of float32 frames (`NAME.frames`) with an
index (`NAME.json`) that is written last and atomically: a pack without an index does not count. A clip is
known by what determines its log-mel: the file (path, inode, size, times) and the front end. One process
fills a front end's folder at a time; another that wants to waits, and then finds the work done.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from auscult.audio import is_silent
from auscult.corpus.clip import Clip
from auscult.corpus.clip import clip_key as clip_key  # where callers look for it
from auscult.errors import AudioError, AuscultError
from auscult.features import FrontEnd
from auscult.files import atomic, cannot_write, sweep
from auscult.parallel import Result, map_in_order
from auscult.progress import progress

FORMAT = "v1"
DEFAULT_LIMIT = 20 * 2**30
"""Bytes the store may grow to before the packs longest unused are dropped."""

_CLIPS_A_PACK = 1024
"""A killed run loses no more than so many clips' work."""

_CLIPS_A_READ = 64
"""Of a corpus that is read once, so many log-mels are in memory at once."""


@dataclass(frozen=True)
class Broken:
    """A clip that cannot be judged, and why."""

    clip: Clip
    reason: AudioError


@dataclass(frozen=True)
class LogMels:
    """The log-mels of many clips, each a view of a memory-mapped pack.

    Attributes
    ----------
    clips : list of Clip
        Those that could be read.
    spectra : list of ndarray of float32, each (n_frames, n_mels)
        Read-only views, in the order of `clips`.
    broken : list of Broken
        Those that could not.
    """

    clips: list[Clip]
    spectra: list[np.ndarray]
    broken: list[Broken] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def windows(self, length: int, hop: int = 1) -> Windows:
        """All windows of `length` consecutive frames, `hop` apart, as strided views."""
        return Windows(self.spectra, length, hop)

    def levels(self) -> list[float]:
        """Mean of each log-mel, in dB: the same recording has the same, whatever its file is called.

        Not a digest of it: on another processor the last bits are others, and so would be the order of digests.
        """
        return self.read_once(lambda number: float(self.spectra[number].mean(dtype=np.float64)), range(len(self)))

    def read_once(self, function: Callable[[int], Result], numbers: Sequence[int]) -> list[Result]:
        """What a function says of some clips, of whose log-mels only a few dozen are in memory at once.

        Parameters
        ----------
        function : callable
            Of a clip's number, its place in `clips` and `spectra`; it keeps no view of the spectrum.
        numbers : sequence of int

        Returns
        -------
        list
            In the order of `numbers`.
        """
        found: list[Result] = []
        for start in range(0, len(numbers), _CLIPS_A_READ):
            some = numbers[start : start + _CLIPS_A_READ]
            found += map_in_order(function, some)
            for base in _bases([self.spectra[number] for number in some])[0]:
                _let_go(base)
        return found


class Windows:
    """Windows of consecutive frames over many clips, gathered on demand, never copied as a whole.

    Parameters
    ----------
    spectra : sequence of ndarray, each (n_frames, n_mels)
    length, hop : int
        Frames in a window, and between the starts of two.
    """

    def __init__(self, spectra: Sequence[np.ndarray], length: int, hop: int = 1) -> None:
        self.length = length
        counts = [max(0, (len(s) - length) // hop + 1) for s in spectra]
        self._bases, owners, offsets = _bases(spectra)
        self._n_mels = spectra[0].shape[1] if len(spectra) else 0
        # Where every window starts: the base array it lies in, and the frame within it.
        steps = [np.arange(n, dtype=np.int64) * hop + o for n, o in zip(counts, offsets, strict=True)]
        self._starts = np.concatenate(steps) if steps else np.zeros(0, np.int64)
        self._owners = np.repeat(np.array(owners, dtype=np.int32), counts)
        self._views = [self._view(base) for base in self._bases]

    def __len__(self) -> int:
        return len(self._starts)

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """Copy the windows asked for into one batch, shape (len(indices), length * n_mels), frame by frame."""
        rows = indices.numpy()
        owners = self._owners[rows]
        starts = torch.from_numpy(self._starts[rows])
        if len(self._views) == 1:
            return self._views[0][starts]
        batch = torch.empty(len(rows), self.length * self._n_mels)
        for owner in np.unique(owners):
            mine = torch.from_numpy(np.flatnonzero(owners == owner))
            batch[mine] = self._views[owner][starts[mine]]
        return batch

    def _view(self, base: np.ndarray) -> torch.Tensor:
        """Every window of a base array as a row, by strides alone: rows overlap, nothing is copied."""
        with _quiet_about_read_only():
            flat = torch.from_numpy(base).reshape(-1)
        n_rows = max(0, len(base) - self.length + 1)
        return flat.as_strided((n_rows, self.length * self._n_mels), (self._n_mels, 1))


class Store:
    """A folder of log-mels, shared by all commands of a user.

    Parameters
    ----------
    root : path-like, optional
        Default: the environment variable AUSCULT_CACHE, else the user's cache folder.
    limit : int
        Bytes on disk above which the packs longest unused are dropped.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.limit = limit

    def collect(self, clips: Sequence[Clip], front_end: FrontEnd) -> LogMels:
        """Log-mels of `clips`: those in the store are mapped, the others computed and added first.

        Raises
        ------
        AuscultError
            If the store cannot be written to.
        """
        keys = [clip_key(clip.file) if clip.file is not None else None for clip in clips]
        wanted = {key: clip for key, clip in zip(keys, clips, strict=True) if key is not None}
        found, unread = self._fill(self.root / FORMAT / _front_end_key(front_end), wanted, front_end)
        good: list[Clip] = []
        spectra: list[np.ndarray] = []
        broken: list[Broken] = []
        for key, clip in zip(keys, clips, strict=True):
            outcome: np.ndarray | AudioError | None = found.get(key or "")
            if outcome is None and wanted.get(key or "") is clip:
                outcome = unread.get(key or "")
            if outcome is None:
                # It has no file, or is a copy of a broken one, or another process has just made room.
                outcome = _attempt(clip, front_end)
            if isinstance(outcome, AudioError):
                broken.append(Broken(clip, outcome))
            else:
                good.append(clip)
                spectra.append(outcome)
        return LogMels(good, spectra, broken)

    def _fill(
        self, folder: Path, wanted: dict[str, Clip], front_end: FrontEnd
    ) -> tuple[dict[str, np.ndarray], dict[str, AudioError]]:
        """The log-mels of the clips wanted, computed where they are not there yet, and why some are not to be had."""
        if not wanted:
            return {}, {}
        from filelock import FileLock

        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                _sweep(folder)
                found = _open_packs(folder, front_end.n_mels)
                missing = {key: clip for key, clip in wanted.items() if key not in found}
                unread = _add(folder, missing, front_end)
                if missing:
                    found = _open_packs(folder, front_end.n_mels)
                self._make_room(folder, wanted.keys())
        except (OSError, AuscultError) as error:
            what = error.what if isinstance(error, AuscultError) else cannot_write(folder, error).what
            remedy = "make room (`auscult cache clear`) or name another folder in AUSCULT_CACHE"
            raise AuscultError(what, remedy) from error
        return found, unread

    def _make_room(self, folder: Path, used: Set[str]) -> None:
        """Drop the packs longest unused until the store is within its limit; those just used stay."""
        in_use = {pack for pack in folder.glob("*.json") if used & _index(pack).keys()}
        for pack in in_use:
            pack.touch()
        packs = sorted(self._packs(), key=_last_used)
        size = sum(_size(pack) for pack in packs)
        for pack in packs:
            if size <= self.limit:
                return
            if pack not in in_use:
                size -= _size(pack)
                _drop(pack)

    def _packs(self) -> Iterator[Path]:
        return (self.root / FORMAT).glob("*/*.json")

    def usage(self) -> dict[str, int]:
        """Bytes, packs and clips on disk."""
        packs = list(self._packs())
        return {
            "bytes": sum(_size(p) for p in packs),
            "packs": len(packs),
            "clips": sum(len(_index(p)) for p in packs),
        }

    def clear(self) -> None:
        """Delete everything. Log-mels are computed again when they are next needed.

        Raises
        ------
        AuscultError
            If something is still there.
        """
        shutil.rmtree(self.root / FORMAT, ignore_errors=True)
        if self.usage()["packs"]:
            raise AuscultError(f"{self.root}: could not be cleared", "see who may write there, and who uses it now")


def default_root() -> Path:
    """Where log-mels are kept: AUSCULT_CACHE, else the user's cache folder."""
    import platformdirs

    asked = os.environ.get("AUSCULT_CACHE")
    return Path(asked) if asked else Path(platformdirs.user_cache_dir("auscult")) / "logmels"


def clip_logmel(clip: Clip, front_end: FrontEnd) -> torch.Tensor:
    """Log-mel of one clip, computed now and not kept, shape (n_frames, n_mels).

    Raises
    ------
    AudioError
        If the clip cannot be judged; the message names it.
    """
    wave = clip.waveform(front_end.sample_rate, front_end.channel)
    try:
        return front_end.logmel(wave)
    except AudioError as error:
        raise AudioError(f"{clip.path}: {error.what}", error.remedy) from error


def _front_end_key(front_end: FrontEnd) -> str:
    return hashlib.blake2b(front_end.model_dump_json().encode(), digest_size=12).hexdigest()


def _attempt(clip: Clip, front_end: FrontEnd) -> np.ndarray | AudioError:
    try:
        wave = clip.waveform(front_end.sample_rate, front_end.channel)
        if is_silent(wave):
            raise AudioError(f"{clip.path}: nothing but silence", "is the microphone connected?")
        return front_end.logmel(wave).numpy()
    except AudioError as error:
        named = error.what if error.what.startswith(clip.path) else f"{clip.path}: {error.what}"
        return AudioError(named, error.remedy)


def _add(folder: Path, wanted: dict[str, Clip], front_end: FrontEnd) -> dict[str, AudioError]:
    """Compute the clips wanted and write them pack by pack; return why some could not be read."""
    unread: dict[str, AudioError] = {}
    names = list(wanted)
    with progress("Log-mel spectrograms", len(names)) as advance:
        for start in range(0, len(names), _CLIPS_A_PACK):
            some = {name: wanted[name] for name in names[start : start + _CLIPS_A_PACK]}
            spectra = map_in_order(lambda clip: _attempt(clip, front_end), some.values())
            pack = folder / f"{uuid.uuid4().hex}.json"
            index: dict[str, tuple[int, int]] = {}
            n_frames = 0
            with atomic(pack.with_suffix(".frames")) as temporary, open(temporary, "wb") as file:
                for name, spectrum in zip(some, spectra, strict=True):
                    advance()
                    if isinstance(spectrum, AudioError):
                        unread[name] = spectrum
                        continue
                    file.write(spectrum.data)
                    index[name] = (n_frames, len(spectrum))
                    n_frames += len(spectrum)
            if not index:
                _drop(pack)
                continue
            with atomic(pack) as temporary:
                temporary.write_text(json.dumps({"n_frames": n_frames, "clips": index}))
    return unread


def _open_packs(folder: Path, n_mels: int) -> dict[str, np.ndarray]:
    """Map every pack of a folder; a damaged one is deleted, and so computed again."""
    found: dict[str, np.ndarray] = {}
    for pack in sorted(folder.glob("*.json")):
        index = _index(pack)
        try:
            base = _map(pack.with_suffix(".frames"), index, n_mels)
        except (OSError, ValueError):
            _drop(pack)
            continue
        found.update({name: base[offset : offset + n] for name, (offset, n) in index.items()})
    return found


def _map(frames: Path, index: dict[str, tuple[int, int]], n_mels: int) -> np.ndarray:
    """Map a pack's frames, shape (n_frames, n_mels); ValueError if they are not what its index says."""
    n_frames = max((offset + length for offset, length in index.values()), default=0)
    if not n_frames or frames.stat().st_size != n_frames * n_mels * 4:
        raise ValueError(frames)
    return np.asarray(np.memmap(frames, np.float32, "r", shape=(n_frames, n_mels)))


def _index(pack: Path) -> dict[str, tuple[int, int]]:
    """Where each clip lies in a pack: its first frame and how many there are; empty for a damaged index."""
    try:
        clips = json.loads(pack.read_text())["clips"]
        return {name: (int(offset), int(length)) for name, (offset, length) in clips.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _drop(pack: Path) -> None:
    """Delete a pack: its index first, without which the frames do not count."""
    pack.unlink(missing_ok=True)
    pack.with_suffix(".frames").unlink(missing_ok=True)


def _last_used(pack: Path) -> float:
    try:
        return pack.stat().st_mtime
    except OSError:  # another process has just dropped it
        return 0.0


def _sweep(folder: Path) -> None:
    """Delete what a killed process left: frames without an index. Only called under the folder's lock."""
    for frames in folder.glob("*.frames"):
        if not frames.with_suffix(".json").exists():
            frames.unlink(missing_ok=True)
    sweep(folder)


def _size(pack: Path) -> int:
    try:
        return pack.stat().st_size + pack.with_suffix(".frames").stat().st_size
    except OSError:
        return 0


def _bases(spectra: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int], list[int]]:
    """Which array each spectrum is a view of, and at which frame it starts there."""
    bases: list[np.ndarray] = []
    known: dict[int, int] = {}
    owners, offsets = [], []
    for spectrum in spectra:
        base = spectrum.base if isinstance(spectrum.base, np.ndarray) else spectrum
        if base.ndim != 2 or base.dtype != np.float32 or not base.flags.c_contiguous:
            base = spectrum = np.ascontiguousarray(spectrum, dtype=np.float32)
        if id(base) not in known:
            known[id(base)] = len(bases)
            bases.append(base)
        owners.append(known[id(base)])
        distance = spectrum.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        offsets.append(distance // (4 * spectrum.shape[1]))
    return bases, owners, offsets


def _let_go(base: np.ndarray) -> None:
    """Hand the memory of a mapped pack back; what is looked at again is read again."""
    mapped = base.base.base if isinstance(base.base, np.memmap) else None
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _quiet_about_read_only() -> Iterator[None]:
    """Torch warns that a mapped file is read-only; nobody writes to these views."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield


def require_clips(logmels: LogMels) -> None:
    """Refuse to go on with nothing.

    Raises
    ------
    AuscultError
        If no clip could be read.
    """
    if not logmels.clips:
        first = f"; the first: {logmels.broken[0].reason}" if logmels.broken else ""
        raise AuscultError(f"none of {len(logmels.broken)} clips can be used{first}", "check the recordings")
