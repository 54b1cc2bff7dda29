"""Optimiser factories: what they decay, and when."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond import networks, optimizers
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import (
    AutoregressiveMixture,
    CholeskyGaussian,
    MixedColumns,
    SharedScaleNormal,
)
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec


def test_the_rate_falls_by_a_factor_each_period_and_in_between():
    optimizer = optimizers.adam(learning_rate=1e-3, decay_rate=0.9, decay_steps=5000)
    for step, want in ((0, 1e-3), (2500, 1e-3 * 0.9**0.5), (200_000, 1e-3 * 0.9**40)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(want, rel=1e-5)


def test_weight_decay_is_decoupled_and_spares_biases_norms_and_scales():
    model = VAE(
        2,
        networks.residual_mlp(4, 1, layer_norm=True),
        CholeskyGaussian(2),
        networks.residual_mlp(4, 1),
        SharedScaleNormal(),
    )
    method = PosteriorMatching(
        model, networks.residual_mlp(4, 1), AutoregressiveMixture(2, 2, 4, 1)
    ).create_variables(DataSpec((3,)), 0)
    for variable in method.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = optimizers.adam(learning_rate=0.1, weight_decay=0.01)
    variables = method.trainable_variables
    optimizer.build(variables)
    # Without a gradient Adam moves nothing, so what moves is decay: times 1 - rate * decay.
    optimizer.apply([np.zeros(v.shape, np.float32) for v in variables], variables)
    for variable in variables:
        decays = variable.name == "kernel"
        np.testing.assert_allclose(variable, 1.0 - 0.001 * decays, rtol=1e-6)
    # The published code decays all that is not a vector; its biases are vectors.
    assert all(v.ndim > 1 for v in variables if v.name == "kernel")
    spared = {v.name for v in variables if v.name != "kernel"}
    assert spared == {"bias", "gamma", "beta", "raw_scale"}


def test_weight_decay_spares_thresholds_and_dispersions():
    head = MixedColumns()
    spec = DataSpec((3,), (), (3, 0, 0), (True, False, False), (0.0, 2.0, 0.0))
    head.build_for(spec)
    head(np.zeros([1, 4], np.float32))
    before = [v.numpy() for v in head.trainable_variables]
    optimizer = optimizers.adam(learning_rate=0.1, weight_decay=0.5)
    optimizer.build(head.trainable_variables)
    zeros = [np.zeros(v.shape, np.float32) for v in head.trainable_variables]
    optimizer.apply(zeros, head.trainable_variables)
    moved = {
        v.path.split("/")[-1]
        for v, old in zip(head.trainable_variables, before, strict=True)
        if np.abs(v.numpy() - old).max() > 0
    }
    assert moved == {"kernel"}


def stepped(cls, start, compiled):
    """A variable after six steps of an optimiser with everything that `adam` may set."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    variable = keras.Variable(start)
    optimizer = cls(rate, weight_decay=0.01, global_clipnorm=1.5)
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    run = tf.function(step) if compiled else step
    for gradient in np.random.default_rng(1).normal(size=(6, *start.shape)):
        run(tf.constant(gradient, tf.float32))
    return variable.numpy()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_fused_adam_takes_keras_adams_steps(compiled):
    start = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    want = stepped(keras.optimizers.Adam, start, compiled)
    got = stepped(optimizers.FusedAdam, start, compiled)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=5e-6)
    assert np.abs(want - start).max() > 0.1
