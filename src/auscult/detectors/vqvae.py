"""A discrete autoencoder of whole spectrograms; what its codes cannot say is strange. AudDSR is built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.images import Images, image_frames, laid, put_together
from auscult.detectors.network import NetworkDetector
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.vqvae import STRIDE, DiscreteAutoencoder
from auscult.store import Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_IMAGES_AT_ONCE = 8
"""Bounds the memory of a long clip."""


class VQVAEConfig(DetectorConfig):
    """Settings of the discrete autoencoder. Sizes are those of DSR's released program; the paper gives none.

    Attributes
    ----------
    frames : int
        Most frames of an image: 320 hold ten seconds. Of a longer clip, training takes a place drawn at random.
    width, codes : int
        Channels, and entries of each of the two codebooks.
    decay : float
        Of the running means that the codes are.
    commitment : float
        Weight that holds features to their codes (the paper's lambda_K).
    reconstruction : float
        Weight of the image's squared error (the paper's lambda_x, which it does not state; DSR's program has 10).
    patience : int
        Training steps after which a code that is never chosen begins anew. Ours.
    max_steps, batch_size, learning_rate : training
    """

    frames: int = Field(default=320, ge=32, multiple_of=32, description="most frames of an image")
    width: int = Field(default=128, ge=2, multiple_of=2, description="channels")
    codes: int = Field(default=4096, ge=2, description="entries of each codebook")
    decay: float = Field(default=0.99, ge=0, lt=1, description="of the running means that the codes are")
    commitment: float = Field(default=0.25, ge=0, description="weight that holds features to their codes")
    reconstruction: PositiveFloat = Field(default=10.0, description="weight of the image's squared error")
    patience: PositiveInt = Field(default=100, description="steps after which an unused code begins anew")
    max_steps: PositiveInt = Field(default=20_000, description="of training")
    batch_size: int = Field(default=256, ge=2, description="images in a training step")
    learning_rate: PositiveFloat = Field(default=2e-4, description="of Adam")


@register
class VQVAE(NetworkDetector):
    """Puts a spectrogram into the words of two codebooks, and back; what they cannot say is strange.

    The first stage of AudDSR, which takes its model file (`auscult fit DATA -d auddsr --set stage1=FILE`), as often as
    one likes: fit it once on everything there is, healthy or not, of any machine or none. No label is looked at. Also
    a detector by itself, which the paper does not have.

    Images of 128 bands and 320 frames (ten seconds and their last quarter mirrored), one mean and deviation for all
    bins, cut off at four deviations. Two levels, of an eighth and a quarter of the resolution, codebooks of 4096
    codes of 128 numbers: 1 920 129 parameters besides. Loss: ten times the mean squared error, and a quarter of the
    squared distance of features to their codes, which are running means (0.99), not trained. Adam 2e-4, 20 000
    batches of 256.

    Score: mean squared error in deviations, over the clip's own frames. Map: the same at each bin.

    References
    ----------
    Zavrtanik, Marolt, Kristan, Skočaj, "Anomalous sound detection by feature-level anomaly simulation", ICASSP 2024,
    sections 3.1 and 4.1; Razavi, van den Oord, Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019.

    Notes
    -----
    The paper writes the codes' terms into the loss (equation 1); running means, as in DSR's program, have the same
    aim and are steadier. What a training log tells besides: the share of codes in use, and their perplexity.
    """

    name = "vqvae"
    family = "reconstruction"
    paper = "Zavrtanik et al., ICASSP 2024, 3.1"
    Config: ClassVar[type[DetectorConfig]] = VQVAEConfig
    config: VQVAEConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: a minute and a half on one core. A quarter of the channels, five seconds at a time, and five times the
        # rate, since there are hundreds of steps and not tens of thousands.
        "quick": {
            "frames": 160,
            "width": 32,
            "codes": 512,
            "patience": 20,
            "max_steps": 300,
            "batch_size": 16,
            "learning_rate": 1e-3,
        },
    }

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.frames = self.config.frames

    def build(self) -> DiscreteAutoencoder:
        """A new network."""
        config = self.config
        return DiscreteAutoencoder(config.width, config.codes, config.decay, config.patience)

    @property
    def min_frames(self) -> int:
        """One place of the coarser level."""
        return STRIDE

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Train the autoencoder on images of the clips; see `Detector.fit`."""
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        self.frames = image_frames(logmels.spectra, self.config.frames, 32)
        network = self.new_network(seed)
        assert isinstance(network, DiscreteAutoencoder)
        network.levels.learn(logmels.spectra)
        log = self._train(network, Images(logmels.spectra, self.frames, self.config.batch_size), budget, seed, run)
        self.network = network.cpu().eval()
        return log

    def _train(
        self, network: DiscreteAutoencoder, images: Images, budget: float | None, seed: int, run: Run | None
    ) -> TrainingLog:
        config = self.config
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        epochs = -(-config.max_steps * config.batch_size // len(images))
        plan = Plan(epochs, config.batch_size, config.max_steps, budget, note=lambda: _told(network.figures()))
        log = train(network, self._loss, images, optimizer, plan, seed=seed, run=run)
        return replace(log, figures=network.figures())

    def _loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        images, made_again, commitment = network(windows)
        squared = nn.functional.mse_loss(made_again, images)
        loss: torch.Tensor = self.config.reconstruction * squared + self.config.commitment * commitment
        return loss

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Squared error, averaged over the clip."""
        return float(self.map_logmel(logmel).double().mean())

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Squared error at each bin, in deviations; levels that were cut off for the network count whole."""
        network = self._fitted()
        windows, starts = laid(logmel, self.frames)
        made = [network.decode(*network.codes(network.standardised(w))) for w in torch.split(windows, _IMAGES_AT_ONCE)]
        made_again = put_together(torch.cat(made)[:, 0].transpose(1, 2), starts, len(logmel))
        squared: torch.Tensor = (made_again - network.levels(logmel)).square()
        return squared

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The network's weights and codes, and the length of its images."""
        return super().state()[0], {"frames": self.frames}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Load weights into a new network; see `NetworkDetector.restore`."""
        try:
            self.frames = int(facts["frames"])
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        super().restore(tensors, facts)

    def _fitted(self) -> DiscreteAutoencoder:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, DiscreteAutoencoder)
        return self.network


def _told(figures: dict[str, float]) -> str:
    return ", ".join(f"{what} {figure:.3g}" for what, figure in figures.items())
