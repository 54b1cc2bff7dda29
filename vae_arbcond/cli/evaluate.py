"""Evaluates a trained model on its test rows, beside mean/mode imputation and a closed form.

Example:

  arbcond-evaluate --model=runs/breast_cancer

The rows and the masks are those of the run's own configuration; change them with --gin_param,
such as --gin_param='BernoulliMask.observed_prob = 0.2'. The numbers are added to the run's
metrics.json.

On tables, closed forms are fitted to at most 2,000 of the same training rows and the best of
them is printed beside the model. That takes up to about 20 seconds; --nofloor leaves it out.
--baselines=mice,missforest adds these, fitted to the same rows and asked the same questions;
they are slow on wide tables.

--methods=a,b,c compares methods on the same stored questions instead, the run's own first:

  arbcond-evaluate --model=runs/pm --methods=QueryAdaptive,semi_amortised,runs/vaeac,mice

A method is another run of the same data, a class that needs nothing but the run's model (with
a gin scope where one class is compared in several settings), semi_amortised, closed_form, or
a classical imputer. Written to --output (RUN/comparison): queries.npz, comparison.json and
comparison.png. Questions that are there are asked again.
"""

import json
import os
import pathlib

from absl import flags

from vae_arbcond.cli import common

_MODEL = flags.DEFINE_string("model", None, "A run directory.", required=True)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "A binding such as 'evaluate.num_samples = 500'."
)
_FLOOR = flags.DEFINE_bool(
    "floor",
    True,
    "Fit closed forms to the training rows of a table and print the scores of the best one; "
    "--nofloor leaves that out, which saves up to about 20 seconds.",
)
_BASELINES = flags.DEFINE_list(
    "baselines", [], "Classical imputers to print, too: mice, missforest, marginals."
)
_METHODS = flags.DEFINE_list(
    "methods", [], "Methods to compare with the run's on the same stored questions."
)
_NUM_QUERIES = flags.DEFINE_integer(
    "num_queries", 100, "Questions of a comparison, where none are stored.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where a comparison goes; RUN/comparison by default."
)


def main(argv: list[str]) -> None:
    """Loads the run and its configuration, evaluates, prints."""
    del argv
    from vae_arbcond import baselines, config, evaluation, runs
    from vae_arbcond.conditioners import GaussianMixtureConditioner
    from vae_arbcond.floor import fit_floor

    run = runs.load_conditioner(_MODEL.value)
    if not run.config:
        raise runs.RunError(
            f"{run.path} has no {runs.CONFIG}: it was not trained by arbcond-train, so which "
            f"rows are for testing is not recorded. Call vae_arbcond.evaluate from Python."
        )
    config.load([os.path.abspath(run.path / runs.CONFIG)], _GIN_PARAM.value)
    asked = [name for name in _METHODS.value if name in baselines.NAMES]
    baselines.check_available([*_BASELINES.value, *asked], run.conditioner.spec)
    if _METHODS.value:
        _compare(run)
        return
    beside = baselines.named(_BASELINES.value)
    table = run.conditioner.feature_ndims == 1
    if _FLOOR.value and table and not isinstance(run.conditioner, GaussianMixtureConditioner):
        beside = {evaluation.CLOSED_FORM: fit_floor} | beside
    report = evaluation.evaluate(conditioner=run.conditioner, schema=run.schema, beside=beside)
    runs.Run(run.path).save_metrics({"evaluation": report.to_dict()})
    print(report)


def _compare(run) -> None:
    """Asks the run's method and others the same questions; prints and writes."""
    import tensorflow as tf

    from vae_arbcond import comparison, config, contestants, evaluation, files

    # Every method is compiled once, as it must; TensorFlow would warn of each.
    tf.get_logger().setLevel("ERROR")
    if _BASELINES.value:
        raise ValueError(
            "--methods compares on stored questions, --baselines on all test rows. Name the "
            "baselines in --methods, too: --methods="
            + ",".join([*_METHODS.value, *_BASELINES.value])
        )

    folder = pathlib.Path(_OUTPUT.value or run.path / "comparison")
    folder.mkdir(parents=True, exist_ok=True)
    data = config.value("evaluate.data")
    evaluation.check_data(data, run.schema)
    # First: a name that is not known must leave no questions behind.
    methods = {"model": run.conditioner} | contestants.named(_METHODS.value, run, data.train)
    stored = folder / "queries.npz"
    if stored.exists():
        queries = comparison.Queries.load(stored, data.test)
        print(f"{len(queries.rows)} questions from {stored}.")
    else:
        mask = config.value("evaluate.mask")
        queries = comparison.draw_queries(data.test, mask, _NUM_QUERIES.value)
        queries.save(stored)
    found = comparison.compare(methods, data, queries)
    files.write_text(
        folder / "comparison.json",
        json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n",
    )
    found.picture(folder / "comparison.png")
    print(found)
    print(f"Written to {folder}.")


def run() -> None:
    """Console script arbcond-evaluate."""
    common.start(main, "arbcond-evaluate")


if __name__ == "__main__":
    run()
