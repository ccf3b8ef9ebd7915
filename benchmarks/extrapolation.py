"""How far off an extrapolated false-alarm rate can be: the table in docs/extrapolation.md.

python benchmarks/extrapolation.py > table.md

For each law of scores and number of calibration clips, many draws of the clips; the true false-alarm rate of each
draw's threshold is computed from the law itself.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from auscult.calibration import Calibration

LAWS = {
    "gamma (what is assumed)": stats.gamma(6),
    "normal, far from 0": stats.norm(50, 4),
    "lognormal, mild tail": stats.lognorm(0.3),
    "lognormal, heavy tail": stats.lognorm(0.8),
    "Student t, 3 degrees of freedom": stats.t(3, loc=10),
}
DRAWS = 2000


def observed(law: stats.rv_frozen, n: int, rate: float, seed: int) -> np.ndarray:
    """True false-alarm rates of the thresholds that `DRAWS` sets of n calibration clips give, shape (DRAWS,)."""
    samples = law.rvs(size=(DRAWS, n), random_state=np.random.default_rng(seed))
    thresholds = [Calibration(scores, rate).threshold for scores in samples]
    return np.asarray(law.sf(np.array(thresholds, dtype=float)))


def main() -> None:
    """Print the table."""
    print("| scores follow | clips | rate asked | mean rate got | one draw in ten is above | worst of 2 000 |")
    print("|---|---|---|---|---|---|")
    for name, law in LAWS.items():
        for n, rate in ((5, 0.01), (20, 0.01), (20, 0.001), (50, 0.01), (50, 0.001), (200, 0.001)):
            got = observed(law, n, rate, seed=n)
            print(
                f"| {name} | {n} | {rate:.1%} | {got.mean():.2%} | {np.quantile(got, 0.9):.2%} | {got.max():.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
