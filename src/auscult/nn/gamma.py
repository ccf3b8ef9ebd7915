"""The gamma law of anomaly scores: fitted, and looked up far out in its tails without saturating."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FARTHEST = 500
"""Terms of the continued fraction at most; it is used only where it converges in a few dozen."""

_ALIKE = 1e-4
"""Scores whose spread is a smaller share of their size have no usable fit from 0: its equation cancels out."""

_NEGLIGIBLE = -30.0
"""Logarithm of a survival s for which -log(1 - s) is s in 64 bits."""


@dataclass(frozen=True)
class GammaLaw:
    """A gamma law that starts somewhere.

    Attributes
    ----------
    start : float
        Where it starts: 0 for scores that are all positive, as in the challenge's baselines and in Inoue et al., DCASE
        2020 workshop, equation 5; else, or where scores are so much alike that rounding would drown their spread, one
        standard deviation below the least. Ours.
    shape, scale : float
    """

    start: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> GammaLaw:
        """Fit by maximum likelihood.

        Parameters
        ----------
        scores : ndarray of float64, shape (n,)
            At least one; where all are alike the law is as narrow as rounding allows.
        """
        scores = np.asarray(scores, dtype=np.float64)
        least, spread = float(scores.min()), float(scores.std())
        if not spread > 1e-9 * abs(least):
            spread = max(abs(least), 1e-30) * 1e-6
            return cls(least - spread, 1.0, spread)
        from scipy import stats

        start = 0.0 if spread > _ALIKE * least > 0 else least - spread
        shape, _, scale = stats.gamma.fit(scores - start, floc=0)
        return cls(start, float(shape), float(scale))

    def exceeded_by(self, share: float) -> float:
        """The score that such a share of the law exceeds."""
        from scipy import stats

        return self.start + float(stats.gamma.isf(share, self.shape, scale=self.scale))

    def log_survival(self, scores: np.ndarray) -> np.ndarray:
        """Logarithm of the probability of a larger score; strictly falling, far beyond where that is 0 in 64 bits.

        Returns
        -------
        ndarray of float64, shape of `scores`
            Below the start, where the probability is 1, it goes on rising along a line of slope 1 / scale, so that no
            two scores tie. Ours.
        """
        from scipy import special

        x = (np.asarray(scores, dtype=np.float64) - self.start) / self.scale
        inside = np.maximum(x, 0)
        survival = special.gammaincc(self.shape, inside)
        near = -special.gammainc(self.shape, inside)
        with np.errstate(divide="ignore"):
            found = np.where(survival > 0.5, np.log1p(near), np.log(np.maximum(survival, 1e-300)))
        far = survival < 1e-250
        if far.any():
            found = np.where(far, self._tail(np.where(far, inside, self.shape + 1)), found)
        return np.asarray(found - np.minimum(x, 0))

    def _tail(self, x: np.ndarray) -> np.ndarray:
        """Logarithm of Q(shape, x), x far above the shape: continued fraction of the upper incomplete gamma function.

        References
        ----------
        Digital Library of Mathematical Functions, 8.9.2; evaluated from its far end.
        """
        from scipy import special

        a = self.shape
        fraction = np.zeros_like(x)
        for n in range(_FARTHEST, 0, -1):
            fraction = n * (n - a) / (x + 2 * n + 1 - a - fraction)
        return np.asarray(a * np.log(x) - x - special.gammaln(a) - np.log(x + 1 - a - fraction))

    def log_log_cdf(self, scores: np.ndarray) -> np.ndarray:
        """log(-log F) of the probability F of a smaller score; strictly falling, near 1 as near 0.

        Returns
        -------
        ndarray of float64, shape of `scores`
        """
        from scipy import special

        log_survival = self.log_survival(scores)
        x = np.maximum((np.asarray(scores, dtype=np.float64) - self.start) / self.scale, 1e-300)
        survival = np.exp(np.minimum(log_survival, 0.0))
        cdf = np.maximum(special.gammainc(self.shape, x), 1e-300)
        # Near 0 the law is its first term, x^a / Gamma(a + 1), which does not underflow as a logarithm.
        first = self.shape * np.log(x) - special.gammaln(self.shape + 1) - np.maximum(log_survival, 0.0)
        middle = np.where(survival < 0.5, np.log1p(-np.minimum(survival, 0.5)), np.log(cdf))
        log_cdf = np.where(cdf > 1e-250, middle, first)
        near_one = log_survival < _NEGLIGIBLE
        return np.asarray(np.where(near_one, log_survival, np.log(-np.where(near_one, -1.0, log_cdf))))
