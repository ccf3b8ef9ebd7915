"""The classifier of machine IDs, and what it is made of."""

import math
import warnings
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auscult.corpus import Clip
from auscult.detectors.id_classifier import IdClassifier, set_aside
from auscult.detectors.learner import Learner
from auscult.detectors.recipes import RECIPES
from auscult.detectors.registry import create, rescored
from auscult.detectors.segments import LabelledSegments, Segmentation
from auscult.errors import AudioError, AuscultError
from auscult.nn.best import BestWeights
from auscult.nn.centre_loss import CentreLoss
from auscult.nn.classifiers import Inouet18, Pvmilk20
from auscult.nn.confidence import log_odds_against, surprise
from auscult.nn.neighbours import Neighbours
from auscult.store import Store
from auscult.training import Run, _Loop
from conftest import machine_sound

RATE = 16_000
TINY = {"frames": 32, "hop": 16, "batch_size": 16, "max_steps": 6, "score_by": "probability"}
PITCHES = {"id_00": 180.0, "id_02": 230.0}


def clip(seed: int, machine_id: str = "id_00", seconds: float = 1.5, pitch: float | None = None) -> Clip:
    sound = machine_sound(seed, seconds=seconds, pitch=pitch or PITCHES.get(machine_id, 300.0))
    return Clip(f"{machine_id} {seed}", samples=sound.astype(np.float32), rate=RATE, machine_id=machine_id)


def plant(n: int, ids: tuple[str, ...] = ("id_00", "id_02"), **more: float) -> list[Clip]:
    return [clip(k, ids[k % len(ids)], **more) for k in range(n)]


