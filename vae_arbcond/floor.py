"""The floor: the best closed form of a table, which every other method should beat."""

import numpy as np

from vae_arbcond.conditioners import GaussianMixtureConditioner
from vae_arbcond.conditioners.base import DensityConditioner
from vae_arbcond.data.pipeline import Dataset

MAX_ROWS = 5000  # rows the floor is fitted to; more would take minutes and change little


def candidates() -> list[DensityConditioner]:
    """The closed forms that are tried, not yet fitted."""
    return [GaussianMixtureConditioner()]


def fit_floor(train: Dataset, seed: int = 0) -> DensityConditioner:
    """Fits every candidate; returns the one with the best out-of-fold log score.

    Args:
      train: training rows of a table; of more than `MAX_ROWS` a random part is used.
      seed: of that part and of the fits.

    Raises:
      ValueError: the data are no table, or hold no value.
    """
    x, present = train.x, train.present
    if len(x) > MAX_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(x))[:MAX_ROWS]
        x, present = x[chosen], present[chosen]
    best, best_score = None, -np.inf
    for conditioner in candidates():
        conditioner.create_variables(train.spec)
        told = conditioner.fit_rows(x, present, seed)
        scores = [value for name, value in told.items() if name.startswith("score_")]
        score = max(scores, default=0.0)
        if best is None or score > best_score:
            best, best_score = conditioner, score
    return best
