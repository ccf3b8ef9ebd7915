"""Data sets are fetched from a server that breaks off, lies, and is busy; archives are not trusted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_server import Site, git_sha
from auscult.corpus import download_archive, download_listing, download_store, open_data
from auscult.corpus.download import RECORD, Fetched, download
from auscult.corpus.download_archive import Damaged, merge, size_in_words, unpack
from auscult.corpus.download_catalogue import BASELINE, CORPORA, EVALUATOR_2022, corpus_named
from auscult.corpus.download_checksums import MD5
from auscult.corpus.download_http import Client, Remote
from auscult.corpus.download_volumes import Volumes, unpack_volumes
from auscult.errors import AuscultError
from conftest import Run, command, write_wav

LICENCE = "cc-by-nc-sa-4.0"
CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    server = Site()
    monkeypatch.setenv("AUSCULT_MIRROR", server.url)
    for proxy in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield server
    server.close()


def quick(**how: Any) -> Client:
    return Client(**{"wait": 0.01, "timeout": 5.0, **how})


def get(output: Path, name: str = "dcase2021", **how: Any) -> Fetched:
    return download(name, output, client=quick(), **how)


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def clip(folder: Path, seed: int) -> bytes:
    return write_wav(folder / "clip.wav", np.random.default_rng(seed).normal(0, 0.1, 4000)).read_bytes()


FAN_DEV = {
    "fan/train/section_00_source_train_normal_0000_strength_1.wav": 0,
    "fan/source_test/section_00_source_test_anomaly_0000.wav": 1,
    "fan/target_test/section_00_target_test_normal_0000.wav": 2,
}
FAN_TRAIN = {"fan/train/section_03_source_train_normal_0000_strength_1.wav": 3}
FAN_TEST = {"fan/source_test/section_03_source_test_0000.wav": 4, "fan/target_test/section_03_target_test_0000.wav": 5}
LIST_2021 = (
    b"fan\nsection_03_source_test_0000.wav,section_03_source_test_anomaly_0000.wav\n"
    b"section_03_target_test_0000.wav,section_03_target_test_normal_0000.wav\n"
)


@pytest.fixture
def fan(site: Site, tmp_path: Path) -> Site:
    """The fan of DCASE 2021: development, additional training, evaluation, ground truth."""

    def archive(files: dict[str, int]) -> bytes:
        return zipped({name: clip(tmp_path / "made", seed) for name, seed in files.items()})

    site.records["4562016"] = {
        "dev_data_fan.zip": archive(FAN_DEV),
        "dev_data_pump.zip": archive({"pump/train/x.wav": 6}),
    }
    site.records["4660992"] = {"eval_data_fan_train.zip": archive(FAN_TRAIN)}
    site.records["4884786"] = {"eval_data_fan_test.zip": archive(FAN_TEST)}
    site.repositories[f"{BASELINE}/datasets"] = {"eval_data_list_2021.csv": LIST_2021, "eval_data_list_2022.csv": b"x"}
    return site


# --- a data set -----------------------------------------------------------------------------------------------


def test_a_data_set_is_fetched_unpacked_recorded_and_opens(fan: Site, tmp_path: Path) -> None:
    said: list[str] = []
    done = get(tmp_path / "data", machines=["fan"], say=said.append)
    assert done.failures == ()
    assert len(done.done) == 4
    home = tmp_path / "data" / "dcase2021"
    manifest = open_data(home)
    assert len(manifest) == len(FAN_DEV) + len(FAN_TRAIN) + len(FAN_TEST)
    assert set(manifest.table["condition"]) == {"normal", "anomaly"}
    assert not (home / "dev_data" / "pump").exists()
    record = json.loads((home / RECORD).read_text())
    entry = record["archives"]["dev_data/dev_data_fan.zip"]
    assert entry["licence"] == LICENCE
    assert entry["record"] == "4562016"
    assert entry["files"][0]["checksum"] == f"md5:{hashlib.md5(fan.records['4562016']['dev_data_fan.zip']).hexdigest()}"
    truth = record["archives"]["eval_data/eval_data_list_2021.csv"]
    assert truth["files"][0]["checksum"] == f"git:{git_sha(LIST_2021)}"
    assert LICENCE in record["licences"]
    assert any("licence: cc-by-nc-sa-4.0 (dev, additional, eval)" in line for line in said)
    assert any("4 archives to fetch" in line for line in said)
    assert [path.name for path in (home / ".download").iterdir()] in ([], ["lock"])


def test_what_is_there_is_not_fetched_again(fan: Site, tmp_path: Path) -> None:
    get(tmp_path, machines=["fan"], parts=["dev"])
    asked = len(fan.asked)
    again = get(tmp_path, machines=["fan"], parts=["dev"])
    assert (again.done, again.kept, len(fan.asked)) == ((), ("dev_data/dev_data_fan.zip",), asked)
    # What somebody deleted is; so is what the archive has exchanged.
    shutil.rmtree(tmp_path / "dcase2021/dev_data/fan/train")
    assert get(tmp_path, machines=["fan"], parts=["dev"]).done == ("dev_data/dev_data_fan.zip",)
    fan.records["4562016"]["dev_data_fan.zip"] = zipped({"fan/train/new.wav": b"new"})
    assert get(tmp_path, machines=["fan"], parts=["dev"]).done == ("dev_data/dev_data_fan.zip",)
    assert (tmp_path / "dcase2021/dev_data/fan/train/new.wav").read_bytes() == b"new"


def test_the_last_revision_of_an_archive_is_taken(site: Site, tmp_path: Path) -> None:
    site.records["11259435"] = {
        "eval_data_3DPrinter_train.zip": zipped({"3DPrinter/train/a.wav": b"withdrawn"}),
        "eval_data_3DPrinter_train_r2.zip": zipped({"3DPrinter/train/a.wav": b"good"}),
    }
    done = get(tmp_path, "dcase2024", machines=["3DPrinter"], parts=["additional"])
    assert done.done == ("eval_data/eval_data_3DPrinter_train_r2.zip",)
    assert (tmp_path / "dcase2024/eval_data/3DPrinter/train/a.wav").read_bytes() == b"good"


def test_the_truth_of_2022_is_the_evaluators(site: Site, tmp_path: Path) -> None:
    for folder, label in (("ground_truth_data", b"1"), ("ground_truth_domain", b"0")):
        site.repositories[f"{EVALUATOR_2022}/{folder}"] = {
            f"ground_truth_{machine}_section_{section}_test.csv": b"section_%s_0000.wav,%s\n"
            % (section.encode(), label)
            for machine in ("ToyCar", "valve")
            for section in ("03", "04")
        }
    done = get(tmp_path, "dcase2022", machines=["ToyCar"], parts=["truth"])
    assert (len(done.done), done.failures) == (4, ())
    write_wav(tmp_path / "dcase2022/eval_data/ToyCar/test/section_03_0000.wav", np.zeros(160))
    table = open_data(tmp_path / "dcase2022").table
    assert table[["condition", "domain"]].to_numpy().tolist() == [["anomaly", "source"]]


def test_mimii_goes_into_a_folder_for_each_noise_level(site: Site, tmp_path: Path) -> None:
    site.records["3384388"] = {
        f"{snr}_dB_fan.zip": zipped({"fan/id_00/normal/00000000.wav": clip(tmp_path / "made", k)})
        for k, snr in enumerate(("-6", "0", "6"))
    }
    get(tmp_path, "mimii", machines=["fan"], parts=["-6dB", "6dB"])
    manifest = open_data(tmp_path / "mimii")
    assert sorted(manifest.table["attributes"]) == ["snr=-6dB", "snr=6dB"]


TOYCAR = "ToyCar/case1/NormalSound_IND/1100010001_ToyCar_case1_normal_IND_ch1_0001.wav"


def volumes(tmp_path: Path, files: dict[str, bytes], count: int = 3) -> dict[str, bytes]:
    """A 7-Zip archive cut into volumes."""
    import py7zr

    stream = io.BytesIO()
    with py7zr.SevenZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(content, name)
    whole = stream.getvalue()
    cuts = [len(whole) * k // count for k in range(count + 1)]
    return {f"ToyCar.7z.{k + 1:03}": whole[cuts[k] : cuts[k + 1]] for k in range(count)}


def test_toyadmos_in_volumes_is_unpacked(site: Site, tmp_path: Path) -> None:
    sound = clip(tmp_path / "made", 0)
    site.records["3351307"] = volumes(tmp_path, {TOYCAR: sound, TOYCAR.replace("0001.wav", "0002.wav"): CONTENT})
    done = get(tmp_path, "toyadmos", machines=["ToyCar"])
    assert (done.done, done.failures, done.to_unpack) == (("ToyCar.7z",), (), ())
    assert (tmp_path / "toyadmos" / TOYCAR).read_bytes() == sound
    assert not list((tmp_path / "toyadmos").glob("*.7z*"))
    assert open_data(tmp_path / "toyadmos").table["machine_id"].tolist() == ["case1", "case1"]
    assert get(tmp_path, "toyadmos", machines=["ToyCar"]).kept == ("ToyCar.7z",)


def test_without_the_library_volumes_are_checked_and_left_to_7zip(
    site: Site, tmp_path: Path, auscult: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_listing, "can_unpack", lambda: False)
    site.records["3351307"] = {f"ToyCar.7z.{k:03}": CONTENT[k:] for k in range(1, 4)}
    words = ("download", "toyadmos", "--machine-type", "ToyCar", "-o", tmp_path)
    done = auscult(*words)
    assert done.code == 0, done.err
    home = tmp_path / "toyadmos"
    assert f"7z x {home / 'ToyCar.7z.001'}" in done.out
    assert [(home / f"ToyCar.7z.{k:03}").read_bytes() == CONTENT[k:] for k in range(1, 4)] == [True] * 3
    assert "1 there before" in auscult(*words).out
    # Unpacked by hand, the volumes deleted: still there.
    (home / "ToyCar" / "case1").mkdir(parents=True)
    for k in range(1, 4):
        (home / f"ToyCar.7z.{k:03}").unlink()
    assert "1 there before" in auscult(*words).out


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 30))),
)
def test_volumes_read_as_one_file(tmp_path_factory: Any, pieces: list[bytes], reads: list[tuple[int, int]]) -> None:
    folder = tmp_path_factory.mktemp("volumes")
    paths = [folder / str(k) for k in range(len(pieces))]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_bytes(piece)
    whole = io.BytesIO(b"".join(pieces))
    with io.BufferedReader(Volumes(paths), 16) as stream:
        for at, size in reads:
            assert stream.seek(at) == whole.seek(at)
            assert stream.read(size) == whole.read(size)
            assert stream.tell() == whole.tell()
        assert stream.seek(0, io.SEEK_END) == len(b"".join(pieces))


def write_volumes(tmp_path: Path, content: dict[str, bytes]) -> list[Path]:
    for name, piece in content.items():
        (tmp_path / name).write_bytes(piece)
    return [tmp_path / name for name in content]


@pytest.mark.parametrize("harm", ["cut", "flipped", "not an archive", "swapped", "empty"])
def test_damaged_volumes_are_named(tmp_path: Path, harm: str) -> None:
    content = volumes(tmp_path, {} if harm == "empty" else {TOYCAR: CONTENT})
    first, second, third = content
    if harm == "cut":
        content[third] = content[third][:-1000]
    elif harm == "flipped":
        content[second] = content[second][:100] + bytes([content[second][100] ^ 255]) + content[second][101:]
    elif harm == "not an archive":
        content = {first: b"<html>"}
    elif harm == "swapped":
        content[second], content[third] = content[third], content[second]
    with pytest.raises(Damaged, match=r"ToyCar\.7z: the archive is"):
        unpack_volumes("ToyCar.7z", write_volumes(tmp_path, content), tmp_path / "in")


def test_volumes_are_not_trusted(tmp_path: Path) -> None:
    import py7zr

    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "links.7z", "w") as archive:
        archive.write(tmp_path / "link", "ToyCar/link.wav")
    with pytest.raises(AuscultError, match="a link or a device"):
        unpack_volumes("ToyCar.7z", [tmp_path / "links.7z"], tmp_path / "in")
    with py7zr.SevenZipFile(tmp_path / "bomb.7z", "w") as archive:
        archive.writestr(bytes(40 * 2**20), "ToyCar/zeros.wav")
    with pytest.raises(AuscultError, match="which no recordings of its size can"):
        unpack_volumes("ToyCar.7z", [tmp_path / "bomb.7z"], tmp_path / "in")
    with py7zr.SevenZipFile(tmp_path / "locked.7z", "w", password="x") as archive:
        archive.writestr(b"x" * 100, "ToyCar/a.wav")
    with pytest.raises(AuscultError, match="encrypted"):
        unpack_volumes("ToyCar.7z", [tmp_path / "locked.7z"], tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_several_archives_come_at_once(site: Site, tmp_path: Path) -> None:
    site.records["3384388"] = {
        f"0_dB_{m}.zip": zipped({f"{m}/a.wav": b"a"}) for m in ("fan", "pump", "slider", "valve")
    }
    for name in site.records["3384388"]:
        site.faults[name] = ["slow:0.2"]
    done = get(tmp_path, "mimii", parts=["0dB"], parallel=4)
    assert len(done.done) == 4
    assert site.busiest > 1


def test_one_broken_archive_does_not_stop_the_others(fan: Site, tmp_path: Path, auscult: Run) -> None:
    fan.stated["dev_data_fan.zip"] = {"checksum": "md5:" + "0" * 32}
    done = auscult("download", "dcase2021", "--machine-type", "fan", "--machine-type", "pump", "-o", tmp_path)
    assert done.code == 2  # pump has no additional training data here: refused before anything is fetched
    assert "holds no eval_data_pump_train.zip" in done.err
    done = auscult("download", "dcase2021", "--machine-type", "fan", "-o", tmp_path)
    assert done.code == 1
    assert any("dev_data_fan.zip: its md5 checksum is" in note for note in done.notes)
    assert "3 fetched" in done.out
    assert not (tmp_path / "dcase2021" / "dev_data").exists()
    fan.stated.clear()
    assert auscult("download", "dcase2021", "--machine-type", "fan", "-o", tmp_path).code == 0


# --- a server on bad days -------------------------------------------------------------------------------------


def fetch(site: Site, tmp_path: Path, *faults: str, client: Client | None = None, **remote: Any) -> bytes:
    """Fetch one file from a server that does these things wrong first."""
    site.records["1"]["file.zip"] = CONTENT
    site.faults["file.zip"] = list(faults)
    part = tmp_path / "file.part"
    url = f"{site.url}/records/1/files/file.zip?download=1"
    (client or quick()).fetch(Remote(**{"name": "file.zip", "url": url, "size": len(CONTENT), **remote}), part)
    return part.read_bytes()


def test_a_broken_connection_is_taken_up_where_it_was(site: Site, tmp_path: Path) -> None:
    assert fetch(site, tmp_path, "break:100000", "break:1", "503") == CONTENT
    ranges = site.requests("file.zip")
    assert ranges[0] == ""
    assert all(asked.startswith("bytes=") for asked in ranges[1:])
    assert int(ranges[1].strip("bytes=-")) > 0
    assert len(ranges) == 4
    assert set(site.conditions[1:]) == {f'"{hashlib.md5(CONTENT).hexdigest()}"'}


@pytest.mark.parametrize(
    "faults",
    [
        ("redirect",),
        ("redirect", "break:50000", "redirect"),
        ("break:50000", "whole"),
        ("break:50000", "misplaced"),
        ("break:50000", "unsatisfiable"),
        ("overstated",),
        ("understated:1000",),
        ("503:0", "429:0", "500", "502", "504"),
        ("break:0", "break:0", "break:0"),
    ],
)
def test_a_servers_whims_do_no_harm(site: Site, tmp_path: Path, faults: tuple[str, ...]) -> None:
    assert fetch(site, tmp_path, *faults) == CONTENT


@pytest.mark.parametrize("asked", ["429:1", "503:date"])
def test_a_busy_server_is_given_the_time_it_asks_for(site: Site, tmp_path: Path, asked: str) -> None:
    start = time.monotonic()
    assert fetch(site, tmp_path, asked, client=quick(wait=100)) == CONTENT
    assert len(site.requests("file.zip")) == 2
    if asked == "429:1":
        assert time.monotonic() - start >= 1


def test_a_server_that_asks_for_hours_is_given_up(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="busy for 7200 s more"):
        fetch(site, tmp_path, "503:7200")


def test_a_server_that_never_recovers_is_given_up(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="6 times") as caught:
        fetch(site, tmp_path, *["503"] * 20, client=quick(wait=0.001))
    assert "goes on where it was" in str(caught.value.remedy)
    with pytest.raises(AuscultError, match=r"file\.zip.*6 times"):
        fetch(site, tmp_path, *["stubborn:10"] * 20, client=quick(wait=0.001))


def test_a_missing_file_is_said_at_once(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match=r"refuses \(404"):
        fetch(site, tmp_path, "404")
    assert len(site.asked) == 1


def test_a_file_longer_than_stated_is_refused_and_never_written(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="sends more than the 300000 bytes"):
        fetch(site, tmp_path, "more")
    assert (tmp_path / "file.part").stat().st_size <= len(CONTENT)
    with pytest.raises(AuscultError, match="sends more than the 1000 bytes"):
        fetch(site, tmp_path / "x", size=1000)


def test_a_file_shorter_than_stated_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="6 times"):
        fetch(site, tmp_path, client=quick(wait=0.001), size=len(CONTENT) + 10)


def test_a_way_out_of_encryption_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3

    class Pool:
        def request(self, *_: Any, **__: Any) -> urllib3.HTTPResponse:
            return urllib3.HTTPResponse(
                io.BytesIO(b"x"), status=200, preload_content=False, request_url="http://elsewhere/x"
            )

    monkeypatch.setattr(Client, "_pool", lambda *_: Pool())
    with pytest.raises(AuscultError, match="without encryption"):
        quick().fetch(Remote("x", "https://archive/x", 1), tmp_path / "x.part")
    quick().fetch(Remote("x", "http://archive/x", 1), tmp_path / "x.part")


def test_an_empty_file_is_a_file(site: Site, tmp_path: Path) -> None:
    assert fetch(site, tmp_path, size=0) == b""


def test_a_disk_that_fills_up_is_said(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auscult.corpus import download_http

    class Full(download_http.FileIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_http, "open", lambda path, *_, **__: Full(path, "a"), raising=False)
    with pytest.raises(AuscultError, match=r"cannot write .*file\.part: no space left"):
        fetch(site, tmp_path)


def test_a_file_that_changed_since_the_break_begins_anew(site: Site, tmp_path: Path) -> None:
    site.records["1"]["file.zip"] = CONTENT
    part = tmp_path / "file.part"
    part.write_bytes(b"of yesterday")
    url = f"{site.url}/records/1/files/file.zip?download=1"
    note = {"url": url, "size": len(CONTENT), "etag": '"yesterday"'}
    (tmp_path / "file.part.json").write_text(json.dumps(note))
    assert fetch(site, tmp_path) == CONTENT
    assert site.requests("file.zip") == ["bytes=12-"]


@pytest.mark.parametrize("note", ["", "{}", '{"url": "http://elsewhere/", "size": 300000}', "[]"])
def test_a_piece_of_unknown_origin_is_not_built_upon(site: Site, tmp_path: Path, note: str) -> None:
    (tmp_path / "file.part").write_bytes(b"who knows")
    if note:
        (tmp_path / "file.part.json").write_text(note)
    assert fetch(site, tmp_path) == CONTENT
    assert site.requests("file.zip") == [""]


def test_a_garbled_archive_is_fetched_once_more(fan: Site, tmp_path: Path) -> None:
    fan.faults["dev_data_fan.zip"] = ["garbled"]
    assert get(tmp_path, machines=["fan"], parts=["dev"]).failures == ()
    assert len(fan.requests("dev_data_fan.zip")) == 2


def test_a_wrong_checksum_leaves_nothing_that_counts(fan: Site, tmp_path: Path) -> None:
    fan.stated["dev_data_fan.zip"] = {"checksum": "md5:" + "0" * 32}
    done = get(tmp_path, machines=["fan"], parts=["dev"])
    assert "it should be 00000000000000000000000000000000" in done.failures[0]
    assert len(fan.requests("dev_data_fan.zip")) == 2
    assert list((tmp_path / "dcase2021").rglob("*.wav")) == []
    assert not (tmp_path / "dcase2021" / RECORD).exists()


def test_published_checksums_come_before_those_of_the_server(site: Site, tmp_path: Path) -> None:
    site.records["3678171"] = {"dev_data_fan.zip": zipped({"fan/train/a.wav": b"forged"})}
    done = get(tmp_path, "dcase2020", machines=["fan"], parts=["dev"])
    assert f"it should be {MD5[2020]['dev_data_fan.zip']}" in done.failures[0]


@pytest.mark.parametrize(
    ("faults", "words"),
    [(["404"], "refuses"), (["html"] * 9, "6 times"), (["500"] * 9, "busy"), (["503"], "")],
)
def test_listings_are_as_patient(fan: Site, tmp_path: Path, faults: list[str], words: str) -> None:
    fan.faults["record"] = faults
    if words:
        with pytest.raises(AuscultError, match=words):
            get(tmp_path, machines=["fan"], parts=["dev"])
    else:
        assert len(get(tmp_path, machines=["fan"], parts=["dev"]).done) == 1


@pytest.mark.parametrize("stated", [{"key": "../../evil.zip"}, {"size": "many"}, {"key": ".hidden"}])
def test_a_listing_that_makes_no_sense_is_refused(fan: Site, tmp_path: Path, stated: dict[str, Any]) -> None:
    fan.stated["dev_data_fan.zip"] = stated
    with pytest.raises(AuscultError, match="does not state which files there are"):
        get(tmp_path, machines=["fan"], parts=["dev"])


def test_nobody_at_that_address(tmp_path: Path, site: Site) -> None:
    site.close()
    with pytest.raises(AuscultError, match="6 times"):
        download("mimii", tmp_path, client=quick(wait=0.001))
    with pytest.raises(AuscultError, match="no address of a mirror"):
        download("mimii", tmp_path, mirror="ftp://x")
    site.__init__()  # type: ignore[misc]  # the fixture closes it


# --- breaks of one's own --------------------------------------------------------------------------------------


def test_killed_and_run_again_it_goes_on(site: Site, tmp_path: Path) -> None:
    content = zipped({"fan/id_00/normal/00000000.wav": CONTENT * 20})
    site.records["3384388"] = {"0_dB_fan.zip": content}
    site.faults["0_dB_fan.zip"] = [f"break:{len(content) // 3}", "slow:30"]
    words = command("download", "mimii", "--machine-type", "fan", "--part", "0dB", "-o", tmp_path)
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = tmp_path / "mimii/.download/0_dB_fan_0_dB_fan.zip.part"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(site.asked) < 2:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    have = part.stat().st_size
    assert 0 < have < len(content)
    assert not (tmp_path / "mimii" / RECORD).exists()
    assert get(tmp_path, "mimii", machines=["fan"], parts=["0dB"]).failures == ()
    assert site.requests("0_dB_fan.zip")[-1] == f"bytes={have}-"
    assert (tmp_path / "mimii/0_dB_fan/fan/id_00/normal/00000000.wav").read_bytes() == CONTENT * 20


def test_ctrl_c_does_not_wait_for_a_silent_server(fan: Site, tmp_path: Path) -> None:
    fan.faults["dev_data_fan.zip"] = ["slow:40"]
    words = command("download", "dcase2021", "--machine-type", "fan", "--part", "dev", "-o", tmp_path)
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not fan.asked:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)  # less than the server's silence
    assert running.returncode == 130
    assert "a `download` by itself" in told
    assert get(tmp_path, machines=["fan"], parts=["dev"]).failures == ()


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_the_tree_is_the_same(fan: Site, tmp_path: Path) -> None:
    moments = np.random.default_rng(7).uniform(0.25, 1.6, 12)
    words = command("download", "dcase2021", "--machine-type", "fan", "-o", tmp_path / "data")
    big = zipped({f"fan/train/section_03_source_train_normal_{k:04}.wav": CONTENT for k in range(60)})
    fan.records["4660992"]["eval_data_fan_train.zip"] = big
    for name in ("dev_data_fan.zip", "eval_data_fan_train.zip", "eval_data_fan_test.zip"):
        fan.faults[name] = ["slow:0.2", "break:5000"] * 4
    for moment in moments:
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        running.kill()
        running.wait()
        noted = tmp_path / "data/dcase2021" / RECORD
        for entry in json.loads(noted.read_text())["archives"].values() if noted.exists() else ():
            assert all((tmp_path / "data/dcase2021" / place).exists() for place in entry["places"])
    fan.faults.clear()
    assert get(tmp_path / "data", machines=["fan"]).failures == ()
    get(tmp_path / "fresh", machines=["fan"])

    def tree(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.wav")}

    assert tree(tmp_path / "data") == tree(tmp_path / "fresh")
    assert len(tree(tmp_path / "fresh")) == len(FAN_DEV) + 60 + len(FAN_TEST)


@pytest.mark.parametrize("moment", ["unpacking", "moving", "recording"])
def test_stopped_while_putting_in_place_it_does_not_count(
    fan: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "unpacking":
            patch.setattr(download_archive, "_unpack_one", killed)
        elif moment == "moving":
            patch.setattr(
                download_store, "merge", lambda source, target: (merge(source / "fan", target / "fan"), killed())
            )
        else:
            patch.setattr(download_store.Store, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path, machines=["fan"], parts=["dev"])
    assert not (tmp_path / "dcase2021" / RECORD).exists()
    again = get(tmp_path, machines=["fan"], parts=["dev"])
    assert again.done == ("dev_data/dev_data_fan.zip",)
    assert len(open_data(tmp_path / "dcase2021")) == len(FAN_DEV)
    assert len(fan.requests("dev_data_fan.zip")) == 1  # the archive itself was whole


def test_two_at_once_into_one_folder_are_refused(fan: Site, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "dcase2021/.download").mkdir(parents=True)
    with FileLock(tmp_path / "dcase2021/.download/lock"), pytest.raises(AuscultError, match="another download"):
        get(tmp_path, machines=["fan"], parts=["dev"])


def test_a_full_disk_is_said_before_anything_is_fetched(
    fan: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(AuscultError, match=r"has 10\.0 kB free, .* are needed") as caught:
        get(tmp_path / "data", machines=["fan"])
    assert "--machine-type" in str(caught.value.remedy)
    assert fan.asked == []
    assert not (tmp_path / "data").exists()


def test_archives_can_be_kept(fan: Site, tmp_path: Path) -> None:
    get(tmp_path, machines=["fan"], parts=["dev"], keep_archives=True)
    kept = tmp_path / "dcase2021/archives/dev_data_fan.zip"
    assert kept.read_bytes() == fan.records["4562016"]["dev_data_fan.zip"]


def test_a_damaged_record_is_said(fan: Site, tmp_path: Path) -> None:
    (tmp_path / "dcase2021").mkdir()
    (tmp_path / "dcase2021" / RECORD).write_text("{")
    with pytest.raises(AuscultError, match="is damaged"):
        get(tmp_path, machines=["fan"], parts=["dev"])


# --- archives -------------------------------------------------------------------------------------------------


def entry(name: str, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.flag_bits |= flags
    return info


def archive_of(tmp_path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["../evil.wav", "/etc/evil.wav", "fan/../../evil.wav", "C:/evil.wav", "fan\\..\\..\\evil.wav", "\\evil.wav"]
)
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    info = entry("placeholder")
    info.filename = name
    path = archive_of(tmp_path, (entry("fan/good.wav"), b"good"), (info, b"evil"))
    with pytest.raises(AuscultError, match="leads out of the folder"):
        unpack(path, tmp_path / "in" / "deep")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, mode: int) -> None:
    path = archive_of(tmp_path, (entry("fan/link.wav", mode | 0o777), b"/etc/passwd"))
    with pytest.raises(AuscultError, match="a link or a device"):
        unpack(path, tmp_path / "in")


def test_a_bomb_is_not_set_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped({"fan/zeros.wav": bytes(60 * 2**20)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(AuscultError, match="which no recordings of its size can"):
        unpack(path, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_an_archive_that_lies_about_its_sizes_is_damaged(tmp_path: Path) -> None:
    content = bytearray(zipped({"fan/a.wav": bytes(100_000)}, zipfile.ZIP_DEFLATED))
    at = content.rindex(b"PK\x01\x02") + 24  # the size in the directory
    assert content[at : at + 4] == (100_000).to_bytes(4, "little")
    content[at : at + 4] = (50).to_bytes(4, "little")
    path = tmp_path / "liar.zip"
    path.write_bytes(content)
    with pytest.raises(Damaged, match="is damaged"):
        unpack(path, tmp_path / "in")
    assert sum(p.stat().st_size for p in (tmp_path / "in").rglob("*.wav")) <= 50


@pytest.mark.parametrize("harm", ["truncated", "flipped", "not a zip", "empty"])
def test_damaged_archives_are_named(tmp_path: Path, harm: str) -> None:
    content = zipped({"fan/a.wav": CONTENT}, zipfile.ZIP_DEFLATED)
    spoilt = {
        "truncated": content[: len(content) // 2],
        "flipped": content[:5000] + bytes([content[5000] ^ 255]) + content[5001:],
        "not a zip": b"<html>",
        "empty": zipped({"fan/": b"", "__MACOSX/fan/._a.wav": b"x", ".DS_Store": b"x"}),
    }
    path = tmp_path / "archive.zip"
    path.write_bytes(spoilt[harm])
    with pytest.raises(Damaged, match=r"archive\.zip: the archive is"):
        unpack(path, tmp_path / "in")


def test_an_encrypted_or_doubled_entry_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"fan/a.wav": b"a"}))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(AuscultError, match="is encrypted"):
        unpack(tmp_path / "locked.zip", tmp_path / "in")
    path = archive_of(tmp_path, (entry("fan/a.wav"), b"1"), (entry("FAN/a.wav"), b"2"))
    with pytest.raises(AuscultError, match="comes twice"):
        unpack(path, tmp_path / "in")


def test_litter_is_left_out_and_the_rest_is_the_same(tmp_path: Path) -> None:
    files = {"fan/train/a.wav": b"1", "fan/test/b.wav": b"22", "__MACOSX/fan/._a.wav": b"x", "fan/.DS_Store": b"x"}
    (tmp_path / "a.zip").write_bytes(zipped(files, zipfile.ZIP_DEFLATED))
    steps: list[int] = []
    assert unpack(tmp_path / "a.zip", tmp_path / "in", steps.append) == ["fan/train/a.wav", "fan/test/b.wav"]
    found = {p.relative_to(tmp_path / "in").as_posix() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    assert found == {"fan/train/a.wav", "fan/test/b.wav"}
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert steps == [archive.getinfo(name).compress_size for name in ("fan/train/a.wav", "fan/test/b.wav")]


def test_merging_replaces_what_is_there_and_keeps_the_rest(tmp_path: Path) -> None:
    for file, text in {"new/fan/a": "new", "new/fan/x/c": "new", "old/fan/a": "old", "old/fan/b": "old"}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    merge(tmp_path / "new", tmp_path / "old")
    assert not (tmp_path / "new").exists()
    assert {p.name: p.read_text() for p in (tmp_path / "old").rglob("*") if p.is_file()} == {
        "a": "new",
        "b": "old",
        "c": "new",
    }


# --- what there is --------------------------------------------------------------------------------------------


def test_the_catalogue_names_every_file_once() -> None:
    for corpus in CORPORA.values():
        assert set(corpus.md5) <= {
            part.pattern.replace("{t}", machine) for part in corpus.parts for machine in part.machines
        }
        assert all(len(md5) == 32 for md5 in corpus.md5.values())
        for part in corpus.parts:
            for machine in part.machines or ("",):
                name = part.pattern.replace("{t}", machine).replace("#", "03")
                assert part.regex(machine).fullmatch(name)
                assert not part.regex(machine).fullmatch("x" + name)
    assert sum(len(corpus.md5) for corpus in CORPORA.values()) == 39


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("dcase2032",), "no data set 'dcase2032'.*did you mean 'dcase20"),
        (("dcase2020", "--machine-type", "fans"), "no machine type 'fans'.*did you mean 'fan'"),
        (("dcase2020", "--part", "test"), "no part 'test'.*dev, additional, eval, truth"),
        (("dcase2023", "--part", "dev", "--machine-type", "bandsaw"), "hold none of bandsaw"),
        ((), "no data set is named"),
    ],
)
def test_wrong_requests_are_refused(tmp_path: Path, auscult: Run, how: tuple[str, ...], words: str) -> None:
    import re

    done = auscult("download", *how, "-o", tmp_path / "x")
    assert done.code == 2
    assert re.search(words, done.err)
    assert not (tmp_path / "x").exists()


def test_a_folder_must_be_named(auscult: Run) -> None:
    done = auscult("download", "mimii")
    assert (done.code, done.out) == (2, "")
    assert "-o DIR" in done.err


def test_listing(fan: Site, auscult: Run) -> None:
    everything = auscult("download", "--list").out
    assert all(name in everything for name in CORPORA)
    assert "CC BY-NC-SA 4.0" in everything
    assert fan.asked == []
    one = auscult("download", "dcase2021", "--list", "--machine-type", "fan").out
    size = size_in_words(len(fan.records["4562016"]["dev_data_fan.zip"]))
    assert f"{size}  dev_data_fan.zip  [{LICENCE}]" in one
    assert "4 archives" in one
    assert fan.asked == []


def test_sizes_in_words() -> None:
    sizes = {5: "5 B", 1500: "1.5 kB", 2_345_678: "2.3 MB", 456e9: "456 GB", 7.8e12: "7.8 TB"}
    assert [size_in_words(size) for size in sizes] == list(sizes.values())


def test_names_are_matched_whole() -> None:
    assert corpus_named("mimii").parts[0].folder == "-6_dB_{t}"
    assert os.path.basename(RECORD) == RECORD
