"""Theorem 2 and Lemma 1 of conditional prior networks, by quadrature.

Wu, Domke and Sanner, 2018, https://arxiv.org/abs/1805.07785.
"""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.variational import (
    GaussianFamily,
    InverseAutoregressiveFamily,
    PlanarFamily,
)

tfd = tfp.distributions

START = tfd.MultivariateNormalDiag([[0.3, -0.2]], [[0.7, 0.5]])
FAMILIES = (
    GaussianFamily(full_covariance=True),
    PlanarFamily(2, start_scale=0.7),
    InverseAutoregressiveFamily(2, hidden=5),
)
EACH = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)


def log_joint(z):
    """log p(z, x) of one x, not normalised: two bent valleys. [..., 2] -> [...]."""
    bent = z[..., 1] - 0.5 * z[..., 0] ** 2
    return -0.5 * (z[..., 0] ** 2 - 1.0) ** 2 - bent**2 + 0.3 * tf.sin(2.0 * z[..., 1])


def parameters_of(family):
    """Parameters of one query that are no special case."""
    rng = np.random.default_rng(0)
    return tf.nest.map_structure(
        lambda p: p + rng.normal(0.0, 0.3, p.shape).astype(np.float32),
        family.start(START, tf.constant([1, 2])),
    )


def plane(reach=6.0, points=361):
    """Points z [N, 2], an even grid, and the area of a cell."""
    axis = np.linspace(-reach, reach, points, dtype=np.float32)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return z, float(axis[1] - axis[0]) ** 2


def log_q_on(family, z):
    """log q(z), from the inverse of the map: [N]."""
    q = family.distribution(parameters_of(family))
    return q.log_prob(z[:, np.newaxis])[:, 0].numpy().astype(np.float64)


def prior_network(family, noise):
    """Prior(eps) [N, 2] and log |its Jacobian| [N], which automatic differentiation finds."""
    parameters = parameters_of(family)
    noise = tf.constant(noise)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(noise)
        if isinstance(family, GaussianFamily):
            z = family.distribution(parameters)[0].bijector.forward(noise)
        else:
            z = family.forward(noise[tf.newaxis], parameters)[0][0]
        coordinates = tf.unstack(z, axis=-1)
    # A point's z depends on its own noise alone: sums over points have the rows' gradients.
    rows = [tape.gradient(coordinate, noise) for coordinate in coordinates]
    return z, np.linalg.slogdet(np.stack(rows, 1))[1]


@EACH
def test_the_c_elbo_is_an_expectation_over_the_noise(family):
    # Theorem 2: E_q(z)[log p(z, x) - log q(z)], an integral over z with q's density, is
    # E[log p(Prior(eps), x) + log |Jacobian|] + H[eps], one over eps without any density.
    z, area = plane()
    log_q = log_q_on(family, z)
    q = np.exp(log_q) * area
    assert abs(q.sum() - 1.0) < 1e-3
    over_z = np.sum(q * (log_joint(z).numpy() - log_q))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    noise = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer(weights, weights).ravel() / (2 * np.pi)
    at, log_det = prior_network(family, noise.astype(np.float32))
    entropy = 1.0 + np.log(2 * np.pi)  # of N(0, I) in two dimensions
    over_noise = np.sum(weights * (log_joint(at).numpy() + log_det)) + entropy
    # Two quadratures in float32 of integrands of some nats.
    np.testing.assert_allclose(over_noise, over_z, atol=5e-3)


@EACH
def test_the_divergence_over_the_query_is_at_most_that_over_z(family):
    # Lemma 1, for three binary query variables whose logits bend with z; sums over all y.
    z, area = plane()
    log_q = log_q_on(family, z)
    log_p = log_joint(z).numpy().astype(np.float64)
    p = np.exp(log_p) / np.exp(log_p).sum()
    q = np.exp(log_q) * area
    q /= q.sum()
    over_z = np.sum(q * (np.log(np.maximum(q, 1e-300)) - log_p + np.log(np.exp(log_p).sum())))
    divergences = []
    for sharpness in (0.0, 1.0, 8.0):
        logits = sharpness * np.stack([z[:, 0], z[:, 1] - z[:, 0], np.sin(2 * z[:, 1])], -1)
        on = scipy.special.expit(logits)
        over_y = 0.0
        for y in itertools.product((0, 1), repeat=3):
            given = np.prod(np.where(y, on, 1.0 - on), -1)
            over_y += (q @ given) * np.log((q @ given) / (p @ given))
        divergences.append(over_y)
    # A decoder deaf to z leaves nothing of the error in z; the sharper it is, the more.
    assert abs(divergences[0]) < 1e-9
    assert divergences[0] < divergences[1] < divergences[2] <= over_z
