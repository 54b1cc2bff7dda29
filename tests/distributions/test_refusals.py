"""Heads refuse settings and data that they have no density for, in a sentence."""

import numpy as np
import pytest

from vae_arbcond.distributions import (
    AutoregressiveMixture,
    Bernoulli,
    Categorical,
    CholeskyGaussian,
    ContinuousBernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    FeatureScaleNormal,
    GaussianMixture,
    MixedColumns,
    Normal,
    PlanarFlow,
    StudentT,
)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, "small"])
@pytest.mark.parametrize(
    "head", [CholeskyGaussian, DiagonalGaussian, GaussianMixture, AutoregressiveMixture]
)
def test_a_degenerate_scale_of_z_is_refused(head, wrong):
    with pytest.raises(
        ValueError, match=rf"{head.__name__}\.min_scale must be a number above"
    ):
        head(2, min_scale=wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("head", [Normal, FeatureScaleNormal, StudentT, MixedColumns])
def test_a_degenerate_scale_of_x_is_refused(head, wrong):
    with pytest.raises(
        ValueError, match=rf"{head.__name__}\.min_scale must be a number above"
    ):
        head(min_scale=wrong)


def test_a_scale_above_a_column_s_own_is_refused():
    with pytest.raises(ValueError, match="below 1; got 2"):
        MixedColumns(min_scale=2.0)


@pytest.mark.parametrize("wrong", [0, -1, 3.0, "3", None])
@pytest.mark.parametrize("head", [CholeskyGaussian, DiagonalGaussian, PlanarFlow])
def test_a_size_that_is_none_is_refused(head, wrong):
    with pytest.raises(ValueError, match=rf"{head.__name__}\.event_size must be a whole"):
        head(wrong)


def test_a_forgotten_size_names_the_head_and_the_gin_line():
    with pytest.raises(TypeError, match=r"CholeskyGaussian: missing.*'event_size'.*gin file"):
        CholeskyGaussian()


@pytest.mark.parametrize(
    ("head", "values", "sentence"),
    [
        (Bernoulli(), [0.2, -1.3], "Bernoulli models values from 0 to 1, but .* hold -1.3"),
        (ContinuousBernoulli(), [0.2, 1.5], "hold 1.5. Use a Normal head"),
        (Categorical(17), [3.0, 0.5], "indices 0 to 16, but the training data hold 0.5"),
        (Categorical(3), [0.0, 3.0], "hold 3. Use DiscretizedLogistic"),
        (DiscretizedLogistic(256), [0.0, 1 / 16], "Give num_levels the number of values"),
        (DiscretizedLogistic(17), [0.0, 2.0], "hold 2. Give num_levels"),
    ],
)
def test_data_without_a_probability_are_refused(head, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        head.check_values(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("head", "values"),
    [
        (Bernoulli(), [0.0, 0.5, 1.0]),
        (Categorical(3), [0.0, 2.0]),
        (DiscretizedLogistic(17), np.arange(17) / 16),
        (DiscretizedLogistic(256), np.arange(256) / 255),
        (Normal(), [-5.0, 1e6]),
    ],
)
def test_data_that_fit_are_accepted(head, values):
    head.check_values(np.array(values, np.float32))
