"""GeCo: its losses against slow references, its two stages, its score and its parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors.geco import GeCo
from auscult.detectors.pae import PAE
from auscult.detectors.registry import create, rescored
from auscult.errors import AudioError, AuscultError
from auscult.nn.contrastive import supervised_contrastive
from auscult.nn.geco import GeCoNetwork
from auscult.nn.schedules import cosine
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
PAE_SMALL = {"frames": 5, "encoder_blocks": 1, "decoder_blocks": 1, "width": 16, "heads": 2, "feed_forward": 16}
SMALL: dict[str, Any] = {
    "pae_settings": {**PAE_SMALL, "max_steps": 4, "batch_size": 16, "warm_up_steps": 2},
    "frames": 16,
    "form": 2023,
    "max_steps": 4,
    "batch_size": 4,
}


def humming(n: int, machine_id: str = "id_00", kind: str = "fan", seconds: float = 1.0) -> list[Clip]:
    pitch = {"id_00": 180.0, "id_02": 230.0}.get(machine_id, 300.0)
    return [
        Clip(
            f"{kind} {machine_id} {k}",
            samples=machine_sound(k, pitch=pitch, seconds=seconds).astype(np.float32),
            rate=RATE,
            machine_type=kind,
            machine_id=machine_id,
        )
        for k in range(n)
    ]


def small(**changed: object) -> GeCo:
    detector = create("geco", "paper", SMALL | changed)
    assert isinstance(detector, GeCo)
    return detector


TWO = [*humming(3), *humming(3, "id_02")]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> GeCo:
    detector = small()
    detector.fit(TWO, outliers=humming(2, "id_04", "pump"), store=Store(tmp_path_factory.mktemp("store")))
    return detector


# Losses -------------------------------------------------------------------------------------------------


def test_supervised_contrastive_loss_equals_a_slow_reference() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(7, 5), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    z = embeddings / embeddings.norm(dim=1, keepdim=True)
    each = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        own = [p for p in others if labels[p] == labels[i]]
        if own:
            whole = sum(math.exp(float(z[i] @ z[a]) / 0.1) for a in others)
            each.append(-sum(math.log(math.exp(float(z[i] @ z[p]) / 0.1) / whole) for p in own) / len(own))
    assert float(supervised_contrastive(embeddings, labels)) == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_a_batch_without_two_of_a_class_has_no_contrast() -> None:
    embeddings = torch.randn(3, 5, requires_grad=True)
    loss = supervised_contrastive(embeddings, torch.arange(3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_the_rate_falls_along_half_a_cosine() -> None:
    schedule = cosine(4)
    assert [schedule(step) for step in (1, 3)] == pytest.approx([1, 0.5])
    assert 0 < schedule(4) < schedule(2) < 1


def test_the_losses_are_of_recordings_and_reconstructions(fitted: GeCo) -> None:
    network = fitted._fitted()
    windows = torch.stack([fitted.logmel(c)[:16] for c in TWO])
    labels = torch.tensor([fitted.class_of(c) for c in TWO])
    with torch.no_grad():
        losses = network(windows, labels, 0.0, 0.1)
        real, made = network.pairs(windows, labels, 0.0)
        of_real, of_made = (network.extract(images.transpose(1, 2)[:, None]) for images in (real, made))
        logits = network.classify(of_real)
        expected = -logits.log_softmax(1)[torch.arange(6), labels].mean()
        both = torch.cat([network.tell(of_real), network.tell(of_made)])[:, 0]
        sigmoid = both.sigmoid()
        reality = -torch.cat([(1 - sigmoid[:6]).log(), sigmoid[6:].log()]).mean()
        contrast = supervised_contrastive(torch.cat([of_real, of_made]), torch.cat([labels, labels + 3]))
    torch.testing.assert_close(torch.stack(losses), torch.stack([expected, contrast, reality]), rtol=1e-3, atol=1e-4)


# Reconstructions ----------------------------------------------------------------------------------------


def test_each_frame_is_predicted_by_its_types_autoencoder_and_edges_are_copied(fitted: GeCo) -> None:
    network = fitted._fitted()
    assert fitted.kinds() == ["fan", "pump"]
    assert network.types.tolist() == [0, 0, 1]
    windows = torch.stack([fitted.logmel(c)[:16] for c in (TWO[0], TWO[3])])
    with torch.no_grad():
        for label, kind in ((1, 0), (2, 1)):
            real, made = network.pairs(windows, torch.tensor([label, label]), 0.0)
            autoencoder = network.autoencoders[kind]
            for b in range(2):
                slow = [autoencoder(windows[b, f : f + 5].flatten()[None]) for f in range(12)]
                predicted = torch.cat([p for p, _ in slow])
                torch.testing.assert_close(made[b, 2:14], predicted, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(real[b, 2:14], torch.cat([t for _, t in slow]))
                assert torch.equal(made[b, :2], made[b, [2, 2]])
                assert torch.equal(made[b, 14:], made[b, [13, 13]])


def test_the_noise_that_is_put_back_is_what_is_left_out(fitted: GeCo) -> None:
    network = fitted._fitted()
    fans = [fitted.logmel(c) for c in TWO]
    with torch.no_grad():
        errors = torch.stack([fitted._errors(network, logmel, 0).mean(0) for logmel in fans]).mean(0).sqrt()
        torch.testing.assert_close(network.residual[0], errors)
        windows, labels = fans[0][None, :16].repeat(300, 1, 1), torch.zeros(300, dtype=torch.long)
        smooth, noisy = (network.pairs(windows, labels, noise)[1] for noise in (0.0, 0.5))
    torch.testing.assert_close((noisy - smooth).std((0, 1)), 0.5 * network.residual[0], rtol=0.1, atol=0.01)


def test_autoencoders_stay_as_they_are(fitted: GeCo) -> None:
    network = fitted._fitted()
    assert not any(p.requires_grad for p in network.autoencoders.parameters())
    network.train()
    assert not network.autoencoders.training
    network.eval()


def test_an_autoencoder_learns_from_its_types_own_clips_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[set[str]] = []
    fit = PAE.fit

    def remember(self: PAE, train: Any, **how: Any) -> Any:
        learnt.append({f"{c.machine_type} {c.machine_id}" for c in train})
        return fit(self, train, **how)

    monkeypatch.setattr(PAE, "fit", remember)
    others = [*humming(2, "id_04"), *humming(2, "id_04", "pump")]
    small().fit(TWO, outliers=others, store=Store(tmp_path))
    assert learnt == [{"fan id_00", "fan id_02"}, {"pump id_04"}]


# Scores -------------------------------------------------------------------------------------------------


def test_the_score_is_both_parts_in_deviations_over_the_machines_training_clips(fitted: GeCo) -> None:
    network = fitted._fitted()
    clip = humming(9, seconds=1.4)[8]
    raw = {}
    with torch.no_grad():
        for c in (*TWO[:3], clip):
            logmel = fitted.logmel(c)
            starts = [*range(0, len(logmel) - 16, 16), len(logmel) - 16]
            doubts = [float(network.surprise(logmel[None, s : s + 16], 0)) for s in starts]
            errors = fitted._errors(network, logmel, 0)
            raw[c.path] = (np.mean(doubts), float(errors.mean()))
    learnt = np.array([raw[c.path] for c in TWO[:3]])
    expected = (np.array(raw[clip.path]) - learnt.mean(0)) / np.maximum(learnt.std(0), 1e-3)
    np.testing.assert_allclose(fitted.parts(clip), expected, rtol=2e-2, atol=1e-2)
    assert fitted.score([clip])[0] == pytest.approx(sum(fitted.parts(clip)))
    assert fitted.map_of(clip, fitted.logmel(clip)).shape == fitted.logmel(clip).shape


def test_one_part_alone_may_count_without_fitting_again(fitted: GeCo) -> None:
    clip = TWO[0]
    doubt, error = fitted.parts(clip)
    assert rescored(fitted, {"score_by": "classification"}).score([clip])[0] == pytest.approx(doubt)
    assert rescored(fitted, {"score_by": "reconstruction"}).score([clip])[0] == pytest.approx(error)
    words = fitted.findings(clip)
    assert len(words) == 2
    assert any("fan id_00" in said for said in words)
    assert any(f"{error:+.1f} deviations worse" in said for said in words)


def test_whose_a_clip_is_must_be_known(fitted: GeCo) -> None:
    with pytest.raises(AudioError, match="not learnt a machine fan id_07"):
        fitted.score(humming(1, "id_07"))
    for judge in (fitted.score_logmel, fitted.map_logmel):
        with pytest.raises(AuscultError, match="which machine"):
            judge(torch.zeros(20, 128))


# Stages -------------------------------------------------------------------------------------------------


def fails(*_: Any, **__: Any) -> Any:
    raise AssertionError("an autoencoder is trained again")


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_a_run_goes_on_without_fitting_autoencoders_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    how: dict[str, Any] = {"store": Store(tmp_path), "seed": 1}
    straight, resumed = small(), small()
    log = straight.fit(TWO, **how)
    assert log.steps == 8
    assert 0 <= log.figures["told from reconstructions"] <= 1
    with monkeypatch.context() as patch:
        patch.setattr(GeCo, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small().fit(TWO, **how, run=Run(checkpoint=tmp_path / "c"))
    assert (tmp_path / "c.pae-0-done").exists()
    monkeypatch.setattr(PAE, "fit", fails)
    assert resumed.fit(TWO, **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 8
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())
    assert not list(tmp_path.glob("c.pae*"))


def test_one_machine_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="tells machine IDs apart"):
        small().fit(humming(3), store=Store(tmp_path))


def test_parameters_are_the_extractors_heads_and_one_autoencoders() -> None:
    pae = create("pae").n_parameters()
    with torch.device("meta"):
        network = GeCoNetwork([], 9, (128, 313), [0] * 41, 2022)
    extractor = sum(p.numel() for p in network.parameters())
    assert create("geco").n_parameters() == pae + extractor
    assert sum(p.numel() for p in network.classify.parameters()) == 41 * 129
