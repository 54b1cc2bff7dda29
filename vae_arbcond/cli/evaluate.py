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
"""

import os

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
    beside = baselines.named(_BASELINES.value)
    table = run.conditioner.feature_ndims == 1
    if _FLOOR.value and table and not isinstance(run.conditioner, GaussianMixtureConditioner):
        beside = {evaluation.CLOSED_FORM: fit_floor} | beside
    report = evaluation.evaluate(conditioner=run.conditioner, schema=run.schema, beside=beside)
    runs.Run(run.path).save_metrics({"evaluation": report.to_dict()})
    print(report)


def run() -> None:
    """Console script arbcond-evaluate."""
    common.start(main, "arbcond-evaluate")


if __name__ == "__main__":
    run()
