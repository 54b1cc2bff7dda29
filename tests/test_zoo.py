"""Entries of the zoo load, answer, and score what their card says."""

import pytest

import vae_arbcond
from vae_arbcond import config, evaluation, runs, zoo


def test_the_package_offers_the_zoo():
    assert vae_arbcond.zoo is zoo
    assert zoo.names()


@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_scores_what_it_says(name):
    run = zoo.load(name)
    saved = run.metrics["evaluation"]
    config.load([str((run.path / runs.CONFIG).resolve())])
    report = evaluation.evaluate(conditioner=run.conditioner)
    for metric, value in saved["scores"].items():
        # Other processors round differently, and a level can flip: each of the about 60
        # hidden species moves the PFC by 0.006.
        assert report.scores[metric] == pytest.approx(value, rel=0.02, abs=0.03), metric
    card = (run.path / "README.md").read_text()
    assert f"{saved['scores']['nrmse_mean']:.3f}" in card


def test_an_unknown_entry_lists_the_known_ones():
    with pytest.raises(ValueError, match="pm-iris"):
        zoo.load("pm-rose")