def fit_tiny(store: Path, clips: list[Clip], outliers: list[Clip] | None = None, **values: object) -> IdClassifier:
    detector = create("id-classifier", "quick", {**TINY, **values})
    assert isinstance(detector, IdClassifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so few steps cannot tell them apart
        detector.fit(clips, outliers=outliers, store=Store(store))
    return detector


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> IdClassifier:
    """One that has learnt something."""
    return fit_tiny(tmp_path_factory.mktemp("store"), plant(16), max_steps=70)


# Networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_classes", "count"), [(6, 22_510), (13, 23_413), (28, 25_348), (41, 27_025)])
def test_pvmilk20_has_the_published_number_of_parameters(n_classes: int, count: int) -> None:
    assert sum(p.numel() for p in Pvmilk20(n_classes).parameters()) == count


@pytest.mark.parametrize(("n_classes", "count"), [(7, 396_039), (41, 400_425), (54, 402_102), (63, 403_263)])
def test_inouet18_has_the_published_number_of_parameters(n_classes: int, count: int) -> None:
    assert sum(p.numel() for p in Inouet18(n_classes).parameters()) == count


@pytest.mark.parametrize(("frames", "left"), [(96, 10), (313, 34), (344, 38)])
def test_pvmilk20_thins_out_time_as_published(frames: int, left: int) -> None:
    assert Pvmilk20(6).convolutions(torch.zeros(1, 1, 128, frames)).shape == (1, 32, 128, left)


@pytest.mark.parametrize("kind", [Pvmilk20, Inouet18])
def test_networks_take_any_length_from_their_shortest_up(kind: type[Pvmilk20] | type[Inouet18]) -> None:
    network = kind(5).eval()
    for frames in (kind.min_frames, 50):
        embeddings, logits = network(torch.randn(2, 128, frames))
        assert embeddings.shape == (2, 128)
        assert logits.shape == (2, 5)
        assert (embeddings >= 0).all()


def test_pvmilk20_pools_each_band_over_channels_and_time() -> None:
    network = Pvmilk20(3).eval()
    images = torch.randn(2, 128, 40)
    convolved = network.convolutions(images[:, None])
    # The paper's words: swap channels and frequency, global max pooling.
    swapped = convolved.transpose(1, 2).flatten(2).max(dim=2).values
    expected = network.classify(torch.relu(network.embed[0](swapped)))
    torch.testing.assert_close(network(images)[1], expected)


def test_inouet18_needs_whole_groups_of_bands() -> None:
    with pytest.raises(AuscultError, match="eight mel bands"):
        Inouet18(3, n_mels=60)


# Centre loss --------------------------------------------------------------------------------------------


def test_centres_follow_as_by_gradient_descent_of_their_own() -> None:
    """Against torch's own SGD on the mean squared distance."""
    torch.manual_seed(0)
    loss = CentreLoss(4, width=6)
    centres = loss.centres.clone().requires_grad_()
    descent = torch.optim.SGD([centres], lr=0.5)
    for _ in range(5):
        embeddings, labels = torch.randn(9, 6), torch.randint(4, (9,))
        reference = (embeddings - centres[labels]).square().sum(1).mean()
        assert float(loss(embeddings, labels)) == pytest.approx(reference.item(), rel=1e-5)
        descent.zero_grad()
        reference.backward()
        descent.step()
        torch.testing.assert_close(loss.centres, centres.detach())
    before = loss.centres.clone()
    loss.eval()(torch.randn(9, 6), torch.randint(4, (9,)))
    assert torch.equal(loss.centres, before)


def test_centre_loss_draws_embeddings_to_their_centre() -> None:
    loss = CentreLoss(2, width=3)
    loss.centres.copy_(torch.tensor([[0.0, 0, 0], [1, 2, 3]]))
    embeddings = torch.tensor([[1.0, 0, 0], [1, 2, 5]], requires_grad=True)
    loss(embeddings, torch.tensor([0, 1])).backward()
    assert embeddings.grad is not None
    torch.testing.assert_close(embeddings.grad, torch.tensor([[1.0, 0, 0], [0, 0, 2]]))


# Confidence ---------------------------------------------------------------------------------------------


def exact_surprise(logits: list[list[float]], own: int) -> float:
    """-log of the mean softmax probability, in sixty digits."""
    with localcontext() as context:
        context.prec = 400
        powers = [[Decimal(value).exp() for value in row] for row in logits]
        mean = sum(row[own] / sum(row) for row in powers) / len(powers)
        return float(-mean.ln())


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.lists(st.floats(-300, 300, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    own=st.integers(0, 2),
)
def test_surprise_is_exact_however_sure_the_network_is(logits: list[list[float]], own: int) -> None:
    score = surprise(log_odds_against(torch.tensor(logits), own))
    assert score == pytest.approx(exact_surprise(logits, own), rel=1e-9, abs=1e-300)


@given(st.lists(st.floats(-30, 12), min_size=1, max_size=6))
def test_surprise_puts_clips_in_the_papers_order(odds: list[float]) -> None:
    """1 - mean probability is 1 - exp(-surprise)."""
    plain = 1 - float(np.mean(1 / (1 + np.exp(odds))))
    assert -math.expm1(-surprise(torch.tensor(odds, dtype=torch.float64))) == pytest.approx(plain, abs=1e-12)


def test_saturated_probabilities_do_not_tie() -> None:
    """In 32 bits each of these has a probability of exactly 1 or exactly 0."""
    for sure in (np.arange(40, 200, 0.5), -np.arange(120, 300, 0.5)):
        logits = torch.zeros(len(sure), 1, 3)
        logits[:, 0, 0] = torch.from_numpy(sure)
        assert len(set(logits.softmax(-1)[:, 0, 0].tolist())) == 1
        scores = [surprise(log_odds_against(clip_logits, 0)) for clip_logits in logits]
        assert (np.diff(scores) < 0).all() if sure[0] > 0 else (np.diff(scores) > 0).all()


def test_weights_of_the_mean() -> None:
    odds, weights = torch.tensor([-3.0, 4.0, 9.0]), torch.tensor([0.5, 0.3, 0.2])
    p = 1 / (1 + odds.double().exp())
    assert surprise(odds, weights) == pytest.approx(-math.log(float((p * weights).sum())), rel=1e-6)


# Segments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_frames", "count"), [(313, 5), (344, 6), (96, 1), (143, 1), (144, 2), (40, 1)])
def test_the_papers_segments(n_frames: int, count: int) -> None:
    cut = Segmentation(96, 48)
    logmel = torch.arange(float(n_frames))[:, None].expand(-1, 4)
    rows, starts = cut.of(logmel)
    assert len(starts) == count
    examples = LabelledSegments([logmel.contiguous().numpy()], np.array([7]), cut)
    assert len(examples) == count
    images, labels = examples.gather(torch.arange(count))
    assert images.shape == (count, 4, 96)
    assert labels.tolist() == [7] * count
    for start, image in zip(starts, images, strict=True):
        torch.testing.assert_close(image, rows[start : start + 96].T)


def test_a_segment_at_the_end_leaves_nothing_unheard() -> None:
    for n in (96, 97, 143, 144, 313):
        rows, starts = Segmentation(96, 48, cover_end=True).of(torch.zeros(n, 2))
        heard = {frame for start in starts for frame in range(start, start + 96)}
        assert heard == set(range(n)) == set(range(len(rows)))
        assert len(starts) == len(set(starts))


def test_whole_clips_are_one_segment_and_short_ones_repeated() -> None:
    cut = Segmentation(30, 1, whole=True)
    rows, starts = cut.of(torch.zeros(77, 2))
    assert (len(rows), starts, cut.length(77)) == (77, [0], 77)
    short = torch.arange(12.0)[:, None]
    rows, starts = cut.of(short)
    assert starts == [0]
    assert rows[:, 0].tolist() == [*range(12), *range(12), *range(6)]
    examples = LabelledSegments([np.zeros((77, 1), np.float32), short.numpy()], np.array([0, 1]), cut)
    images, labels = examples.gather(torch.tensor([1, 0]))
    assert labels.tolist() == [1, 0]
    assert images[0, 0].tolist() == rows[:, 0].tolist()


# Choosing the best weights ------------------------------------------------------------------------------


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_every_machine_of_four_clips_or_more_keeps_a_tenth_aside(labels: list[int], seed: int) -> None:
    numbers = np.array(labels)
    aside = set_aside(numbers, 0.1, seed)
    for label in set(labels):
        n = (numbers == label).sum()
        assert aside[numbers == label].sum() == (max(1, round(n / 10)) if n >= 4 else 0)
    assert not set_aside(numbers, 0.0, seed).any()
    np.testing.assert_array_equal(aside, set_aside(numbers, 0.1, seed))


def test_the_best_weights_are_those_of_most_hits_then_of_least_loss() -> None:
    network = nn.Linear(1, 1)
    best = BestWeights(network)
    for value, accuracy, loss, kept in [
        (1, 0.5, 1, 1),
        (2, 0.4, 0.1, 1),
        (3, 0.5, 0.9, 3),
        (4, 0.5, 2, 3),
        (5, 0.6, 9, 5),
    ]:
        nn.init.constant_(network.weight, value)
        best.consider(network, accuracy, loss)
        assert best.network.weight.item() == kept
    assert not any(p.requires_grad for p in best.parameters())


def test_the_learner_looks_every_so_many_steps_and_goes_back_to_the_best() -> None:
    torch.manual_seed(0)
    clips = [np.random.default_rng(k).normal(k % 2, 1, (20, 128)).astype(np.float32) for k in range(4)]
    aside = LabelledSegments(clips, np.array([0, 1, 0, 1]), Segmentation(10, 5))
    learner = Learner(Pvmilk20(2), CentreLoss(2), 0.01, aside, every=3)
    looks, look = [], Learner.look

    def counted(self: Learner) -> None:
        looks.append(int(self.step))
        look(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "look", counted)
        for _ in range(7):
            learner(*aside.gather(torch.arange(8)))
        assert looks == [3, 6]
        assert learner.network.training
        learner.finish()
    assert learner.best is not None
    for mine, best in zip(
        learner.network.state_dict().values(), learner.best.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, best)


# The detector -------------------------------------------------------------------------------------------


def test_one_machine_is_refused_and_it_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match=r"of one — .*--outliers.*knn, ae and pae"):
        fit_tiny(tmp_path, plant(4, ("id_00",)))


def test_outliers_are_further_machines(tmp_path: Path) -> None:
    detector = fit_tiny(tmp_path, plant(4, ("id_00",)), plant(4, ("id_04", "id_06")))
    assert detector.machines == [("machine", "id_00"), ("machine", "id_04"), ("machine", "id_06")]
    assert detector.logits(detector.logmel(clip(9))).shape[1] == 3
    assert detector.n_parameters() == 21_736 + 129 * 3


def test_machines_that_sound_alike_are_told_of(tmp_path: Path) -> None:
    """The same machine under two names."""
    detector = create("id-classifier", "quick", {**TINY, "max_steps": 20})
    with pytest.warns(UserWarning, match=r"sound alike.*guessing gets 50%.*knn, ae or pae"):
        detector.fit(plant(16, pitch=200.0), store=Store(tmp_path))


def test_different_machines_are_told_apart_without_a_warning(tmp_path: Path) -> None:
    detector = create("id-classifier", "quick", {**TINY, "max_steps": 70})
    detector.fit(plant(16), store=Store(tmp_path))  # warnings are errors here
    assert (detector.score(plant(4)) < 1).all()


def test_scores_are_what_they_are_said_to_be(fitted: IdClassifier) -> None:
    for c in (clip(31), clip(32, "id_02"), clip(33, "id_02", pitch=180.0)):
        with torch.inference_mode():
            p = fitted.logits(fitted.logmel(c)).double().softmax(-1)
        own = ["id_00", "id_02"].index(c.machine_id)
        assert -math.expm1(-fitted.score([c])[0]) == pytest.approx(1 - float(p[:, own].mean()), abs=1e-9)
        by_msp, by_odds = (rescored(fitted, {"score_by": way}).score([c])[0] for way in ("msp", "log-odds"))
        assert -math.expm1(-by_msp) == pytest.approx(1 - float(p.mean(0).max()), abs=1e-9)
        assert by_odds == pytest.approx(float((1 / p[:, own] - 1).log().mean()), abs=1e-6)


def test_one_machine_in_the_place_of_another_is_strange(fitted: IdClassifier) -> None:
    right = fitted.score([clip(k, i) for k, i in enumerate(("id_00", "id_02"), 40)])
    wrong = fitted.score(
        [clip(k, i, pitch=PITCHES[o]) for k, (i, o) in enumerate([("id_00", "id_02"), ("id_02", "id_00")], 40)]
    )
    assert wrong.min() > right.max()


def test_a_machine_never_heard_is_refused_unless_none_is_asked_for(fitted: IdClassifier) -> None:
    with pytest.raises(AudioError, match=r"id_07 50.*has not learnt a machine machine id_07.*machine id_00"):
        fitted.score([clip(50, "id_07")])
    anyone = rescored(fitted, {"score_by": "msp"})
    assert np.isfinite(anyone.score([clip(50, "id_07")])).all()
    assert np.isfinite(anyone.anomaly_map(clip(50, "id_07"))).all()


def test_the_map_shows_what_speaks_against_the_machine(fitted: IdClassifier) -> None:
    """Noise between 2.5 and 3.5 kHz, from 0.6 to 0.9 s."""
    plain = machine_sound(60, seconds=1.5)
    noise = np.fft.rfft(np.random.default_rng(1).standard_normal(len(plain)))
    hertz = np.fft.rfftfreq(len(plain), 1 / RATE)
    burst = np.fft.irfft(np.where((hertz > 2500) & (hertz < 3500), noise, 0), len(plain))
    burst[: int(0.6 * RATE)] = burst[int(0.9 * RATE) :] = 0
    clips = [
        Clip("c", samples=s.astype(np.float32), rate=RATE, machine_id="id_00") for s in (plain + 0.1 * burst, plain)
    ]
    with_burst, without = (fitted.anomaly_map(c) for c in clips)
    assert (without >= 0).all()
    bands = (fitted.front_end.band_centres() > 2300) & (fitted.front_end.band_centres() < 3700)
    times = fitted.front_end.frame_times(without.shape[1])
    frames = (times > 0.5) & (times < 1.0)
    excess = np.maximum(with_burst - without, 0)
    assert excess[np.ix_(bands, frames)].sum() > 0.5 * excess.sum() > 0
    assert bands.mean() * frames.mean() < 0.06


def test_bins_in_their_usual_range_have_no_share(fitted: IdClassifier) -> None:
    judged = clip(62, pitch=200.0)
    levels = fitted.logmel(judged).T
    network = fitted.network
    assert network is not None
    usual = (levels >= network.lowest[0][:, None]) & (levels <= network.highest[0][:, None])
    assert 0.3 < float(usual.double().mean()) < 0.9
    shown = torch.from_numpy(fitted.anomaly_map(judged))
    assert not shown[usual].any()
    assert shown[~usual].any()
    # And the range is one deviation about the mean of the machine's training clips.
    frames = torch.cat([fitted.logmel(c) for c in plant(16) if c.machine_id == "id_00"]).double()
    torch.testing.assert_close(
        network.lowest[0].double(), frames.mean(0) - frames.std(0, correction=0), rtol=1e-4, atol=1e-3
    )


def test_the_map_of_a_repeated_clip_is_folded_back(fitted: IdClassifier) -> None:
    short = clip(61, "id_02", seconds=0.5, pitch=180.0)
    assert fitted.anomaly_map(short).shape == (128, 16)
    assert fitted.anomaly_map(short).sum() > 0


def test_by_distance_it_is_the_nearest_training_segment_of_the_machine(fitted: IdClassifier) -> None:
    near = rescored(fitted, {"score_by": "distance"})
    known = fitted.known
    assert known is not None
    for c, own in ((clip(71), 0), (clip(72, "id_02"), 1)):
        with torch.inference_mode():
            embeddings, _ = fitted.hear(fitted.logmel(c))
        to_all = torch.cdist(embeddings.double(), known.embeddings.double()[known.classes == own])
        assert near.score([c])[0] == pytest.approx(float(to_all.amin(1).mean()), rel=1e-4)
        assert (near.anomaly_map(c) >= 0).all()
    assert near.anomaly_map(clip(71)).any()


def test_by_distance_a_training_clip_is_not_its_own_neighbour(fitted: IdClassifier) -> None:
    near, learnt = rescored(fitted, {"score_by": "distance"}), plant(16)
    assert isinstance(near, IdClassifier)
    assert near.known is not None
    itself, others = near.score(learnt), near.score_learnt(learnt)
    assert (itself < 1e-4).all()
    assert (others > 1e-3).all()
    # Against the same with the clip's own segments taken out by hand.
    for number, c in enumerate(learnt[:4]):
        with torch.inference_mode():
            embeddings, _ = near.hear(near.logmel(c))
        squares = (embeddings[:, None] - near.known.embeddings[None]).square().sum(-1)
        its_clip = int(near.known.clips[squares[0].argmin()])
        kept = (near.known.classes == number % 2) & (near.known.clips != its_clip)
        assert others[number] == pytest.approx(float(squares[:, kept].amin(1).sqrt().mean()), rel=1e-4)


def test_neighbours_of_the_only_clip_are_none() -> None:
    known = Neighbours.of([torch.randn(3, 4), torch.randn(2, 4)], [0, 1])
    assert known.classes.tolist() == [0, 0, 0, 1, 1]
    assert known.clips.tolist() == [0, 0, 0, 1, 1]
    assert known.squared_distances(known.embeddings[:3], 0, learnt=True).tolist() == [0, 0, 0]
    assert (known.squared_distances(known.embeddings[:3], 1) > 0).all()


@pytest.mark.parametrize("model", ["pvmilk20", "inouet18"])
def test_whole_clips(model: str, tmp_path: Path) -> None:
    values = {"input": "clip", "clip_frames": 24, "model": model, "max_steps": 3}
    detector = fit_tiny(tmp_path, [*plant(6), clip(7, seconds=0.6)], **values)
    long = clip(8, seconds=2.0)
    assert len(detector.logits(detector.logmel(long))) == 1
    assert detector.anomaly_map(long).shape == (128, 63)
    again = create("id-classifier", "quick", {**TINY, **values})
    again.restore(*detector.state())
    np.testing.assert_array_equal(again.score([long]), detector.score([long]))


def test_a_stopped_training_goes_on_exactly_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centres and best weights, too, are in the checkpoint."""
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("auscult.detectors.classifier._FEWEST_STEPS_BETWEEN", 2)
    # Saved after every step.
    monkeypatch.setattr("auscult.training._Loop._save", lambda loop, save=_Loop._save: 0.0 * save(loop))

    def fit(steps: int, run: Run | None) -> dict[str, torch.Tensor]:
        detector = create("id-classifier", "quick", {**TINY, "max_steps": steps})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            detector.fit(plant(8), store=Store(tmp_path / "store"), run=run)
        return detector.state()[0]

    straight = fit(8, None)
    fit(5, Run(checkpoint=tmp_path / "part"))
    in_parts = fit(8, Run(checkpoint=tmp_path / "part", resume=True))
    for name, tensor in straight.items():
        assert torch.equal(tensor, in_parts[name]), name


def test_an_outlier_shorter_than_can_be_judged_is_left_out(tmp_path: Path) -> None:
    blip = clip(1, "id_09", seconds=0.1)
    assert fit_tiny(tmp_path, plant(4), [blip]).machines == [("machine", "id_00"), ("machine", "id_02")]


def test_the_papers_settings() -> None:
    config = create("id-classifier").config.model_dump()
    assert (config["model"], config["input"], config["frames"], config["hop"]) == ("pvmilk20", "segment", 96, 48)
    assert (config["batch_size"], config["learning_rate"], config["centre_weight"]) == (384, 1e-3, 0.1)
    assert (config["score_by"], config["cover_end"], config["max_steps"]) == ("probability", False, None)
    assert create("id-classifier").n_parameters() == 27_025
    rows = [recipe for recipe in RECIPES if recipe.detector == "id-classifier"]
    for recipe in rows:
        create("id-classifier", "paper", recipe.settings)
    published = {kind: auc for recipe in rows for kind, (auc, _) in recipe.published.items()}
    assert np.mean(list(published.values())) == pytest.approx(91.49, abs=0.005)
    assert len(published) == 6
