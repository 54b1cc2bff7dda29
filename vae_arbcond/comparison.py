"""Several methods, the same stored questions: which one answers best, and at what cost?

`evaluate` scores one trained method on all test rows. Here methods are asked the same few
questions, which a file keeps, so that another day's method can be asked them, too. Slow
methods (a chain or an optimisation a question) can take part, and their cost is scored, too.
"""

import dataclasses
import inspect
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from vae_arbcond import baselines, evaluation, metrics, runs, scoring
from vae_arbcond.baselines import Baseline
from vae_arbcond.conditioners import (
    AmortisedStart,
    ArbitraryConditioner,
    DensityConditioner,
    LatentConditioner,
    QueryAdaptive,
)
from vae_arbcond.conditioners.likelihoods import DefaultLikelihood
from vae_arbcond.data.pipeline import Dataset, Splits
from vae_arbcond.files import write_atomically
from vae_arbcond.floor import fit_floor
from vae_arbcond.registry import PACKAGE
from vae_arbcond.scoring import ROWS_AT_ONCE
from vae_arbcond.variational import FirstOrder

SEMI_AMORTISED, FEW_STEPS = "semi_amortised", 30

# What a comparison prints, in this order, where a method has it: metric -> (head, better).
COLUMNS = {
    "log_likelihood_per_feature": ("log p / cell", "higher"),
    "log_likelihood_stderr": ("stderr", "lower"),
    "pareto_k_above_0.7": ("k > 0.7", "0"),
    "nrmse_mean": ("NRMSE", "lower"),
    "nrmse_min": ("NRMSE, oracle", "lower"),
    "pfc": ("PFC", "lower"),
    "rmse": ("RMSE", "lower"),
    "psnr_sample": ("PSNR", "higher"),
    "crps": ("CRPS", "lower"),
    "coverage_90": ("coverage 90", "0.90"),
    "diversity": ("diversity", "> 0"),
    "seconds_a_query": ("s / query", "lower"),
    "seconds_to_compile": ("s to compile", "lower"),
}


class Queries(NamedTuple):
    """Questions of one data set.

    Attributes:
      rows: int64 [N], numbers of the test rows.
      x: [N, *F, *E], in the model's units; anything where not present.
      present, observed: bool [N, *F].
    """

    rows: np.ndarray
    x: np.ndarray
    present: np.ndarray
    observed: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """What is asked: bool [N, *F]."""
        return self.present & ~self.observed

    def save(self, path) -> None:
        """Writes an .npz file."""

        def write(temporary):
            with open(temporary, "wb") as file:  # A name would get another ending.
                np.savez_compressed(file, **self._asdict())

        write_atomically(pathlib.Path(path), write)

    @classmethod
    def load(cls, path, test: Dataset) -> "Queries":
        """Reads questions that `save` wrote.

        Raises:
          ValueError: the file holds something else, or questions of other data than `test`.
        """
        with np.load(path, allow_pickle=False) as file:
            if set(file.files) != set(cls._fields):
                raise ValueError(
                    f"{path} does not hold queries: it has {', '.join(sorted(file.files))} "
                    f"instead of {', '.join(cls._fields)}. Name a file that an earlier "
                    f"comparison wrote, or a new one."
                )
            found = cls(**{name: file[name] for name in cls._fields})
        inside = len(found.rows) and found.rows.max() < len(test)
        if not inside or not np.array_equal(
            found.x[found.present], test.x[found.rows][found.present]
        ):
            raise ValueError(
                f"The queries in {path} are of other data: their values are not those of the "
                f"test rows of this run. Name a new file to draw queries for this run."
            )
        return found


