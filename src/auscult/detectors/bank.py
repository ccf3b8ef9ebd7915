"""A memory of pooled, per-band log-mel statistics: the annotation-free default."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from auscult.corpus.clip import Clip
from auscult.detectors.bank_findings import Finding, Usual, blame_bins, finding
from auscult.detectors.bank_parts import drawn, is_bank, usual
from auscult.detectors.bank_settings import BankConfig
from auscult.detectors.bank_tokens import TOKEN_VIEWS, Tokens
from auscult.detectors.bank_views import VIEWS, Heard, View
from auscult.detectors.base import Detector, DetectorConfig, require_fitted
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.domains import groups_of
from auscult.nn.encoders import TokenMap
from auscult.nn.memory import (
    BandMemory,
    bands_of,
    learn_scale,
    learn_whitening,
    left_out,
    nearest,
    relative_distances,
)
from auscult.nn.tracing import number, softplus
from auscult.parallel import torch_threads
from auscult.store import LogMels, Store, require_clips
from auscult.training import Run, TrainingLog

Statistics = dict[str, torch.Tensor]
"""What the views say of a clip or of several, by the views' names."""

_SAME = 1e-3
"""dB. Statistics no further apart than this are those of the same recording."""


@register
class Bank(Detector):
    """Distance of a clip to its nearest healthy clips, seen in several ways, overall and in each band.

    Each view sums up a clip by a few statistics over time of each mel band: its level, its loudest and quietest
    frames, how it spreads and how it changes. The bank keeps those of the healthy clips, whitened within each
    of 16 bands. A view's distance to the nearest clip overall, and to the nearest in each band, is measured by the
    distances that the bank's own clips have when they are left out; what exceeds them is brought together as a
    root mean square, first over bands, then over views. No training loop; a few seconds' work. Where training clips are
    of several domains, distances to those of each are measured by how far they are from one another.

    The anomaly map shares out each band's squared distance among the frames that caused it: the loudest
    frames for the view of these, those far from the median for the spread. 1 is usual.

    With a published encoder in a local file (`encoder`), tokens stand for log-mels, and the encoder's frequency bands
    for mel bands; the views are two means of them over time (see `bank_tokens`), scaled but not whitened.

    Sources of the ideas: ranked pooling and full covariances from TWFR-GMM (Guan et al., ICASSP 2023), a neighbour
    for each sub-band from BEAM (2026), fusion of scores normalised by the bank's own from the DCASE 2023-25
    literature; frozen encoders with the bands kept from GenRep (Saengthong and Shinozaki, 2024). The statistics of
    changes, whitening by differences between neighbours and the fusion are ours.
    """

    name = "bank"
    family = "neighbours"
    paper = "ours: pooled statistics, per-band neighbours"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = BankConfig
    config: BankConfig
    min_frames = 2
    scorings: ClassVar[frozenset[str]] = frozenset({"encoder"})
    whereabouts = scorings
    """Where the encoder's file lies, not which one it is."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.tokens: Tokens | None = None
        if self.config.encoder is not None:
            self.tokens = Tokens(self.config.encoder, self.config.encoder_layer)
            self.exports = False
            self.why_no_export = "with an encoder it hears the waveform, not the log-mel that an export begins with"
        else:
            self._require_bands(self.front_end.n_mels, self.config.front_end)
        names = self.config.views.split("+")
        self.views: list[View] = [VIEWS[name] for name in names] if self.tokens is None else [*TOKEN_VIEWS.values()]
        self.tensors: dict[str, torch.Tensor] | None = None
        self.memories: dict[str, BandMemory] = {}
        self.usual: dict[str, torch.Tensor] = {}

    # Learning -----------------------------------------------------------------------------------------

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,  # noqa: ARG002
        seed: int = 0,
        run: Run | None = None,  # noqa: ARG002
    ) -> TrainingLog:
        """Keep the statistics of the training clips, or of so many drawn from them; see `Detector.fit`."""
        if self.tokens is not None:
            self.tokens.choose()
            self._require_bands(self.tokens.n_bands, "the encoder")
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        groups = groups_of([clip.domain for clip in logmels.clips]) if self.config.domains == "auto" else None
        kept = self._kept(logmels, seed, groups)
        described = logmels.read_once(lambda k: self._described_in(logmels, k), kept)
        with torch_threads(1):
            self.learn(
                {v.name: torch.stack([clip[v.name] for clip in described]) for v in self.views},
                None if groups is None else groups[kept],
            )
        return TrainingLog()

    def _kept(self, logmels: LogMels, seed: int, groups: torch.Tensor | None) -> list[int]:
        """The numbers of the clips to keep, from the faintest to the loudest.

        An order that neither that of the clips nor a processor's rounding decides: the same clips are drawn and left
        out together everywhere, and their statistics summed alike.
        """
        levels = logmels.levels()
        order = sorted(range(len(levels)), key=lambda k: (levels[k], logmels.clips[k].domain or ""))
        in_order = None if groups is None else groups[order]
        return [order[k] for k in drawn(len(order), self.config.most_clips, seed, in_order)]

    def _described_in(self, logmels: LogMels, number: int) -> Statistics:
        """What each view says of one of the clips to learn from."""
        return self.describe(self._heard(logmels.clips[number], torch.tensor(logmels.spectra[number])))

    def describe(self, logmel: torch.Tensor) -> Statistics:
        """What each view says of a clip.

        Parameters
        ----------
        logmel : Tensor, shape (n_frames, n_mels)
            Or the tokens of an encoder, (n_times, n_bands, size).

        Returns
        -------
        dict of str to Tensor of float32, shape (n_mels, size)
            By the name of the view.
        """
        return self._described(Heard(logmel))

    def _described(self, heard: Heard) -> Statistics:
        return {view.name: view.describe(heard).float().contiguous() for view in self.views}

    def learn(self, statistics: Statistics, groups: torch.Tensor | None = None) -> None:
        """Make the bank from what `describe` says of healthy clips.

        Parameters
        ----------
        statistics : dict of str to Tensor, each (n_clips, n_mels, size)
        groups : Tensor of int64, shape (n_clips,), optional
            Their domains, where there are several. A view's distance to a clip is measured by how far apart the clips
            of its domain are, so that the nearest is that in the domain where a new clip is least strange.
        """
        config, bands, weights = self.config, self._bands(), self._weights
        together = config.whitening and self.tokens is None
        how: dict[str, Any] = {"k": config.k, "folds": config.folds, "together": together}
        tensors: dict[str, torch.Tensor] = {}
        apart: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, values in statistics.items():
            relative = None
            if groups is not None:
                within, _ = left_out(values, bands, weights, groups=groups, **how)
                relative = tensors[f"{name}.relative"] = relative_distances(within, groups)
            overall, by_band = apart[name] = left_out(values, bands, weights, relative=relative, **how)
            tensors[f"{name}.statistics"] = values
            tensors[f"{name}.whitening"] = (
                learn_whitening(values, bands, together) if self.tokens is None else learn_scale(values, bands)
            )
            tensors[f"{name}.usual_overall"] = usual(overall)
            tensors[f"{name}.usual_by_band"] = usual(by_band)
            tensors[f"{name}.usual_joined"] = usual(self._joined(by_band, tensors[f"{name}.usual_by_band"]))
        self._take(tensors)
        overall, by_band = (torch.stack([both[which] for both in apart.values()]) for which in (0, 1))
        tensors["left_out_scores"] = self.fuse(self._strangeness(overall, by_band))

    # Judging ------------------------------------------------------------------------------------------

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """The views' distances in excess of the usual, brought together."""
        self._fitted()
        self._require_logmels()
        return number(self.fuse(self.view_scores(self.describe(logmel))))

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """`score_logmel`, or the same of the clip's tokens."""
        self._fitted()
        return number(self.fuse(self.view_scores(self.describe(self._heard(clip, logmel)))))

    def _heard(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """What `describe` is to describe of a clip."""
        return logmel if self.tokens is None else self._token_map(clip).tokens

    def _token_map(self, clip: Clip) -> TokenMap:
        assert self.tokens is not None
        return self.tokens.hear(clip, self.front_end.channel)

    def _require_logmels(self) -> None:
        if self.tokens is not None:
            raise AuscultError("bank with an encoder hears the waveform, not the log-mel", "judge the clip")

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """Leave-one-out: what the bank would say of its own clips, had it been made without them."""
        return np.array([self._score_left_out(clip) for clip in clips], dtype=np.float64)

    def _score_left_out(self, clip: Clip) -> float:
        tensors = self._fitted()
        with torch.inference_mode():
            described = self.describe(self._heard(clip, self.logmel(clip)))
            apart = [(tensors[f"{name}.statistics"] - own).abs().amax((1, 2)) for name, own in described.items()]
            furthest = torch.stack(apart).amax(0)
            if float(furthest.min()) > _SAME or not len(tensors["left_out_scores"]):
                return self.score_clip(clip)
            return float(tensors["left_out_scores"][furthest.argmin()])

    def view_scores(self, described: Statistics) -> torch.Tensor:
        """How strange each view finds the clip of these statistics, shape (n_views,)."""
        squares = torch.stack([self.memories[name].squared_distances(own) for name, own in described.items()])
        overall, by_band = nearest(squares, self._weights, self.config.k)
        return self._strangeness(overall[:, None], by_band[:, None])[:, 0]

    def fuse(self, strange: torch.Tensor) -> torch.Tensor:
        """From views, (n_views, ...), to scores, (...)."""
        if self.config.fusion == "max":
            return strange.amax(0)
        if self.config.fusion == "mean":
            return strange.mean(0)
        return strange.square().mean(0).sqrt()

    def _strangeness(self, overall: torch.Tensor, by_band: torch.Tensor) -> torch.Tensor:
        """The views' judgements of clips, (n_views, n), from distances, also (n_views, n, n_bands)."""
        parts = []
        if self.config.neighbours != "bands":
            parts.append(self._normalised(overall, self.usual["overall"]))
        if self.config.neighbours != "overall":
            joined = self._joined(by_band, self.usual["by_band"])
            parts.append(self._normalised(joined, self.usual["joined"]))
        return torch.stack(parts).mean(0)

    def _joined(self, by_band: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
        """Root mean square over bands of what is strange in each."""
        return (self._normalised(by_band, usual).square() @ self._weights).sqrt()

    def _normalised(self, distances: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
        """Distances by the usual mean and spread, of one view or of all, (2, ...); never negative."""
        if self.config.normalisation == "raw":
            return distances
        if self.config.normalisation == "ratio":
            return distances / usual[0]
        return softplus((distances - usual[0]) / usual[1])

    # Explaining ---------------------------------------------------------------------------------------

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Mean over the views of squared distances in multiples of the usual, at the frames that caused them."""
        self._fitted()
        self._require_logmels()
        return self._blamed(logmel)

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """`map_logmel`, or the same of the clip's tokens, each of which covers many bins."""
        self._fitted()
        if self.tokens is None:
            return self.map_logmel(logmel)
        heard = self._token_map(clip)
        return self.tokens.upon_logmel(self._blamed(heard.tokens), heard, len(logmel), self.front_end)

    def _blamed(self, values: torch.Tensor) -> torch.Tensor:
        """By frame and mel band, or by time and band of tokens."""
        heard = Heard(values)
        described = self._described(heard)
        maps = [blame_bins(heard, v, self.memories[v.name], described[v.name], self._usual(v)) for v in self.views]
        return torch.stack(maps).mean(0).T.float()

    def which_views(self, clip: Clip) -> tuple[Finding, ...]:
        """What each view finds strange about a clip, the strangest first.

        An `excess` is the largest over all bands: of a healthy clip, too, a few spreads.

        Raises
        ------
        AudioError
            If the clip cannot be judged.
        """
        self._fitted()
        edges, k = self._band_edges(), self.config.k
        with torch.inference_mode():
            described = self.describe(self._heard(clip, self.logmel(clip)))
            found = [finding(v, self.memories[v.name], described[v.name], self._usual(v), k, edges) for v in self.views]
        return tuple(sorted(found, key=lambda one: -one.excess))

    def findings(self, clip: Clip) -> tuple[str, ...]:
        """`which_views`, in words."""
        return tuple(str(finding) for finding in self.which_views(clip))

    def _usual(self, view: View) -> Usual:
        mean, spread = self._fitted()[f"{view.name}.usual_by_band"]
        return Usual(mean, spread, self._weights)

    def _band_edges(self) -> np.ndarray:
        """Lowest and highest frequency of each mel band, or band of tokens, in Hz, shape (n_rows, 2)."""
        centres = self.front_end.band_centres()
        return np.stack([centres, centres], 1) if self.tokens is None else self.tokens.band_edges

    @property
    def _n_rows(self) -> int:
        """Mel bands, or bands of tokens."""
        return self.front_end.n_mels if self.tokens is None else self.tokens.n_bands

    def _bands(self) -> torch.Tensor:
        return bands_of(self._n_rows, self.config.bands)

    def _require_bands(self, there: int, where: str) -> None:
        if self.config.band_weights is not None and self.config.bands > there:
            raise AuscultError(
                f"bank: {self.config.bands} bands are weighed, but {where} has {there}",
                "choose fewer bands, and as many band_weights",
            )

    @cached_property
    def _weights(self) -> torch.Tensor:
        """Of the bands, shape (n_bands,), sum 1."""
        n_bands = min(self._n_rows, self.config.bands)
        weights = torch.tensor(self.config.band_weights or (1.0,) * n_bands, dtype=torch.float64)
        return weights / weights.sum()

    # Keeping ------------------------------------------------------------------------------------------

    def depends_on(self) -> str:
        """The encoder, where there is one; see `Detector.depends_on`."""
        return "" if self.tokens is None else self.tokens.there()[0].sha256

    def make_ready(self) -> None:
        """Find the encoder, where there is one; see `Detector.make_ready`."""
        if self.tokens is not None and self.tensors is not None:
            _ = self.tokens.encoder

    def _fitted(self) -> dict[str, torch.Tensor]:
        require_fitted(self.tensors, self.name)
        assert self.tensors is not None
        return self.tensors

    def _take(self, tensors: dict[str, torch.Tensor]) -> None:
        bands = self._bands()
        self.tensors = tensors
        self.memories = {
            view.name: BandMemory(
                tensors[f"{view.name}.statistics"],
                tensors[f"{view.name}.whitening"],
                bands,
                tensors.get(f"{view.name}.relative"),
            )
            for view in self.views
        }
        # Of all views together: mean and spread, views, and one for the clips whose distances are measured by them.
        self.usual = {
            part: torch.stack([tensors[f"{view.name}.usual_{part}"] for view in self.views], 1)[:, :, None]
            for part in ("overall", "by_band", "joined")
        }

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The bank, what whitens it, and what is usual; which encoder it listens with."""
        return dict(self._fitted()), {} if self.tokens is None else {"encoder": self.tokens.facts}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over a bank.

        Raises
        ------
        AuscultError
            If the tensors are not a bank for these settings.
        """
        unfit = AuscultError("the model's tensors do not fit bank", "fit it again")
        if self.tokens is not None:
            try:
                self.tokens.remember(facts["encoder"])
            except (KeyError, TypeError) as error:
                raise unfit from error
        bands = self._bands()
        for view in self.views:
            per_row = view.size if self.tokens is None else self.tokens.width
            size = bands.shape[1] * per_row
            whitening = (len(bands), size, size) if self.tokens is None else (len(bands), size)
            if not is_bank(tensors, view.name, (self._n_rows, per_row), whitening):
                raise unfit
        self._take(dict(tensors))
