"""Theorem 3.1 of Posterior Matching, summed out: both sides have the same gradient in theta.

https://arxiv.org/abs/2201.12414v4, Eq. 4: minimising E[KL(q(z | x) || q_theta(z | x_o))] over
x_u ~ p(x_u | x_o) is minimising E[-log p_theta(x_u | x_o) + KL(q(z | x) || q_theta(z | x))].
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import over_features
from vae_arbcond.models import LatentVariableModel
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions
CLASSES, FEATURES = 4, 3


class LatentClass(LatentVariableModel):
    """z one of four classes, three binary features independent given z; any encoder."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.probs = tf.constant(rng.uniform(0.1, 0.9, [CLASSES, FEATURES]), tf.float32)
        self.encoder = tf.constant(rng.normal(size=[2**FEATURES, CLASSES]), tf.float32)

    def prior(self):
        return tfd.Categorical(tf.zeros([CLASSES]))

    def posterior(self, x, present):
        place = tf.reduce_sum(tf.cast(x, tf.int32) * [4, 2, 1], -1)
        return tfd.Categorical(tf.gather(self.encoder, place))

    def likelihood(self, z):
        return tfd.Bernoulli(probs=tf.gather(self.probs, z), dtype=tf.float32)

    def elbo(self, x, present, seed, beta=1.0, posterior=None):
        return tf.zeros(tf.shape(x)[:1])


class CategoricalHead(keras.layers.Layer):
    def call(self, h):
        return tfd.Categorical(h)


def test_both_sides_have_the_same_gradient():
    model = LatentClass()
    method = PosteriorMatching(
        model, keras.layers.Dense(CLASSES), CategoricalHead(), closed_form=True
    )
    method.build_for(DataSpec((FEATURES,)))
    x = np.array(list(itertools.product([0, 1], repeat=FEATURES)), np.float32)
    joint = np.random.default_rng(1).dirichlet(np.ones(len(x)))  # p(x): any at all.
    largest = 0.0
    for seen in itertools.product([False, True], repeat=FEATURES):
        observed = np.broadcast_to(seen, x.shape)
        same = (x[:, None] == x) | ~np.array(seen)
        given = joint / (same.all(-1) @ joint)  # p(x_u | x_o) of every row.
        rows = len(x)
        with tf.GradientTape(persistent=True) as tape:
            full = model.posterior(x, observed)
            matching = method.matching_loss(full, x, observed, [0, 0])
            left = tf.reduce_sum(given * matching)

            partial = method.infer(x, observed, [0, 0]).posterior
            every_z = tf.repeat(tf.range(CLASSES)[:, None], rows, 1)
            likelihood = over_features(model.likelihood(every_z), tf.constant(~observed))
            log_joint = likelihood.log_prob(x) + tf.transpose(partial.logits_parameter())
            log_joint -= tf.reduce_logsumexp(partial.logits_parameter(), -1)
            log_p_hidden = tf.reduce_logsumexp(log_joint, 0)  # log p_theta(x_u | x_o)
            updated = tfd.Categorical(tf.transpose(log_joint))  # q_theta(z | x_o, x_u)
            right = tf.reduce_sum(given * (-log_p_hidden + tfd.kl_divergence(full, updated)))
        weights = method.partial_encoder.trainable_variables
        for a, b in zip(
            tape.gradient(left, weights), tape.gradient(right, weights), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-5)
            largest = max(largest, float(np.abs(a).max()))
    assert largest > 0.1  # Not equal because both are nothing.