def draw_queries(test: Dataset, mask, num_queries: int, seed: int = 0) -> Queries:
    """The first of the test rows that have something to ask, each with a mask.

    Args:
      test: test rows.
      mask: draws what is observed.
      num_queries: at most so many.
      seed: of the masks.

    Raises:
      ValueError: no row has anything to ask.
    """
    present = test.present
    drawn = mask(tf.constant(test.x), tf.constant(present), tf.constant([seed, 0], tf.int32))
    observed = drawn.numpy() & present
    asked = (present & ~observed).reshape(len(present), -1).any(1)
    rows = np.flatnonzero(asked)[:num_queries]
    if not len(rows):
        raise ValueError(
            f"There is nothing to ask: the mask {mask} hides no present value of the "
            f"{len(test)} test rows."
        )
    return Queries(rows, test.x[rows], present[rows], observed[rows])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
      scores: method -> metric -> value, in the order of the methods.
      conditions: how the numbers were made.
      estimators: method -> what its log-likelihoods are, where it has them.
    """

    scores: dict[str, dict[str, float]]
    conditions: dict
    estimators: dict[str, str]

    def to_dict(self) -> dict:
        """For a JSON file."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        shown = [m for m in COLUMNS if any(m in own for own in self.scores.values())]
        cells = [["", *(COLUMNS[m][0] for m in shown)], ["", *(COLUMNS[m][1] for m in shown)]]
        for name, own in self.scores.items():
            cells.append([name, *(f"{own[m]:.4g}" if m in own else "-" for m in shown)])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        made = ", ".join(f"{k} {v}" for k, v in self.conditions.items())
        note = (
            "NRMSE, oracle: of the best draw of each row, which only the truth can choose; it "
            "falls with the number of draws."
        )
        notes = [note] if "nrmse_min" in shown else []
        if self.estimators:
            told = "; ".join(f"{name}: {how}" for name, how in self.estimators.items())
            notes.append(f"log p / cell is estimated by: {told}.")
        return "\n".join([*lines, f"({made})", *notes])

    def picture(self, path) -> None:
        """Writes a PNG: a panel a metric, a bar a method, the error of log p as a line."""
        # Not at the top: a process that only prints needs no drawing.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        wanted = ("log_likelihood_per_feature", "nrmse_mean", "pfc", "rmse", "coverage_90")
        shown = [m for m in wanted if any(m in own for own in self.scores.values())]
        shown.append("seconds_a_query")
        names = list(self.scores)
        figure = Figure(figsize=(2.6 * len(shown) + 1.6, 0.32 * len(names) + 1.3), dpi=110)
        for i, metric in enumerate(shown):
            axis = figure.add_subplot(1, len(shown), i + 1)
            values = [self.scores[name].get(metric, np.nan) for name in names]
            error = None
            if metric == "log_likelihood_per_feature":
                error = [self.scores[n].get("log_likelihood_stderr", np.nan) for n in names]
            places = np.arange(len(names))[::-1]
            axis.errorbar(values, places, xerr=error, fmt="o", markersize=5, capsize=3)
            axis.set_yticks(places, names if i == 0 else [])
            axis.set_ylim(-0.6, len(names) - 0.4)
            head, better = COLUMNS[metric]
            axis.set_xlabel(f"{head} ({better})")
            if metric == "coverage_90":
                axis.axvline(0.9, color="0.6", linewidth=1)
            if metric == "seconds_a_query":
                axis.set_xscale("log")
            else:
                axis.locator_params(axis="x", nbins=4)
            axis.grid(axis="x", alpha=0.3)
        figure.tight_layout()
        write_atomically(
            pathlib.Path(path), lambda file: FigureCanvasAgg(figure).print_png(str(file))
        )


