"""Each detector against its paper's figures and against slow references."""

from pathlib import Path

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors import registry
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.store import Store
from conftest import machine_sound

RATE = 16_000


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [("ae", {}, 267_928), ("ae", {"form": "per-id"}, 234_392), ("idnn", {}, 185_496)],
)
def test_parameter_counts(name: str, settings: dict[str, str], count: int) -> None:
    assert create(name, "paper", settings).n_parameters() == count


def test_the_papers_settings() -> None:
    ae = create("ae", "paper").config.model_dump()
    assert (ae["epochs"], ae["batch_size"], ae["learning_rate"], ae["max_steps"], ae["autoclip"]) == (
        100,
        512,
        1e-3,
        None,
        None,
    )
    per_id = create("ae", "paper", {"form": "per-id"}).config.model_dump()
    assert (per_id["learning_rate"], per_id["front_end"], per_id["hidden_layers"]) == (1e-4, "proxy-outlier", 3)
    assert create("idnn", "paper").config.model_dump()["autoclip"] == 10.0


@pytest.mark.parametrize(("seconds", "windows"), [(10.0, 309), (11.0, 340)])
def test_window_counts(seconds: float, windows: int) -> None:
    detector = create("ae")
    logmel = detector.front_end.logmel(
        np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    )
    detector.network = torch.nn.Identity()
    assert sum(len(batch) for _, batch in detector._batches(logmel)) == windows  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ae", "idnn"])
@pytest.mark.parametrize("frames", [5, 7])
def test_score_and_map_equal_a_slow_reference(name: str, frames: int) -> None:
    """Window by window, frame by frame, in plain Python."""
    torch.manual_seed(0)
    detector = create(name, "paper", {"frames": frames})
    detector.network = detector.build().eval()  # type: ignore[attr-defined]
    logmel = detector.logmel(clip(machine_sound(1, seconds=0.6)))
    n, middle = len(logmel), frames // 2
    total, count, scores = torch.zeros(n, 128), torch.zeros(n, 1), []
    with torch.inference_mode():
        for start in range(n - frames + 1):
            window = logmel[start : start + frames]
            if name == "ae":
                guess = detector.network(window.reshape(1, -1)).reshape(frames, 128)
                error = (guess - window) ** 2
                total[start : start + frames] += error
                count[start : start + frames] += 1
            else:
                around = torch.cat([window[:middle], window[middle + 1 :]])
                error = (detector.network(around.reshape(1, -1)) - window[middle]) ** 2
                total[start + middle] += error[0]
                count[start + middle] += 1
            scores.append(float(error.double().mean()))
        expected = total / count.clamp(min=1)
        if name == "idnn":
            expected[:middle], expected[n - middle :] = expected[middle], expected[n - middle - 1]
        assert detector.score_logmel(logmel) == pytest.approx(np.mean(scores), rel=1e-5)
        torch.testing.assert_close(detector.map_logmel(logmel), expected, rtol=1e-4, atol=1e-4)


def test_the_centre_frame_never_enters_idnns_network() -> None:
    detector = create("idnn")
    network = detector.build().eval()  # type: ignore[attr-defined]
    windows = torch.randn(4, 640)
    changed = windows.clone()
    changed[:, 2 * 128 : 3 * 128] += 100
    (context, centre), (same, other) = detector._split(windows), detector._split(changed)  # type: ignore[attr-defined]
    assert torch.equal(network(context), network(same))
    assert not torch.equal(centre, other)
    assert torch.equal(context, torch.cat([windows[:, :256], windows[:, 384:]], 1))


@pytest.mark.parametrize("rule", ["max", "top-3", "top-10%", "power-4"])
def test_aggregation_is_a_setting_of_the_score(rule: str) -> None:
    torch.manual_seed(0)
    plain, other = create("ae"), create("ae", "paper", {"aggregation": rule})
    plain.network = other.network = plain.build().eval()  # type: ignore[attr-defined]
    c = clip(machine_sound(2))
    assert other.score([c])[0] > plain.score([c])[0]
    np.testing.assert_array_equal(other.anomaly_map(c), plain.anomaly_map(c))


