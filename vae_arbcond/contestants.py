"""Methods by name, to be compared: what `arbcond-evaluate --methods` knows.

A run directory, a baseline, a closed form, or a class that needs nothing but the run's model.
"""

import difflib
import inspect
import pathlib
from collections.abc import Sequence

import gin

from vae_arbcond import baselines, runs
from vae_arbcond.conditioners import (
    AmortisedStart,
    ArbitraryConditioner,
    LatentConditioner,
    QueryAdaptive,
)
from vae_arbcond.data.pipeline import Dataset
from vae_arbcond.floor import fit_floor
from vae_arbcond.variational import FirstOrder

CLOSED_FORM, SEMI_AMORTISED, FEW_STEPS = "closed_form", "semi_amortised", 30
# Classes that need nothing but a model; a researcher's own one is found by its name, too.
AROUND_A_MODEL = (
    "QueryAdaptive",
    "FeatureQueryAdaptive",
    "FillZeros",
    "PseudoGibbs",
    "MetropolisWithinGibbs",
    "HamiltonianMonteCarlo",
    "RejectionSampler",
    "GridPosterior",
)


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
                    f"{name} was trained on other data than {run.path}, or on other rows of "
                    f"them (make_splits.seed): their schemas differ, so the two cannot be "
                    f"asked the same questions."
                )
            made[name] = other.conditioner
        elif name in baselines.NAMES:
            made[name] = baselines.named([name])[name](train)
        elif name == CLOSED_FORM:
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
        raise ValueError(_no_such(name))
    if not issubclass(kind, LatentConditioner):
        raise ValueError(
            f"{name} has no decoder to be given: it is trained whole. Train it with "
            f"arbcond-train and name its run directory."
        )
    if not _has_model(conditioner):
        raise ValueError(
            f"{name} answers with the decoder of a latent-variable model, and the run's "
            f"{type(conditioner).__name__} has none. Compare it with run directories."
        )
    try:
        made = cls(model=conditioner.model)
    except TypeError as error:
        if "missing" not in str(error):
            raise ValueError(f"{name}: {str(error).splitlines()[0]}") from error
        raise ValueError(
            f"{name} needs more than a model ({str(error).splitlines()[0]}). Train it with "
            f"arbcond-train and name its run directory, or bind what it lacks by --gin_param."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be made around the run's model as the configuration has it: "
            f"{str(error).splitlines()[0]} Give it other settings in a scope of its own, "
            f"--methods=plain/{kind.__name__} with --gin_param='plain/{kind.__name__}.NAME = "
            f"VALUE' ({SEMI_AMORTISED} starts at what the run's method says of z)."
        ) from error
    of_model = {
        id(layer) for layer in [conditioner.model, *conditioner.model._flatten_layers()]
    }
    if any(id(x) not in of_model for x in made._flatten_layers(include_self=False)):
        raise ValueError(
            f"{name} has networks of its own, which would answer untrained. Train it with "
            f"arbcond-train and name its run directory."
        )
    made.build_for(conditioner.spec)
    made.adapt(train.x, train.present)
    return made


def _no_such(name) -> str:
    """What to say of a name that is nothing."""
    known = [CLOSED_FORM, SEMI_AMORTISED, *baselines.NAMES, *AROUND_A_MODEL]
    plain = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.split("/")[-1].lower(), plain, n=1)
    hint = f" Did you mean {plain[near[0]]}?" if near else ""
    if "/" in name and not near:
        hint = " It is no directory and so no run."
    there_are = f"There are {', '.join(known)}, and run directories."
    return f"There is no method {name!r}.{hint} {there_are}"
