"""Log-mels are computed once, kept whole, and gathered without copies of the corpus."""

import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult import store as store_module
from auscult.corpus.clip import Clip
from auscult.features import FRONT_ENDS
from auscult.store import LogMels, Store, Windows, clip_key, clip_logmel

FRONT = FRONT_ENDS["dcase2020"]


def make_clips(folder: Path, n: int, seconds: float = 0.3) -> list[Clip]:
    folder.mkdir(exist_ok=True)
    clips = []
    for k in range(n):
        file = folder / f"{k}.wav"
        samples = np.random.default_rng(k).standard_normal(round((seconds + 0.05 * (k % 3)) * 16_000)) * 0.1
        soundfile.write(file, samples, 16_000)
        clips.append(Clip(str(file), file))
    return clips


def frames_on_disk(store: Store) -> list[Path]:
    return sorted(store.root.glob("*/*/*.frames"))


def test_what_is_kept_is_what_is_computed(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 7)
    store = Store(tmp_path / "store")
    for _ in range(2):
        logmels = store.collect(clips, FRONT)
        assert [c.path for c in logmels.clips] == [c.path for c in clips]
        for clip, spectrum in zip(clips, logmels.spectra, strict=True):
            np.testing.assert_array_equal(spectrum, clip_logmel(clip, FRONT).numpy())
    assert len(frames_on_disk(store)) == 1
    assert store.usage()["clips"] == 7


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = make_clips(tmp_path / "clips", 6)
    store = Store(tmp_path / "store")
    store.collect(clips[:4], FRONT)
    computed: list[str] = []
    attempt = store_module._attempt
    monkeypatch.setattr(store_module, "_attempt", lambda c, f: computed.append(c.path) or attempt(c, f))
    store.collect(clips[2:], FRONT)
    assert sorted(computed) == sorted(c.path for c in clips[4:])
    computed.clear()
    soundfile.write(clips[0].file, np.random.default_rng(99).standard_normal(4800) * 0.1, 16_000)
    changed = store.collect(clips, FRONT)
    assert computed == [clips[0].path]
    np.testing.assert_array_equal(changed.spectra[0], clip_logmel(clips[0], FRONT).numpy())
    computed.clear()
    store.collect(clips, FRONT_ENDS["dcase2021"])
    assert len(computed) == 6


def test_a_file_replaced_by_one_of_the_same_size_and_date_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x" * 100)
    before, status = clip_key(file), file.stat()
    file.write_bytes(b"y" * 100)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert clip_key(file) != before


def test_broken_clips_are_named_and_the_rest_are_kept(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 3)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(5000), 16_000)
    short = tmp_path / "short.wav"
    soundfile.write(short, np.linspace(-0.1, 0.1, 80), 16_000)
    gone = tmp_path / "gone.wav"
    bad = [Clip(str(f), f) for f in (text, silent, short, gone)]
    logmels = Store(tmp_path / "store").collect([bad[0], *clips, *bad[1:]], FRONT)
    assert [c.path for c in logmels.clips] == [c.path for c in clips]
    reasons = {Path(b.clip.path).name: str(b.reason) for b in logmels.broken}
    assert reasons.keys() == {"text.wav", "silent.wav", "short.wav", "gone.wav"}
    assert all(name in reason for name, reason in reasons.items())
    assert "silence" in reasons["silent.wav"]
    assert "too short" in reasons["short.wav"]
    assert "no such file" in reasons["gone.wav"]


