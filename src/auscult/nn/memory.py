"""A memory of healthy clips: how far a clip's statistics lie from the nearest ones, in each band and overall.

Statistics of neighbouring mel bands go up and down together, by much or by little, from one healthy clip to the
next: the machine runs a little faster, the microphone stands elsewhere. Each band of the memory is whitened by what
distinguishes a healthy clip from its nearest healthy neighbour, so that such changes count for little and others
for much. Differences to the neighbour rather than to the mean: a memory may hold several machines.
"""

from __future__ import annotations

import torch

from auscult.nn.domains import usual_by_group

_PRIOR_CLIPS = 10
"""A statistic's spread over few clips is uncertain: it is averaged with that of the other bands, which count for as
much as so many clips. Ours."""

_LEAST_SCALE = 0.1
"""dB. A statistic that never varied counts in tenths of a dB, as healthy means do in the quietest of recordings."""

_LEAST_FOR_COVARIANCE = 4
"""Fewer differences say nothing about how statistics vary together."""

_RIDGE = 1e-3
"""Share of the mean variance added to every direction: bands that never moved would divide by nothing."""

_ROWS = 256


def bands_of(n_mels: int, n_bands: int) -> torch.Tensor:
    """Which mel bands belong to each band: as even as possible, all equally wide.

    Returns
    -------
    Tensor of int64, shape (n_bands, width)
        `n_bands` is at most `n_mels`. Neighbours overlap where `n_mels` is not a multiple of it.
    """
    n_bands = min(n_bands, n_mels)
    width = -(-n_mels // n_bands)
    starts = [round(i * (n_mels - width) / max(n_bands - 1, 1)) for i in range(n_bands)]
    return torch.tensor(starts)[:, None] + torch.arange(width)


class BandMemory:
    """Statistics of healthy clips, and what makes distances to them comparable.

    Parameters
    ----------
    statistics : Tensor of float32, shape (n_clips, n_mels, n_statistics)
    whitening : Tensor of float32, shape (n_bands, size, size) or (n_bands, size)
        From `learn_whitening`, or from `learn_scale`; size is width * n_statistics.
    bands : Tensor of int64, shape (n_bands, width)
    relative : Tensor, shape (n_clips,), optional
        From `relative_distances`: what distances to each clip are divided by.
    """

    def __init__(
        self,
        statistics: torch.Tensor,
        whitening: torch.Tensor,
        bands: torch.Tensor,
        relative: torch.Tensor | None = None,
    ) -> None:
        self.statistics, self.bands, self.relative = statistics, bands, relative
        # A sum of squares is then a mean: a band's distance does not grow with how much is known of it.
        self.whitening = whitening.double() / (bands.shape[1] * statistics.shape[2]) ** 0.5
        self.centre = statistics.double().mean(0)
        # As products with another clip's coordinates want them: (n_bands, size, n_clips).
        self.bank = self.whiten(statistics).mT.contiguous()
        self.lengths = self.bank.square().sum(1, keepdim=True)

    def whiten(self, statistics: torch.Tensor) -> torch.Tensor:
        """Whitened coordinates of clips, shape (n_bands, n_clips, size), float64."""
        return _whiten(statistics.double() - self.centre, self.whitening, self.bands)

    def squared_distances(self, statistics: torch.Tensor) -> torch.Tensor:
        """From a clip to each clip of the memory: mean square of what differs in each band, whitened.

        By a product of matrices, in one pass over the memory: (a - b)^2 = a^2 + b^2 - 2ab. In 64 bits, of which
        enough are left where a and b are nearly the same; what should be 0 may be a little less.

        Parameters
        ----------
        statistics : Tensor, shape (n_mels, n_statistics)

        Returns
        -------
        Tensor of float64, shape (n_bands, n_clips)
        """
        own = self.whiten(statistics[None])
        squares = torch.baddbmm(self.lengths, own, self.bank, alpha=-2)[:, 0] + own.square().sum(2)
        return squares if self.relative is None else squares / self.relative.square()

    def differences(self, statistics: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """From one clip of the memory in each band, their numbers (n_bands,), to a clip: (n_bands, size), whitened."""
        each_band = torch.arange(len(self.bands))
        differences = self.whiten(statistics[None])[:, 0] - self.bank[each_band, :, others]
        return differences if self.relative is None else differences / self.relative[others, None]


def nearest(
    squares: torch.Tensor, weights: torch.Tensor, k: int, barred: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the k nearest clips of a memory.

    Parameters
    ----------
    squares : Tensor, shape (..., n_bands, n_clips)
        Squared distances.
    weights : Tensor, shape (n_bands,)
        Of the bands in the overall distance; their sum is 1.
    k : int
        Neighbours averaged.
    barred : Tensor of bool, shape (..., n_clips), optional
        Clips that are nobody's neighbours here: infinitely far.

    Returns
    -------
    overall : Tensor, shape (...)
        To the clips nearest in all bands together.
    by_band : Tensor, shape (..., n_bands)
        To the clips nearest in each band, which need not be the same in two bands.
    """
    together = weights @ squares
    if barred is not None:
        together, squares = (
            together.masked_fill(barred, torch.inf),
            squares.masked_fill(barred[..., None, :], torch.inf),
        )
    return _mean_of_least(together, k), _mean_of_least(squares, k)


def _mean_of_least(squares: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of the roots of the k least along the last dimension."""
    if k == 1:
        return squares.amin(-1).clamp(min=0).sqrt()
    return squares.topk(min(k, squares.shape[-1]), largest=False).values.clamp(min=0).sqrt().mean(-1)


def learn_whitening(statistics: torch.Tensor, bands: torch.Tensor, together: bool = True) -> torch.Tensor:
    """What makes the healthy differences within each band of unit size, and alike in all directions.

    Parameters
    ----------
    statistics : Tensor, shape (n_clips, n_mels, n_statistics)
    bands : Tensor of int64, shape (n_bands, width)
    together : bool
        Whether by their covariance, or each statistic by itself.

    Returns
    -------
    Tensor of float32, shape (n_bands, size, size)
        Symmetric, so that whitened coordinates still belong to their mel band and statistic.
    """
    exact = statistics.double()
    matrices = _whitening(exact, bands, neighbour_pairs(exact), together)
    return matrices if matrices.dim() == 3 else torch.diag_embed(matrices)


def learn_scale(statistics: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """What makes the healthy differences of each statistic of unit size, each by itself.

    For statistics so many that a covariance is neither to be learnt from the clips there are nor to be kept.

    Parameters
    ----------
    statistics : Tensor, shape (n_clips, n_mels, n_statistics)
    bands : Tensor of int64, shape (n_bands, width)

    Returns
    -------
    Tensor of float32, shape (n_bands, size)
    """
    return _whitening(statistics.double(), bands, torch.zeros(0, 2, dtype=torch.int64), False)


def left_out(
    statistics: torch.Tensor,
    bands: torch.Tensor,
    weights: torch.Tensor,
    *,
    k: int,
    folds: int,
    together: bool = True,
    groups: torch.Tensor | None = None,
    relative: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `nearest` says of each clip of a memory that was made without it.

    The whitening is learnt without it, too: with few clips it would otherwise know them by heart, and find them
    nearer to one another than any new clip is to them. For this the clips are left out in groups, every `folds`th clip
    at once, or one by one if there are no more than that; but the nearest is looked for among all others, those of
    the group too, so that a clip and its only likeness are never both without the other. Neighbours are of the same of
    `groups`, (n_clips,), where these are given (infinitely far where there are not k), and distances to them are
    divided by `relative`, (n_clips,).

    Returns
    -------
    overall : Tensor of float64, shape (n_clips,)
    by_band : Tensor of float64, shape (n_clips, n_bands)
        Both empty if there is only one clip.
    """
    n = len(statistics)
    if n < 2:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, len(bands), dtype=torch.float64)
    exact = statistics.double() - statistics.double().mean(0)
    pairs = neighbour_pairs(exact)
    overall, by_band = torch.empty(n, dtype=torch.float64), torch.empty(n, len(bands), dtype=torch.float64)
    each, n_folds = torch.arange(n), min(n, folds)
    for out in range(n_folds):
        kept, mine = each % n_folds != out, each[out::n_folds]
        inside = pairs[kept[pairs].all(1)]
        whitening = _whitening(exact[kept], bands, _renumbered(inside, kept), together)
        every = _whiten(exact, whitening.double(), bands)
        squares = torch.cdist(every[:, mine], every).square().transpose(0, 1) / every.shape[2]
        barred = each == mine[:, None]
        if groups is not None:
            barred |= groups != groups[mine, None]
        if relative is not None:
            squares = squares / relative.square()
        overall[mine], by_band[mine] = nearest(squares, weights.double(), k, barred)
    return overall, by_band


def relative_distances(overall: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """How far apart the clips of each clip's group usually are, in multiples of what they are in the largest group.

    Parameters
    ----------
    overall : Tensor, shape (n_clips,)
        From `left_out` with these groups.
    groups : Tensor of int64, shape (n_clips,)

    Returns
    -------
    Tensor of float32, shape (n_clips,)
    """
    usual = usual_by_group(overall, torch.arange(len(groups))[:, None].expand(-1, 2), groups)
    return (usual / usual[groups.bincount().argmax()])[groups].float()


def neighbour_pairs(statistics: torch.Tensor) -> torch.Tensor:
    """Each clip and the one nearest to it, shape (n_clips, 2); none of a single clip."""
    n = len(statistics)
    if n < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    rows = ((statistics - statistics.mean(0)) / _scale(statistics)).reshape(n, -1)
    closest = []
    for first in range(0, n, _ROWS):
        distances = torch.cdist(rows[first : first + _ROWS], rows)
        here = torch.arange(len(distances))
        distances[here, first + here] = torch.inf
        closest.append(distances.argmin(1))
    return torch.stack([torch.arange(n), torch.cat(closest)], 1)


def _renumbered(pairs: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The same pairs by the numbers that the clips have among those kept."""
    return (kept.cumsum(0) - 1)[pairs]


def _scale(statistics: torch.Tensor) -> torch.Tensor:
    """Spread of each statistic over the clips, shape (n_mels, n_statistics); 1 dB if there is one clip."""
    n = len(statistics)
    if n < 2:
        return torch.ones_like(statistics[0])
    variance = statistics.var(0, correction=0)
    usual = variance.mean(0, keepdim=True)
    return ((n * variance + _PRIOR_CLIPS * usual) / (n + _PRIOR_CLIPS)).sqrt().clamp(min=_LEAST_SCALE)


def _whitening(statistics: torch.Tensor, bands: torch.Tensor, pairs: torch.Tensor, together: bool) -> torch.Tensor:
    """Matrices, (n_bands, size, size), or the diagonals of what are but diagonal ones, (n_bands, size); float32."""
    scale = _in_bands(_scale(statistics)[None], bands)[0]
    if not together or len(pairs) < _LEAST_FOR_COVARIANCE:
        return (1 / scale).float()
    apart = _in_bands(statistics[pairs[:, 0]] - statistics[pairs[:, 1]], bands) / scale / 2**0.5
    return (torch.diag_embed(1 / scale) @ _inverse_root(shrunk_covariance(apart))).float()


def shrunk_covariance(rows: torch.Tensor) -> torch.Tensor:
    """Second moments of rows, shrunk towards a multiple of the identity.

    Parameters
    ----------
    rows : Tensor of float64, shape (n_rows, n_bands, size)
        For each band by itself; taken to have mean 0.

    Returns
    -------
    Tensor of float64, shape (n_bands, size, size)

    References
    ----------
    Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, section 3.
    """
    n, _, size = rows.shape
    moments = torch.einsum("nbi,nbj->bij", rows, rows) / n
    level = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    target = level * torch.eye(size, dtype=rows.dtype)
    off_target = (moments - target).square().sum((1, 2))
    uncertain = (rows.square().sum(2).square().mean(0) - moments.square().sum((1, 2))) / n
    share = torch.where(off_target > 0, (uncertain / off_target.clamp(min=1e-300)).clamp(0, 1), 1.0)[:, None, None]
    return (1 - share) * moments + share * target


def _inverse_root(covariance: torch.Tensor) -> torch.Tensor:
    """C^(-1/2), symmetric; the identity where nothing ever moved, as with copies of one clip."""
    size = covariance.shape[-1]
    level = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    still = level < 1e-12
    identity = torch.eye(size, dtype=covariance.dtype)
    values, vectors = torch.linalg.eigh(torch.where(still, identity, covariance + _RIDGE * level * identity))
    root: torch.Tensor = (vectors / values.clamp(min=1e-12).sqrt()[:, None]) @ vectors.mT
    return root


def _in_bands(statistics: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Statistics of each band's mel bands in a row, shape (n_clips, n_bands, size)."""
    tiled = bands.numel() == statistics.shape[1]
    return statistics.reshape(len(statistics), len(bands), -1) if tiled else statistics[:, bands].flatten(2)


def _whiten(statistics: torch.Tensor, whitening: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Whitened coordinates, shape (n_bands, n_clips, size)."""
    rows = _in_bands(statistics, bands).transpose(0, 1)
    return rows * whitening[:, None] if whitening.dim() == 2 else rows @ whitening
