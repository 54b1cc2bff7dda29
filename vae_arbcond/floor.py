"""The floor: the best closed form of a table, which every other method should beat."""

from typing import NamedTuple

import numpy as np

from vae_arbcond.conditioners import GaussianMixtureConditioner
from vae_arbcond.data.pipeline import Dataset
from vae_arbcond.shapes import DataSpec

MAX_ROWS = 5000  # rows the floor is fitted to; more would take minutes and change little
WIDE = 20  # real columns from which factor analysers are tried, too
COMPONENTS = (2, 4, 8, 16, 32)  # of factor analysers


class Fitted(NamedTuple):
    """A closed form that was fitted.

    Attributes:
      label: 'full' covariances or 'factors'.
      conditioner: ready to answer.
      told: what its fit told.
      score: its best out-of-fold log score, nats of g a hidden cell.
    """

    label: str
    conditioner: GaussianMixtureConditioner
    told: dict
    score: float


def candidates(spec: DataSpec) -> dict[str, GaussianMixtureConditioner]:
    """The closed forms that are tried on such a table, by label; not yet fitted."""
    tried = {"full": GaussianMixtureConditioner()}
    discrete = spec.discrete
    real = spec.num_features - (0 if discrete is None else int(discrete.sum()))
    if real >= WIDE:
        tried["factors"] = GaussianMixtureConditioner(COMPONENTS, num_factors=12, num_steps=20)
    return tried


def fit_candidates(x, present, spec: DataSpec, seed: int = 0) -> list[Fitted]:
    """Fits every candidate.

    Args:
      x: [N, D]; anything where not present.
      present: bool [N, D].
      spec: of the table.
      seed: of the fits; folds and hidden cells are the same for all.

    Raises:
      ValueError: the data are no table, or hold no value.
    """
    fits = []
    for label, conditioner in candidates(spec).items():
        conditioner.create_variables(spec)
        told = conditioner.fit_rows(x, present, seed)
        scores = [value for name, value in told.items() if name.startswith("score_")]
        fits.append(Fitted(label, conditioner, told, max(scores, default=0.0)))
    return fits


def fit_floor(train: Dataset, seed: int = 0) -> GaussianMixtureConditioner:
    """The candidate with the best out-of-fold log score.

    Args:
      train: training rows of a table; of more than `MAX_ROWS` a random part is used.
      seed: of that part and of the fits.

    Raises:
      ValueError: as `fit_candidates`.
    """
    x, present = train.x, train.present
    if len(x) > MAX_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(x))[:MAX_ROWS]
        x, present = x[chosen], present[chosen]
    fits = fit_candidates(x, present, train.spec, seed)
    return max(fits, key=lambda fit: fit.score).conditioner