def test_clips_in_memory_need_no_disk(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    clip = Clip("in memory", samples=samples, rate=16_000)
    logmels = Store(tmp_path / "store").collect([clip], FRONT)
    np.testing.assert_array_equal(logmels.spectra[0], FRONT.logmel(samples).numpy())
    assert not (tmp_path / "store").exists()


def test_what_was_read_once_is_still_there(tmp_path: Path) -> None:
    """Memory that was handed back is filled again from the file."""
    logmels = Store(tmp_path / "store").collect(make_clips(tmp_path / "clips", 5), FRONT)
    before = [spectrum.copy() for spectrum in logmels.spectra]
    levels = logmels.levels()
    np.testing.assert_allclose(levels, [spectrum.mean() for spectrum in before], rtol=1e-5)
    assert levels == LogMels(logmels.clips, before).levels()
    assert logmels.read_once(lambda number: number, [3, 1]) == [3, 1]
    assert all(np.array_equal(now, then) for now, then in zip(logmels.spectra, before, strict=True))


@pytest.mark.parametrize("damage", ["cut", "gone", "index cut", "no index"])
def test_damaged_packs_are_computed_again(tmp_path: Path, damage: str) -> None:
    clips = make_clips(tmp_path / "clips", 4)
    store = Store(tmp_path / "store")
    expected = [s.copy() for s in store.collect(clips, FRONT).spectra]
    frames = frames_on_disk(store)[0]
    index = frames.with_suffix(".json")
    if damage == "cut":
        os.truncate(frames, frames.stat().st_size // 2)
    elif damage == "gone":
        frames.unlink()
    elif damage == "index cut":
        index.write_text(index.read_text()[:40])
    else:
        index.unlink()
    again = store.collect(clips, FRONT)
    for spectrum, right in zip(again.spectra, expected, strict=True):
        np.testing.assert_array_equal(spectrum, right)
    for pack in frames_on_disk(store):
        assert json.loads(pack.with_suffix(".json").read_text())["clips"]


def test_a_killed_run_keeps_whole_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = make_clips(tmp_path / "clips", 10)
    monkeypatch.setattr(store_module, "_CLIPS_A_PACK", 4)
    store = Store(tmp_path / "store")
    attempt, done = store_module._attempt, []

    def dies(clip: Clip, front: object) -> object:
        done.append(clip.path)
        if len(done) == 7:
            raise KeyboardInterrupt
        return attempt(clip, front)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "_attempt", dies)
    monkeypatch.setenv("AUSCULT_THREADS", "1")
    with pytest.raises(KeyboardInterrupt):
        store.collect(clips, FRONT)
    monkeypatch.setattr(store_module, "_attempt", attempt)
    assert store.usage()["clips"] == 4
    assert len(store.collect(clips, FRONT)) == 10
    assert len(frames_on_disk(store)) == 3


def _fill(root: str, folder: str, started: float) -> None:
    clips = [Clip(str(f), f) for f in sorted(Path(folder).glob("*.wav"))]
    time.sleep(max(0.0, started - time.time()))
    Store(root).collect(clips, FRONT)


def test_two_processes_fill_it_together(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 30)
    context = multiprocessing.get_context("spawn")
    start = time.time() + 4
    args = (str(tmp_path / "store"), str(tmp_path / "clips"), start)
    processes = [context.Process(target=_fill, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = Store(tmp_path / "store")
    assert store.usage()["clips"] == 30
    assert len(frames_on_disk(store)) == 1
    for clip, spectrum in zip(clips, store.collect(clips, FRONT).spectra, strict=True):
        np.testing.assert_array_equal(spectrum, clip_logmel(clip, FRONT).numpy())


def test_the_limit_drops_what_was_longest_unused(tmp_path: Path) -> None:
    old, middle, new = (make_clips(tmp_path / name, 3) for name in ("a", "b", "c"))
    unlimited = Store(tmp_path / "store")
    for group in (old, middle):
        unlimited.collect(group, FRONT)
    size = unlimited.usage()["bytes"]
    for age, pack in enumerate(sorted(unlimited._packs(), key=lambda p: p.stat().st_mtime)):
        os.utime(pack, (1000 + age, 1000 + age))
    unlimited.collect(old, FRONT)
    limited = Store(tmp_path / "store", limit=int(size * 1.2))
    held = limited.collect(new, FRONT)
    assert limited.usage()["clips"] == 6
    keys = {k for p in limited._packs() for k in json.loads(p.read_text())["clips"]}
    assert {clip_key(c.file) for c in old} <= keys
    assert len(held.spectra[0])
    limited.clear()
    assert limited.usage() == {"bytes": 0, "packs": 0, "clips": 0}
    np.testing.assert_array_equal(held.spectra[0], clip_logmel(new[0], FRONT).numpy())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    length=st.integers(1, 6),
    hop=st.integers(1, 3),
    joined=st.booleans(),
    data=st.data(),
)
def test_windows_equal_slices(lengths: list[int], length: int, hop: int, joined: bool, data: st.DataObject) -> None:
    n_mels = 3
    base = np.arange(sum(lengths) * n_mels, dtype=np.float32).reshape(-1, n_mels)
    edges = np.cumsum([0, *lengths])
    spectra = [base[a:b] for a, b in itertools.pairwise(edges)]
    if not joined:
        spectra = [s.copy() for s in spectra]
    slow = [s[i : i + length].ravel() for s in spectra for i in range(0, len(s) - length + 1, hop)]
    windows = Windows(spectra, length, hop)
    assert len(windows) == len(slow)
    if slow:
        chosen = data.draw(st.lists(st.integers(0, len(slow) - 1), min_size=1, max_size=10))
        batch = windows.gather(torch.tensor(chosen, dtype=torch.int64))
        np.testing.assert_array_equal(batch.numpy(), np.array([slow[i] for i in chosen]).reshape(len(chosen), -1))


def test_windows_copy_nothing_but_the_batch(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 5, seconds=1.0)
    logmels = Store(tmp_path / "store").collect(clips, FRONT)
    windows = logmels.windows(5)
    view = windows._views[0]
    assert view.stride() == (128, 1)
    assert view.data_ptr() == logmels.spectra[0].__array_interface__["data"][0]
    assert len(windows) == sum(len(s) - 4 for s in logmels.spectra)
