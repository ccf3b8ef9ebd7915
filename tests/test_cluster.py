"""Two nodes of a Ray cluster on this machine: the same tables as without it, also when one of them dies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import engine_work
from auscult.archive import score_archive
from auscult.benchmark.conducting import Request, conduct
from auscult.benchmark.experiment import Experiment
from auscult.corpus import open_data
from auscult.engines import open_engine
from auscult.engines.cluster import RayEngine
from auscult.engines.local import LocalEngine
from auscult.errors import AuscultError
from auscult.evaluation.scores import read_scores
from auscult.model import load
from auscult.scoring import score_table
from benchmark_cases import TINY, run_tiny
from conftest import run_auscult, write_wav

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.xdist_group("cluster"),
]
TABLES = ("tiny.md", "tiny.tex", "tiny.csv")
MEMORY = 80 * 2**20


class Nodes:
    """A cluster with a head and as many further nodes as a test asks for."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address

    def add(self) -> Any:
        node = self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        self.cluster.wait_for_nodes()
        return node

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module", autouse=True)
def _token() -> Iterator[None]:
    """Nodes share a token. Ray reads the mode of authentication when it is imported, and not again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "of-the-tests-" * 4)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        pytest.importorskip("ray")
        yield


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """One cluster for all tests of this file, and nobody else's."""
    import ray

    made = Nodes()
    made.add()
    try:
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> Iterator[RayEngine]:
    with open_engine("ray", address=nodes.address) as opened:
        assert isinstance(opened, RayEngine)
        yield opened


def test_the_same_outcomes_as_on_this_machine(engine: RayEngine) -> None:
    def told(outcome: Any) -> tuple[Any, ...]:
        return outcome.job, outcome.result, outcome.error, bool(outcome.details)

    ours = sorted(map(told, LocalEngine(1).run(engine_work.square, range(9))))
    assert sorted(map(told, engine.run(engine_work.square, range(9)))) == ours


def test_workers_have_one_thread_each(engine: RayEngine) -> None:
    [outcome] = engine.run(engine_work.surroundings, [0])
    assert (outcome.result["threads"], outcome.result["openmp"]) == (1, "1")


def test_a_dead_workers_job_is_done_again(engine: RayEngine, tmp_path: Path) -> None:
    [outcome] = engine.run(engine_work.die_once, [tmp_path])
    assert (outcome.result, outcome.error) == ("done", "")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture(scope="module")
def undisturbed(made_once: Callable[..., Path], tiny_plant: Path) -> Path:
    return made_once("finished-tiny", partial(run_tiny, data=tiny_plant)) / "out"


