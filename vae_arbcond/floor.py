"""The floor: the best closed form of a table, which every other method should beat."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vae_arbcond.conditioners import GaussianMixtureConditioner
from vae_arbcond.data.pipeline import Dataset
from vae_arbcond.shapes import DataSpec

WIDE = 20  # real columns from which factor analysers are tried, too
COMPONENTS = (2, 4, 8, 16, 32, 48)  # of factor analysers
# The quick floor, which is fitted at each evaluation: fewer rows, components and folds.
QUICK_ROWS, QUICK_FOLDS = 2000, 2
QUICK_FULL, QUICK_FACTORS = (1, 2, 4, 8, 16), (4, 8, 16)
VERY_WIDE = 40  # real columns from which full covariances are left out of the quick floor


class Fitted(NamedTuple):
    """A closed form that was fitted.

    Attributes:
      label: 'full' covariances or 'factors'.
      conditioner: ready to answer.
      told: what its fit told.
      score: its best out-of-fold log score, nats of g a hidden cell.
      error: its out-of-fold mean square of completed real cells, in g; NaN without any.
    """

    label: str
    conditioner: GaussianMixtureConditioner
    told: dict
    score: float
    error: float


def candidates(spec: DataSpec, quick: bool = False) -> dict[str, GaussianMixtureConditioner]:
    """The closed forms that are tried on such a table, by label; not yet fitted.

    Args:
      spec: of the table.
      quick: True takes less time: seconds where the others take up to minutes.
    """
    discrete = spec.discrete
    real = spec.num_features - (0 if discrete is None else int(discrete.sum()))
    make = GaussianMixtureConditioner
    tried = {}
    if not quick:
        tried["full"] = make()
    elif real < VERY_WIDE:
        # Many covariances of many columns would take most of the time and rarely win.
        few = QUICK_FULL if real < WIDE else QUICK_FULL[:3]
        tried["full"] = make(few, folds=QUICK_FOLDS)
    if real >= WIDE:
        few, folds = (QUICK_FACTORS, QUICK_FOLDS) if quick else (COMPONENTS, 5)
        # Fits of half of the rows are too uncertain of many columns to join a bag.
        tried["factors"] = make(few, folds=folds, bag=not quick, num_factors=12, num_steps=20)
    return tried


def fit_candidates(
    x, present, spec: DataSpec, seed: int = 0, quick: bool = False
) -> list[Fitted]:
    """Fits every candidate.

    Args:
      x: [N, D]; anything where not present.
      present: bool [N, D].
      spec: of the table.
      seed: of the fits; folds and hidden cells are the same for all.
      quick: as for `candidates`.

    Raises:
      ValueError: the data are no table, or hold no value.
    """
    fits = []
    for label, conditioner in candidates(spec, quick).items():
        conditioner.create_variables(spec)
        told = conditioner.fit_rows(x, present, seed)
        scores = [value for name, value in told.items() if name.startswith("score_")]
        error = told.get("error", float("nan"))
        fits.append(Fitted(label, conditioner, told, max(scores, default=0.0), error))
    return fits


def best(fits: Sequence[Fitted]) -> Fitted:
    """The fit with the least out-of-fold error of completions; by log score without any.

    A floor is first of all a completion that is hard to beat. Factor analysers may have the
    better density and the worse completions: on breast_wdbc they do.
    """
    if any(np.isnan(fit.error) for fit in fits):
        return max(fits, key=lambda fit: fit.score)
    return min(fits, key=lambda fit: fit.error)


def fit_floor(train: Dataset, seed: int = 0) -> GaussianMixtureConditioner:
    """The quick candidate that is `best` out of fold.

    Args:
      train: training rows of a table; of more than `QUICK_ROWS` a random part is used.
      seed: of that part and of the fits.

    Raises:
      ValueError: as `fit_candidates`.
    """
    x, present = train.x, train.present
    if len(x) > QUICK_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(x))[:QUICK_ROWS]
        x, present = x[chosen], present[chosen]
    fits = fit_candidates(x, present, train.spec, seed, quick=True)
    return best(fits).conditioner