# Nearest neighbours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize("pooling", ["mean", "mean+std", "max+p10+p90"])
@pytest.mark.parametrize("k", [1, 3])
def test_knn_equals_a_slow_reference(tmp_path: Path, distance: str, pooling: str, k: int) -> None:
    from sklearn.covariance import LedoitWolf

    detector = create("knn", "paper", {"distance": distance, "pooling": pooling, "k": k})
    train = [clip(machine_sound(i, seconds=0.5), f"c{i}") for i in range(12)]
    new = clip(machine_sound(100, faulty=True, seconds=0.7))
    detector.fit(train, store=Store(tmp_path))

    def pool(c: Clip) -> np.ndarray:
        x = detector.logmel(c).double().numpy()
        parts = {
            "mean": x.mean(0),
            "std": x.std(0),
            "max": x.max(0),
            "p10": np.percentile(x, 10, axis=0),
            "p90": np.percentile(x, 90, axis=0),
        }
        return np.concatenate([parts[name] for name in pooling.split("+")])

    bank = np.array([pool(c) for c in train])
    centre, scale = bank.mean(0), bank.std(0)
    bank, query = (bank - centre) / scale, (pool(new) - centre) / scale
    if distance == "mahalanobis":
        precision = np.linalg.inv(LedoitWolf().fit(bank).covariance_)
        distances = [np.sqrt((query - b) @ precision @ (query - b) / len(query)) for b in bank]
    else:
        distances = [np.sqrt(np.mean((query - b) ** 2)) for b in bank]
    assert detector.score([new])[0] == pytest.approx(np.mean(sorted(distances)[:k]), rel=1e-5)


def test_a_training_clip_is_its_own_neighbour(tmp_path: Path) -> None:
    detector = create("knn")
    train = [clip(machine_sound(i, seconds=0.5), f"c{i}") for i in range(5)]
    detector.fit(train, store=Store(tmp_path))
    np.testing.assert_allclose(detector.score(train), 0, atol=1e-6)


def test_scores_of_training_clips_leave_them_out(tmp_path: Path) -> None:
    detector = create("knn", "paper", {"k": "2"})
    train = [clip(machine_sound(i, seconds=0.5), f"c{i}") for i in range(6)]
    detector.fit(train, store=Store(tmp_path))
    bank = detector.state()[0]["bank"].numpy()
    distances = np.sqrt(((bank[:, None] - bank[None]) ** 2).mean(2))
    np.testing.assert_allclose(detector.score_learnt(train), np.sort(distances)[:, 1:3].mean(1), atol=1e-6)


# Registry -----------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(AuscultError, match=r"'iddn'.*'idnn'"):
        registry.get("iddn")
    with pytest.raises(AuscultError, match=r"'learning_rat'.*'learning_rate'"):
        create("ae", "paper", {"learning_rat": "1"})
    with pytest.raises(AuscultError, match="no preset 'fast'"):
        create("ae", "fast")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"epochs": "many"}, "epochs"),
        ({"epochs": "0"}, "epochs"),
        ({"learning_rate": "-1"}, "learning_rate"),
        ({"aggregation": "median"}, "aggregation"),
        ({"front_end": "dcase1999"}, "front_end"),
        ({"channel": "left"}, "channel"),
        ({"form": "per_id"}, "form"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], names: str) -> None:
    with pytest.raises(AuscultError, match=names) as caught:
        create("ae", "paper", settings)
    assert "\n" not in str(caught.value)


def test_settings_are_read_as_the_command_line_gives_them() -> None:
    config = create("ae", "quick", {"epochs": "3", "autoclip": "none", "channel": "mean", "max_steps": "null"}).config
    assert config.model_dump(include={"epochs", "autoclip", "channel", "max_steps"}) == {
        "epochs": 3,
        "autoclip": None,
        "channel": "mean",
        "max_steps": None,
    }
    assert create("ae", "paper", {"channel": "3"}).front_end.channel == 3