def test_a_node_killed_in_the_middle_and_the_tables_are_the_same(
    engine: RayEngine, nodes: Nodes, tiny_plant: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Of three runs being done somewhere, some are on the node that dies."""
    second = nodes.add()
    finished: list[float] = []

    def kill() -> None:
        while len(list(tmp_path.rglob("metrics.json"))) < 2:
            time.sleep(0.01)
        nodes.kill(second)
        finished.append(len(list(tmp_path.rglob("metrics.json"))))

    killer = threading.Thread(target=kill)
    killer.start()
    request = Request(
        Experiment.model_validate(TINY), tmp_path, tiny_plant, engine="ray", address=nodes.address, device="cpu"
    )
    summary = conduct(request, tell=lambda _: None)
    killer.join()
    assert finished
    assert finished[0] < 10
    assert not summary.broken
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for scores in undisturbed.rglob("scores.csv"):
        assert (tmp_path / scores.relative_to(undisturbed)).read_bytes() == scores.read_bytes()


def test_an_archive_is_judged_as_on_this_machine(
    engine: RayEngine, fitted: Path, tiny_plant: Path, tmp_path: Path
) -> None:
    """Each clip once, in order, with the same scores bit for bit; a broken clip has its reason."""
    model = fitted / "knn.auscult"
    manifest = open_data(tiny_plant)
    done = score_archive(model, manifest, tmp_path / "s.parquet", engine, clips_a_shard=10)
    expected = score_table(load(model), manifest, workers=1)
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert table["path"].tolist() == expected["path"].tolist()
    assert (done.n_clips, done.n_failed) == (len(manifest), 0)
    assert list(table.columns) == list(expected.columns)
    for column in table.columns:
        assert table[column].tolist() == expected[column].tolist(), column
    assert len(read_scores(tmp_path / "s.parquet")) == len(manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_a_cluster_that_is_not_there_is_told_in_one_line(
    auscult: Any, fitted: Path, tiny_plant: Path, tmp_path: Path
) -> None:
    words = ("score", fitted / "knn.auscult", tiny_plant, "-o", tmp_path / "s.parquet", "--engine", "ray")
    outcome = auscult(*words, "--address", "127.0.0.1:1")
    assert outcome.code == 2
    assert [note.partition(":1 ")[2][:15] for note in outcome.notes] == ["does not answer"]


@pytest.mark.slow
def test_a_cluster_started_for_the_purpose(tmp_path: Path) -> None:
    words = ("benchmark", "synthetic", "-o", tmp_path, "--smoke", "--only", "knn", "--engine", "ray", "--workers", "1")
    outcome = run_auscult(*words)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "synthetic-smoke.md").exists()


# Archives, with processes of this machine --------------------------------------------------------------------


class Forgetful(LocalEngine):
    """Stops after a few outcomes, as if it were killed."""

    def __init__(self, after: int) -> None:
        super().__init__(1)
        self.after = after

    def run(self, work: Callable[[Any], Any], jobs: Any) -> Iterator[Any]:
        for count, outcome in enumerate(super().run(work, jobs)):
            if count == self.after:
                raise KeyboardInterrupt
            yield outcome


def test_an_archive_that_was_cut_short_goes_on(fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    model, output = fitted / "knn.auscult", tmp_path / "s.parquet"
    clips = tmp_path / "data" / "normal"
    for k, file in enumerate(sorted(tiny_plant.rglob("*.wav"))[:9]):
        clips.mkdir(parents=True, exist_ok=True)
        (clips / f"{k}.wav").write_bytes(file.read_bytes())
    (clips / "4.wav").write_bytes(b"RIFF")
    manifest = open_data(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        score_archive(model, manifest, output, Forgetful(2), clips_a_shard=3)
    parts = sorted((tmp_path / "s.parquet.parts").glob("part-*.parquet"))
    assert len(parts) == 2
    assert not output.exists()
    with pytest.raises(AuscultError, match="another model or other clips"):
        score_archive(fitted / "ae.auscult", manifest, output, LocalEngine(1), clips_a_shard=3, resume=True)

    class Counting(LocalEngine):
        jobs = 0

        def run(self, work: Callable[[Any], Any], jobs: Any) -> Iterator[Any]:
            Counting.jobs += len(jobs)
            return super().run(work, jobs)

    done = score_archive(model, manifest, output, Counting(1), clips_a_shard=3, resume=True)
    assert Counting.jobs == 1
    assert (done.n_clips, done.n_failed) == (9, 1)
    table = read_scores(output)
    assert table["path"].tolist() == manifest.table["path"].tolist()
    assert table["error"][4]
    assert table["score"].notna().sum() == 8


def test_a_shard_whose_worker_dies_is_told_of(fitted: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(32_000))

    class Deadly(LocalEngine):
        def run(self, work: Callable[[Any], Any], jobs: Any) -> Iterator[Any]:
            from auscult.engines import Outcome

            yield from (Outcome(job, error="its worker died 3 times") for job in jobs)

    done = score_archive(fitted / "knn.auscult", open_data(tmp_path), tmp_path / "s.parquet", Deadly(1))
    assert (done.n_clips, done.n_failed) == (1, 1)
    assert read_scores(tmp_path / "s.parquet")["error"].tolist() == ["was not judged: its worker died 3 times"]


def test_the_command_writes_parquet_only(auscult: Any, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    words = ("score", fitted / "knn.auscult", tiny_plant, "--engine", "local", "--threads", "1")
    for output in (tmp_path / "s.csv", None):
        outcome = auscult(*words, *(("-o", output) if output else ()))
        assert outcome.code == 2
        assert "Parquet" in outcome.err
    outcome = auscult(*words, "-o", tmp_path / "s.parquet")
    assert outcome.code == 0, outcome.err
    # A cluster that another test has ended may still say so on this output.
    assert outcome.out.splitlines()[-1].startswith("12 clips judged, ")
    expected = score_table(load(fitted / "knn.auscult"), open_data(tiny_plant).for_scoring(), workers=1)
    assert read_scores(tmp_path / "s.parquet")["score"].tolist() == expected["score"].tolist()