@gin.configurable(module=PACKAGE)
def compare(
    methods: Mapping[str, ArbitraryConditioner | Baseline],
    data: Splits,
    queries: Queries,
    num_samples: int = 100,
    seed: int = 0,
    likelihood=None,
) -> Comparison:
    """Asks every method the same questions.

    Times are those of the `num_samples` draws that are scored. The same is asked once before,
    which has to compile: what that takes more is reported apart.

    Args:
      methods: name -> method.
      data: of the run; the guess beside the methods comes from its training rows.
      queries: what is asked.
      num_samples: draws of each; 20 or more.
      seed: of the draws, the same for every method.
      likelihood: how log-likelihoods are estimated; None takes each method's own.

    Raises:
      ValueError: too few samples for intervals.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 20:
        raise ValueError(
            f"compare.num_samples must be a whole number, 20 or more for 90 % intervals; got "
            f"{num_samples!r}."
        )
    asked = dataclasses.replace(data.test, x=queries.x, present=queries.present)
    guess = evaluation.baseline_completion(data.train)
    scores = {
        name: _score(method, asked, queries, guess, num_samples, seed, likelihood)
        for name, method in methods.items()
    }
    conditions = {"queries": len(queries.rows), "samples": num_samples, "seed": seed}
    estimators = {
        name: method.estimator if likelihood is None else str(likelihood)
        for name, method in methods.items()
        if isinstance(method, DensityConditioner)
    }
    return Comparison(scores, conditions, estimators)


def _score(method, asked, queries, guess, num_samples, seed, likelihood):
    observed, scored = queries.observed, queries.scored
    first = _time(method, asked.x[:ROWS_AT_ONCE], observed[:ROWS_AT_ONCE], num_samples, seed)
    draws, means, completion, estimates, seconds = scoring.answers(
        method,
        asked.x,
        observed,
        scored,
        num_samples,
        likelihood or DefaultLikelihood(),
        seed,
    )
    around = observed.reshape(*observed.shape, *(1,) * (asked.x.ndim - observed.ndim))
    guess = np.where(around, asked.x, guess)
    if scored.ndim == 3:
        found, _ = scoring.of_images(asked, scored, draws, means, completion, guess)
        found.setdefault("diversity", float(draws.std(0)[scored].mean()))
    else:
        found, _ = scoring.of_tables(asked, scored, draws, completion, guess)
        real = np.asarray(asked.spec.levels or (0,) * asked.x.shape[1]) == 0
        cells = scored & real
        if cells.any():
            # As the user sees them, in standard deviations, as `nrmse_mean` is.
            truth, seen = asked.schema.linear(asked.x), asked.schema.linear(draws)
            scale = scoring.scales(truth, asked.present)
            cells &= scale > 0
            unit = np.where(scale > 0, scale, 1.0)
            found["diversity"] = float((seen.std(0) / unit)[cells].mean())
            found["nrmse_min"] = metrics.nrmse_min(truth, seen, cells, unit)
    if estimates is not None:
        found |= scoring.of_likelihoods(asked, scored, estimates)
    found["seconds_a_query"] = seconds / len(scored)
    again = seconds * min(len(scored), ROWS_AT_ONCE) / len(scored)
    found["seconds_to_compile"] = max(first - again, 0.0)
    return found


def _time(method, x, observed, num_samples, seed) -> float:
    started = time.perf_counter()
    if isinstance(method, Baseline):
        method.impute_and_complete(x, observed, num_samples, [seed, 7])
    else:
        method.impute(x, observed, num_samples, [seed, 7]).numpy()
    return time.perf_counter() - started


def named(names: Sequence[str], run: runs.LoadedRun, train: Dataset) -> dict:
    """Methods by name, to be compared with the method of a run.

    A name is a run directory (of the same data), one of `baselines.NAMES`, 'closed_form',
    'semi_amortised' (query-adaptive inference that starts at the run's own method), or a
    method that needs nothing but the run's model: its class, with a gin scope before it where
    one class is compared in several settings ('mixture/QueryAdaptive').

    Args:
      names: what to compare.
      run: whose model is asked.
      train: training rows, for baselines and closed forms.

    Raises:
      ValueError: an unknown name, or one that needs more than a model.
      RunError: a run of other data.
    """
    made = {}
    for name in names:
        if pathlib.Path(name).is_dir():
            other = runs.load_conditioner(name)
            if other.schema != run.schema:
                raise runs.RunError(
                    f"{name} was trained on other data than {run.path} (their schemas "
                    f"differ), so the two cannot be asked the same questions."
                )
            made[name] = other.conditioner
        elif name in baselines.NAMES:
            made[name] = baselines.named([name])[name](train)
        elif name == "closed_form":
            made[name] = fit_floor(train)
        elif name == SEMI_AMORTISED:
            made[name] = _semi_amortised(run.conditioner)
        else:
            made[name] = _around_model(name, run.conditioner, train)
    return made


def _has_model(conditioner) -> bool:
    """Whether there is a p(x | z) apart from the method: VAEAC's belongs to it."""
    return isinstance(conditioner, LatentConditioner) and conditioner.model is not None


def _semi_amortised(conditioner):
    """A few steps of query-adaptive inference from what the run's method says of z."""
    if not _has_model(conditioner):
        raise ValueError(
            f"{SEMI_AMORTISED} starts at a posterior of z, and the run's "
            f"{type(conditioner).__name__} has none."
        )
    made = QueryAdaptive(
        start=AmortisedStart(conditioner),
        # Of so few steps RMSProp's make most (benchmarks/results/query_adaptive_speed.md).
        minimizer=FirstOrder("rmsprop", num_steps=FEW_STEPS, check_every=FEW_STEPS // 3),
    )
    made.build_for(conditioner.spec)
    return made


def _around_model(name, conditioner, train):
    """The method of this class around a trained method's model."""
    try:
        cls = gin.get_configurable(name)
    except ValueError:
        cls = None
    kind = inspect.unwrap(cls) if cls is not None else None
    if not (inspect.isclass(kind) and issubclass(kind, ArbitraryConditioner)):
        raise ValueError(
            f"There is no method {name!r}. Name a run directory, closed_form, "
            f"{SEMI_AMORTISED}, one of "
            f"{', '.join(baselines.NAMES)}, or the class of a method that needs nothing but a "
            f"model, such as QueryAdaptive or FillZeros."
        )
    if not _has_model(conditioner):
        raise ValueError(
            f"{name} answers with the decoder of a latent-variable model, and the run's "
            f"{type(conditioner).__name__} has none. Compare it with run directories."
        )
    try:
        made = cls(model=conditioner.model)
    except TypeError as error:
        raise ValueError(
            f"{name} needs more than a model ({str(error).splitlines()[0]}). Train it with "
            f"arbcond-train and name its run directory, or bind what it lacks by --gin_param."
        ) from error
    made.build_for(conditioner.spec)
    made.adapt(train.x, train.present)
    return made
