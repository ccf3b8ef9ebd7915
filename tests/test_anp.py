"""The attentive neural process against its paper and against slow references."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors.anp import ANP
from auscult.detectors.anp_network import ANPNetwork
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn import masks
from auscult.nn.attention import CrossAttention, SelfAttention
from auscult.nn.hidden_bins import at
from auscult.nn.masks import Partition
from auscult.nn.mixture import Mixture
from auscult.store import Store
from conftest import machine_sound

RATE = 16_000
TINY = {"width": 16, "heads": 2, "feed_forward": 16}
SCORINGS = list(product(("rrc", "idnn", "boot"), ("likelihood", "mse", "surprise")))


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def untrained(**settings: object) -> ANP:
    torch.manual_seed(0)
    detector = create("anp", "paper", {**TINY, **settings})
    assert isinstance(detector, ANP)
    detector.network = detector.build().eval()
    return detector


def sound(n_frames: int, seed: int = 0) -> torch.Tensor:
    """A log-mel in dB, shape (n_frames, 128)."""
    return torch.randn(n_frames, 128, generator=torch.Generator().manual_seed(seed)) * 6 - 40


# The network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "count"), [({}, 382_722), ({"feed_forward": 512}, 678_786)])
def test_parameter_counts(settings: dict[str, int], count: int) -> None:
    assert create("anp", "paper", settings).n_parameters() == count


def test_the_papers_settings() -> None:
    config = create("anp", "paper").config.model_dump()
    assert (config["epochs"], config["batch_size"], config["learning_rate"], config["max_steps"]) == (
        100,
        512,
        1e-3,
        None,
    )
    assert (config["autoclip"], config["warm_up_steps"], config["score_hop"]) == (10.0, 4000, 1)
    assert (config["mixture"], config["standardise"], config["octaves"]) == (1, False, 0)


def test_the_learning_rate_has_its_peak_of_1e_3_at_step_4000() -> None:
    detector = create("anp", "paper")
    assert isinstance(detector, ANP)
    rates = [detector.config.learning_rate * detector.schedule()(step) for step in (1, 2000, 4000, 16_000)]
    assert rates == pytest.approx([2.5e-7, 5e-4, 1e-3, 5e-4])


def test_the_rate_falls_to_zero_over_the_last_steps_if_asked_to() -> None:
    detector = create("anp", "paper", {"max_steps": 100, "cool_down": 0.2, "warm_up_steps": 50})
    assert isinstance(detector, ANP)
    rate = detector.schedule()
    assert [rate(step) for step in (25, 50, 81, 91, 100)] == pytest.approx(
        [0.5, 1.0, (50 / 81) ** 0.5, (50 / 91) ** 0.5 / 2, (50 / 100) ** 0.5 / 20]
    )


def slow_network(network: ANPNetwork, window: torch.Tensor, context: list[int], target: list[int]) -> torch.Tensor:
    """Section 2.1 point by point and head by head; mean and sigma of each target, shape (n_targets, 2)."""

    def dense(layers: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
        for layer in linear[:-1]:
            x = torch.clamp(layer.weight @ x + layer.bias, min=0)
        return linear[-1].weight @ x + linear[-1].bias

    def norm(layer: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-5) * layer.weight + layer.bias

    def attend(query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor], heads: int) -> torch.Tensor:
        size = len(query) // heads
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = torch.stack([query[part] @ key[part] / math.sqrt(size) for key in keys])
            weights = torch.exp(logits - logits.max())
            weights = weights / weights.sum()
            mixed.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
        return torch.cat(mixed)  # type: ignore[arg-type]

    def finish(block: torch.nn.Module, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        middle = norm(block.first_norm, attended + residual)
        inner = torch.clamp(block.inner.weight @ middle + block.inner.bias, min=0)
        return norm(block.second_norm, middle + block.outer.weight @ inner + block.outer.bias)

    def position(bin_: int) -> torch.Tensor:
        frame, band = divmod(bin_, 128)
        return torch.tensor([frame / 2 - 1, band * 2 / 127 - 1])

    points = [dense(network.points, torch.cat([position(c), window[c][None]])) for c in context]
    for layer in network.encoder:
        q, k, v = (
            [w @ p + b for p in points]
            for w, b in zip(layer.attention.inputs.weight.chunk(3), layer.attention.inputs.bias.chunk(3), strict=True)
        )
        out = layer.attention.output
        points = [
            finish(layer.rest, p, out.weight @ attend(one, k, v, layer.attention.heads) + out.bias)
            for p, one in zip(points, q, strict=True)
        ]
    cross = network.attention
    keys = [cross.key(dense(network.positions, position(c))) for c in context]
    values = [cross.value(p) for p in points]
    found = []
    for t in target:
        query = dense(network.positions, position(t))
        attended = cross.output(attend(cross.query(query), keys, values, cross.heads))
        mean, z = dense(network.decoder, torch.cat([position(t), finish(network.rest, query, attended)]))
        found.append(torch.stack([mean, 0.1 + 0.9 * torch.log1p(torch.exp(z))]))
    return torch.stack(found)


def test_the_network_equals_a_slow_reference() -> None:
    network = untrained().network
    assert network is not None
    window = sound(5).flatten()
    bins = torch.randperm(640, generator=torch.Generator().manual_seed(1))
    context, target = bins[:24], bins[24:36]
    with torch.inference_mode():
        _, means, log_sigmas = network(window[None], context, target)
        expected = slow_network(network, window, context.tolist(), target.tolist())
    torch.testing.assert_close(means[0, :, 0], expected[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(log_sigmas[0, :, 0].exp(), expected[:, 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mixture", [1, 3])
def test_permuting_the_context_changes_nothing_and_permuting_targets_permutes(mixture: int) -> None:
    network = untrained(mixture=mixture).network
    assert network is not None
    windows = sound(15).view(3, 640)
    sides = Partition.of(masks.random_rows_and_columns(5, 128, torch.Generator().manual_seed(5)))
    shuffled = torch.randperm(len(sides.target))
    with torch.inference_mode():
        straight = network(windows, sides.context, sides.target)
        mixed = network(windows, sides.context[torch.randperm(len(sides.context))], sides.target[shuffled])
    for one, other in zip(straight, mixed, strict=True):
        assert one.shape == (3, len(sides.target), mixture)
        torch.testing.assert_close(one[:, shuffled], other, rtol=1e-4, atol=1e-4)


def test_waves_tell_positions_apart_that_coordinates_hardly_do() -> None:
    plain, waves = (untrained(octaves=octaves).network.grid for octaves in (0, 7))
    assert (plain.shape, waves.shape) == ((640, 2), (640, 30))
    assert torch.equal(waves[:, :2], plain)
    assert (waves[:, 2:].abs() <= 1).all()
    # From one band to the next, and from one frame to the next.
    for first, second in ((0, 1), (0, 128), (5, 133)):
        assert (waves[first] - waves[second]).norm() > 2 * (plain[first] - plain[second]).norm()
    assert len({tuple(row) for row in (waves * 1e4).round().tolist()}) == 640


def test_sigmas_begin_wide() -> None:
    detector = create("anp", "paper", {"standardise": True, "mixture": 2})
    assert isinstance(detector, ANP)
    sides = Partition.of(masks.centre_frame(5, 128))
    with torch.inference_mode():
        log_sigmas = detector.build()(sound(5).reshape(1, -1) / 6, sides.context, sides.target)[2]
    assert 1.5 < float(log_sigmas.exp().median()) < 7


@pytest.mark.parametrize("octaves", [0, 3])
def test_hidden_bins_leak_nowhere(octaves: int) -> None:
    network = untrained(octaves=octaves).network
    assert network is not None
    for mask in (masks.centre_frame(5, 128), *masks.fixed_rows_and_columns(5, 128), masks.three_of_eight(5, 128)):
        window = sound(5).flatten()[None]
        changed = window.clone()
        changed[:, mask.flatten()] += 50
        sides = Partition.of(mask)
        with torch.inference_mode():
            before = network(window, sides.context, sides.target)
            after = network(changed, sides.context, sides.target)
            given = window.clone()
            given[:, sides.context[0]] += 50
            moved = network(given, sides.context, sides.target)
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert not torch.equal(before[1], moved[1])


def test_shared_cross_attention_equals_the_plain_form() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(16, 4)
    queries, keys, values = torch.randn(7, 16), torch.randn(11, 16), torch.randn(3, 11, 16)
    shared = attention(queries, keys, values)
    plain = attention(queries.expand(3, -1, -1), keys.expand(3, -1, -1), values)
    torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-6)


def test_attention_equals_torchs() -> None:
    torch.manual_seed(0)
    own, members = SelfAttention(16, 4), torch.randn(3, 9, 16)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": own.inputs.weight,
            "in_proj_bias": own.inputs.bias,
            "out_proj.weight": own.output.weight,
            "out_proj.bias": own.output.bias,
        }
    )
    expected = theirs(members, members, members, need_weights=False)[0]
    torch.testing.assert_close(own(members), expected, rtol=1e-5, atol=1e-6)


def test_a_shared_partition_equals_the_same_for_each_window() -> None:
    network = untrained().network
    assert network is not None
    windows = sound(20).view(4, 640)
    mask = masks.random_rows_and_columns(5, 128)
    shared, each = Partition.of(mask), Partition.of(mask.expand(4, -1, -1))
    with torch.inference_mode():
        one = network(windows, shared.context, shared.target)
        other = network(windows, each.context, each.target)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixture", [1, 2])
def test_gradients_reach_every_weight_and_a_mask_is_drawn_once_a_batch(mixture: int) -> None:
    detector = untrained(mixture=mixture)
    network = detector.network
    assert network is not None
    windows = sound(20).view(4, 640)
    torch.manual_seed(8)
    loss = detector.loss(network, windows)
    loss.backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # A key's bias adds the same to all logits of a query, so attention does not depend on it.
        assert weight.grad.abs().max() > 0 or name == "attention.key.bias", name
    torch.manual_seed(8)
    sides = Partition.of(masks.random_rows_and_columns(5, 128))
    with torch.inference_mode():
        predicted = Mixture(*network(windows, sides.context, sides.target))
        one_mask = predicted.nll(at(windows, sides.target)).mean()
    assert float(loss.detach()) == pytest.approx(float(one_mask), rel=1e-5)


def test_a_mixture_of_one_has_the_paper_s_outputs_and_more_have_three_each() -> None:
    assert create("anp").n_parameters() + 129 * (9 - 2) == create("anp", "paper", {"mixture": 3}).n_parameters()


# The six scorings and ours ------------------------------------------------------------------------------


def slow_score(detector: ANP, window: torch.Tensor, masking: str, score_by: str) -> float:
    """Section 2.2 and equation 7 for one window, (5, 128), in plain Python; the constant is the likelihood's."""
    network = detector.network
    assert network is not None

    def terms(hidden: set[tuple[int, int]]) -> dict[tuple[int, int], dict[str, float]]:
        """Negative log-likelihood, squared error, and that in units of sigma, of each hidden bin."""
        everything = [(frame, band) for frame in range(5) for band in range(128)]
        context = torch.tensor([f * 128 + b for f, b in everything if (f, b) not in hidden])
        target = torch.tensor([f * 128 + b for f, b in everything if (f, b) in hidden])
        _, means, log_sigmas = network(window.reshape(1, -1), context, target)
        found = {}
        for number, mean, log_sigma in zip(target.tolist(), means.flatten(), log_sigmas.flatten(), strict=True):
            frame, band = divmod(number, 128)
            y, mu, sigma = float(window[frame, band]), float(mean), math.exp(float(log_sigma))
            nll = math.log(sigma) + (y - mu) ** 2 / (2 * sigma**2) + math.log(2 * math.pi) / 2
            error = (y - mu) ** 2
            found[frame, band] = {"likelihood": nll, "mse": error, "surprise": error / (2 * sigma**2)}
        return found

    def mean(hidden: set[tuple[int, int]]) -> float:
        found = terms(hidden)
        return sum(of_bin[score_by] for of_bin in found.values()) / len(found)

    def cross(frames: list[int], bands: list[int]) -> set[tuple[int, int]]:
        return {(f, b) for f in range(5) for b in range(128) if f in frames or b in bands}

    if masking == "idnn":
        return mean(cross([2], []))
    if masking == "rrc":
        partitions = [
            {(f, b) for f in range(5) for b in range(128) if mask[f, b]}
            for mask in masks.fixed_rows_and_columns(5, 128)
        ]
        return sum(map(mean, partitions)) / 3
    kept = {n for n in range(640) if (n + 1) * 5 // 8 > n * 5 // 8}
    first = terms({(n % 5, n // 5) for n in range(640) if n not in kept})
    assert (len(kept), len(first)) == (400, 240)

    def average(side: int, number: int) -> float:
        values = [of_bin["likelihood"] for where, of_bin in first.items() if where[side] == number]
        return sum(values) / len(values)

    bands = sorted(range(128), key=lambda b: average(1, b))[-2:]
    frame = max(range(5), key=lambda f: average(0, f))
    hidden = cross([frame], bands)
    assert (len(hidden), 640 - len(hidden)) == (136, 504)
    return mean(hidden)


@pytest.mark.parametrize(("masking", "score_by"), SCORINGS)
@pytest.mark.parametrize("hop", [1, 4])
def test_the_scorings_equal_a_slow_reference(masking: str, score_by: str, hop: int) -> None:
    fitted = untrained(score_hop=hop)
    detector = fitted.rescored(masking=masking, score_by=score_by)
    logmel = sound(12, seed=2)
    starts = range(8) if hop == 1 else (0, 4, 7)
    with torch.inference_mode():
        expected = [slow_score(fitted, logmel[s : s + 5], masking, score_by) for s in starts]
        assert detector.score_logmel(logmel) == pytest.approx(np.mean(expected), rel=1e-4)


def test_rescoring_leaves_the_fitted_detector_alone() -> None:
    fitted = untrained()
    c = clip(machine_sound(1, seconds=0.4))
    before = fitted.score([c])[0]
    others = [fitted.rescored(masking=m, score_by=s) for m, s in SCORINGS]
    assert len({d.score([c])[0] for d in others}) == len(SCORINGS)
    assert fitted.score([c])[0] == before
    for name, weight in fitted.state()[0].items():
        assert all(torch.equal(d.state()[0][name], weight) for d in others)
    assert fitted.rescored(masking="idnn", score_by="mse").score([c])[0] == before
    assert [d.config.model_dump()["masking"] for d in others] == [m for m, _ in SCORINGS]


def test_rescoring_takes_settings_of_scoring_only() -> None:
    fitted = untrained()
    with pytest.raises(AuscultError, match="learns depends on width"):
        fitted.rescored(width=8)
    with pytest.raises(AuscultError, match=r"no setting 'maskin'.*did you mean 'masking'"):
        fitted.rescored(maskin="rrc")
    with pytest.raises(AuscultError, match="masking"):
        fitted.rescored(masking="centre")
    with pytest.raises(AuscultError, match="power mean"):
        fitted.rescored(score_by="likelihood", aggregation="power-4")


@pytest.mark.parametrize("settings", [{"frames": 4}, {"frames": 1}, {"heads": 3}, {"mixture": 0}, {"score_hop": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(AuscultError, match=f"anp.*{next(iter(settings))}"):
        create("anp", "paper", {**TINY, **settings})


@pytest.mark.parametrize(("n_frames", "hop", "expected"), [(313, 1, 309), (344, 1, 340), (313, 5, 63), (5, 5, 1)])
def test_window_counts(n_frames: int, hop: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = untrained(score_hop=hop)
    seen = []
    monkeypatch.setattr(detector, "window_scores", lambda windows: seen.append(len(windows)) or windows[:, 0])
    detector.score_logmel(sound(n_frames))
    assert sum(seen) == expected


# Maps and masks -----------------------------------------------------------------------------------------


def test_the_map_has_every_frame_hidden_once() -> None:
    detector = untrained()
    logmel = sound(9)
    expected = torch.empty(9, 128)
    with torch.inference_mode():
        for frame in range(9):
            first = min(max(frame - 2, 0), 4)
            sides = Partition.of(masks.hide(5, 128, frames=[frame - first]))
            _, mean, log_sigma = detector.network(logmel[first : first + 5].reshape(1, -1), *vars(sides).values())
            expected[frame] = (logmel[frame] - mean[0, :, 0]) ** 2 / (2 * log_sigma[0, :, 0].exp() ** 2)
        found = detector.map_logmel(logmel)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found >= 0).all()


@pytest.mark.parametrize("mixture", [1, 3])
def test_any_mask_over_a_clip(mixture: int) -> None:
    detector = untrained(mixture=mixture)
    c = clip(machine_sound(3, seconds=0.6))
    n_frames = len(detector.logmel(c))
    found = detector.predict_hidden(c, "bands:60-61,frames:7,box:0-3x5-9")
    mask = masks.hide(n_frames, 128, bands=[60, 61], frames=[7], boxes=[(range(4), range(5, 10))]).T.numpy()
    for values in (found.mean, found.std, found.surprise):
        assert values.shape == (128, n_frames)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(values), mask)
    assert (found.std[mask] >= 0.1).all()
    shown = detector.map_with_mask(c, mask)
    np.testing.assert_array_equal(shown[mask], found.surprise[mask])
    assert (shown[~mask] == 0).all()


def test_what_a_mask_hides_is_not_heard() -> None:
    detector = untrained()
    logmel = sound(20)
    mask = masks.hide(20, 128, bands=[3, 90], boxes=[(range(4, 7), range(100))])
    changed = torch.where(mask, logmel + 200, logmel)
    with torch.inference_mode():
        before, after = detector._predict_clip(logmel, mask), detector._predict_clip(changed, mask)
    for one, other in zip(before[:2], after[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert (after[2][mask] > before[2][mask]).float().mean() > 0.9


def test_a_frame_hidden_alone_is_what_the_map_shows() -> None:
    detector = untrained()
    logmel = sound(11)
    with torch.inference_mode():
        whole = detector.map_logmel(logmel)
        for frame in (0, 1, 5, 10):
            alone = detector._predict_clip(logmel, masks.hide(11, 128, frames=[frame]))[2]
            torch.testing.assert_close(alone[frame], whole[frame], rtol=1e-4, atol=1e-4)


def test_masks_that_leave_nothing_to_go_by_or_do_not_fit_are_refused() -> None:
    detector = untrained()
    c = clip(machine_sound(3, seconds=0.6))
    n_frames = len(detector.logmel(c))
    with pytest.raises(AuscultError, match="hides every bin of frames 3 to 7"):
        detector.predict_hidden(c, "frames:3-7")
    with pytest.raises(AuscultError, match="cannot be read"):
        detector.predict_hidden(c, "everything")
    with pytest.raises(AuscultError, match=rf"give bool, shape \(128, {n_frames}\)"):
        detector.predict_hidden(c, np.zeros((n_frames, 128), bool))
    with pytest.raises(AuscultError, match="give bool"):
        detector.predict_hidden(c, np.ones((128, n_frames)))
    with pytest.raises(AuscultError, match="hides nothing"):
        detector.predict_hidden(c, np.zeros((128, n_frames), bool))


# Training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "by"), [({}, 2.0), ({"standardise": True, "mixture": 2, "octaves": 3}, 0.05)])
def test_training_lowers_the_loss(settings: dict[str, object], by: float, tmp_path: Path) -> None:
    small = {**TINY, **settings, "frames": 3, "epochs": 10, "batch_size": 4, "warm_up_steps": 5}
    detector = create("anp", "paper", {**small, "learning_rate": 3e-3})
    log = detector.fit([clip(machine_sound(1, seconds=0.5))], store=Store(tmp_path))
    assert log.losses[-1] < log.losses[0] - by


@pytest.mark.parametrize(
    "samples",
    [
        np.sign(np.sin(np.arange(9_600) * 0.1)),
        np.sin(2 * np.pi * 1000 * np.arange(9_600) / RATE),
        machine_sound(5, seconds=0.6) * 1e-7,
    ],
    ids=["square wave", "one constant bin", "whisper"],
)
@pytest.mark.parametrize(("standardise", "mixture"), [(False, 1), (True, 2)])
def test_training_on_extremes_gives_no_nan(
    samples: np.ndarray, standardise: bool, mixture: int, tmp_path: Path
) -> None:
    samples = samples[:4_000]
    small = {**TINY, "frames": 3, "epochs": 4, "batch_size": 4, "warm_up_steps": 1, "learning_rate": 0.01}
    detector = create("anp", "paper", {**small, "standardise": standardise, "mixture": mixture})
    log = detector.fit([clip(samples)], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    assert isinstance(detector, ANP)
    for other in (np.zeros(2_000), samples):
        for masking, score_by in SCORINGS:
            way = detector.rescored(masking=masking, score_by=score_by, score_hop=5)
            assert np.isfinite(way.score([clip(other)])).all()
        assert np.isfinite(detector.anomaly_map(clip(other))).all()
