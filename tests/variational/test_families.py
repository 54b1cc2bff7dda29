"""Families of q(z): densities, starts, and gradients compared with quadrature.

The truth of a gradient is that of E_q[f] computed with a product Gauss-Hermite rule for the
noise, which knows no sampling error; f is smooth and not quadratic.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.variational import (
    GaussianFamily,
    InverseAutoregressiveFamily,
    MixtureFamily,
    NetworkFamily,
    PlanarFamily,
)
from vae_arbcond.variational.families import MixtureParameters, bound_of_draws

tfd = tfp.distributions

QUERIES = 2
START = tfd.MultivariateNormalDiag([[0.3, -0.2], [-0.5, 0.4]], [[0.7, 0.4], [0.5, 0.9]])
FAMILIES = (
    GaussianFamily(),
    GaussianFamily(full_covariance=True),
    MixtureFamily(3),
    MixtureFamily(3, estimator="importance"),
    PlanarFamily(2, start_scale=0.7),
    InverseAutoregressiveFamily(2, hidden=5),
)
WITH_DENSITY = pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda f: f"{type(f).__name__}{getattr(f, 'estimator', '')}"
)


def log_target(z):
    """Two valleys, bent: [..., 2] -> [...]."""
    bent = z[..., 1] - 0.5 * z[..., 0] ** 2
    return -0.5 * (z[..., 0] ** 2 - 1.0) ** 2 - bent**2 + 0.3 * tf.sin(2.0 * z[..., 1])


def parameters_of(family):
    """Parameters that are no special case: the start's, each entry moved a little."""
    start = family.start(START, tf.constant([1, 2]))
    rng = np.random.default_rng(0)
    return tf.nest.map_structure(
        lambda p: p + rng.normal(0.0, 0.3, p.shape).astype(np.float32), start
    )


def grid(order=40):
    """Nodes [N, 2] and weights [N] of a product rule for a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    pairs = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    products = np.outer(weights, weights).ravel() / (2 * np.pi)
    return pairs.astype(np.float32), products.astype(np.float32)


def exact_bound(family, parameters):
    """E_q[log_target - log q] by quadrature: [B], differentiable."""
    nodes, weights = grid()
    if isinstance(family, MixtureFamily):
        scale = family.min_scale + tf.nn.softplus(parameters.raw)
        # [N, B, T, 2]: nodes of every component.
        z = parameters.loc + scale * nodes[:, np.newaxis, np.newaxis]
        flat = tf.reshape(tf.transpose(z, [0, 2, 1, 3]), [-1, QUERIES, 2])
        values = log_target(flat) - family.log_density(flat, parameters)
        values = tf.reshape(values, [len(nodes), -1, QUERIES])
        shares = tf.transpose(tf.nn.softmax(parameters.logits))  # [T, B]
        return tf.einsum("n,tb,ntb->b", weights, shares, values)
    if isinstance(family, GaussianFamily):
        q = family.distribution(parameters)
        z = tf.stack([q.bijector.forward(tf.tile(n[np.newaxis], [QUERIES, 1])) for n in nodes])
        return tf.einsum("n,nb->b", weights, log_target(z) - q.log_prob(z))
    z, log_det = family.forward(tf.constant(nodes[np.newaxis]), parameters)
    log_q = -0.5 * tf.reduce_sum(nodes**2, -1) - np.log(2 * np.pi) - log_det
    return tf.einsum("n,bn->b", weights, log_target(z) - log_q)


def estimated_gradients(family, parameters, exact, repeats=400):
    """Gradients of the estimated bound for many seeds: nest of [R, B, ...]."""

    @tf.function
    def one(seed):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            draws = family.draw(parameters, 12, seed, exact)
            values = log_target(draws.z) - draws.log_q
            surrogate = bound_of_draws(draws, values)[1]
        return tf.nest.flatten(tape.gradient(surrogate, parameters))

    seeds = tf.stack([tf.range(repeats), tf.range(repeats) + 7], -1)
    signature = [tf.TensorSpec(p.shape) for p in tf.nest.flatten(parameters)]
    return tf.map_fn(one, seeds, fn_output_signature=signature)


@WITH_DENSITY
@pytest.mark.parametrize("exact", [False, True])
def test_gradients_agree_with_quadrature(family, exact):
    parameters = parameters_of(family)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        bound = exact_bound(family, parameters)
    truths = tf.nest.flatten(tape.gradient(bound, parameters))
    checked = 0
    for truth, samples in zip(
        truths, estimated_gradients(family, parameters, exact), strict=True
    ):
        if truth is None:
            continue
        mean = samples.numpy().astype(np.float64).mean(0)
        stderr = samples.numpy().std(0) / np.sqrt(len(samples))
        # Some 100 entries in all tests together; beyond 4.5 stderr lies 7e-6 of a normal. The
        # last term is what float32 and the rule's 40 nodes leave.
        assert (np.abs(mean - truth) <= 4.5 * stderr + 2e-3).all(), (mean, truth, stderr)
        checked += truth.shape.num_elements()
    assert checked >= 8


def test_a_biased_estimator_of_the_weights_would_be_noticed():
    # What the published code does: the ratio multiplies z, not the integrand.
    family = MixtureFamily(3, estimator="importance")
    parameters = parameters_of(family)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        bound = exact_bound(family, parameters)
    truth = tape.gradient(bound, parameters).logits

    @tf.function
    def published(seed):
        with tf.GradientTape() as tape:
            tape.watch(parameters.logits)
            draws = family.draw(parameters, 12, seed)
            z = draws.z * draws.share[..., tf.newaxis] * 12.0
            value = tf.reduce_mean(log_target(z) - draws.log_q, 0)
        return tape.gradient(value, parameters.logits)

    seeds = tf.stack([tf.range(400), tf.range(400) + 7], -1)
    samples = tf.map_fn(published, seeds, fn_output_signature=tf.TensorSpec(truth.shape))
    stderr = samples.numpy().std(0) / np.sqrt(400)
    assert (np.abs(samples.numpy().mean(0) - truth) > 4.5 * stderr + 2e-3).any()


def test_a_biased_estimator_of_the_means_would_be_noticed():
    # What the published code does: earlier coordinates, from which a later one's components
    # follow, are detached. Reparameterised by hand, with and without that.
    family = MixtureFamily(3, estimator="importance")
    parameters = parameters_of(family)
    logits, loc, raw = parameters
    scale = family.min_scale + tf.nn.softplus(raw)
    with tf.GradientTape() as tape:
        tape.watch(loc)
        bound = exact_bound(family, MixtureParameters(logits, loc, raw))
    truth = tape.gradient(bound, loc)
    normal = tfd.Normal(0.0, 1.0)

    @tf.function
    def gradient(seed, detached):
        fixed = family.distribution(parameters).sample(2000, seed=seed)
        with tf.GradientTape() as tape:
            tape.watch(loc)
            moved, log_share = [], tf.nn.log_softmax(logits) + tf.zeros([2000, 1, 1])
            for i in range(2):
                share = tf.nn.softmax(log_share)
                unit = (fixed[..., i, tf.newaxis] - loc[..., i]) / scale[..., i]
                cdf = tf.reduce_sum(share * normal.cdf(unit), -1)
                density = tf.reduce_sum(share * normal.prob(unit) / scale[..., i], -1)
                change = (cdf - tf.stop_gradient(cdf)) / tf.stop_gradient(density)
                moved.append(fixed[..., i] - change)
                earlier = fixed[..., i] if detached else moved[-1]
                unit = (earlier[..., tf.newaxis] - loc[..., i]) / scale[..., i]
                log_share += normal.log_prob(unit) - tf.math.log(scale[..., i])
            z = tf.stack(moved, -1)
            value = tf.reduce_mean(log_target(z) - family.log_density(z, parameters_fixed), 0)
        return tape.gradient(value, loc)

    parameters_fixed = MixtureParameters(*map(tf.identity, parameters))
    wrong = {}
    for detached in (False, True):
        samples = np.stack([gradient(tf.constant([i, 7]), detached) for i in range(40)])
        stderr = samples.std(0) / np.sqrt(40)
        wrong[detached] = (np.abs(samples.mean(0) - truth) > 4.5 * stderr + 2e-3).any()
    assert wrong == {False: False, True: True}


@WITH_DENSITY
def test_the_density_of_a_draw_is_the_distribution_s(family):
    parameters = parameters_of(family)
    draws = family.draw(parameters, 6, tf.constant([3, 4]))
    q = family.distribution(parameters)
    # Inverting a flow costs float32 some digits.
    np.testing.assert_allclose(q.log_prob(draws.z), draws.log_q, rtol=1e-3, atol=1e-3)
    alone = q[1]
    np.testing.assert_allclose(
        alone.log_prob(draws.z[:, 1]), draws.log_q[:, 1], rtol=1e-3, atol=1e-3
    )
    assert alone.sample(4, seed=[1, 2]).shape == (4, 2)


@WITH_DENSITY
def test_densities_integrate_to_1(family):
    q = family.distribution(parameters_of(family))
    axis = np.linspace(-7.0, 7.0, 281, dtype=np.float32)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    mass = tf.reduce_sum(tf.exp(q.log_prob(np.repeat(z, QUERIES, 1))), 0)
    # A flow's tail may leave the square.
    np.testing.assert_allclose(mass * (axis[1] - axis[0]) ** 2, 1.0, atol=5e-3)


@WITH_DENSITY
def test_draws_of_the_distribution_have_its_density(family):
    q = family.distribution(parameters_of(family))
    z = q.sample(4000, seed=[5, 6])
    assert z.shape == (4000, QUERIES, 2)
    # E_q[p / q] = 1 for any density p; p is narrow inside q's support.
    p = tfd.MultivariateNormalDiag(tf.reduce_mean(z, 0), 0.3 * tf.math.reduce_std(z, 0))
    ratio = tf.exp(p.log_prob(z) - q.log_prob(z)).numpy()
    stderr = ratio.std(0) / np.sqrt(4000)
    # Two queries, six families: 4.5 standard errors, 8e-5 false alarms in all.
    assert (np.abs(ratio.mean(0) - 1.0) <= 4.5 * stderr).all()


@pytest.mark.parametrize("family", FAMILIES[:2], ids=["diagonal", "full"])
def test_a_gaussian_starts_as_the_start(family):
    q = family.distribution(family.start(START, tf.constant([1, 2])))
    np.testing.assert_allclose(q.mean(), START.mean(), atol=1e-5)
    # The full covariance gets a thousandth of ridge.
    np.testing.assert_allclose(q.stddev(), START.stddev(), rtol=3e-3)


STARTERS = pytest.mark.parametrize(
    "family",
    [*FAMILIES[:2], PlanarFamily(), InverseAutoregressiveFamily()],
    ids=["diagonal", "full", "planar", "iaf"],
)


@STARTERS
def test_a_family_of_a_gaussian_starts_at_it(family):
    # Mixtures are drawn apart on purpose. 4,000 draws: .011 is a deviation's standard error, a
    # ridge of a thousandth and 16 maps of small random slopes give KL .013.
    start = tfd.MultivariateNormalDiag(tf.zeros([1, 6]))
    q = family.distribution(family.start(start, tf.constant([1, 2])))
    z = q.sample(4000, seed=[3, 4])
    np.testing.assert_allclose(tf.math.reduce_std(z, 0), 1.0, atol=0.08)
    kl = tf.reduce_mean(q.log_prob(z) - start.log_prob(z), 0)
    np.testing.assert_allclose(kl, 0.0, atol=0.05)


def test_a_start_without_moments_is_measured_by_draws():
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical([[0.0, 0.0]]),
        tfd.Independent(tfd.Normal([[[1.0, 0.0], [1.0, 2.0]]], 0.5), 1),
    )
    for family in FAMILIES:
        q = family.distribution(family.start(mixture, tf.constant([1, 2])))
        mean = tf.reduce_mean(q.sample(500, seed=[1, 2]), 0)[0]
        # From a few draws; PlanarFamily begins bent.
        np.testing.assert_allclose(mean, [1.0, 1.0], atol=1.0)


@WITH_DENSITY
@pytest.mark.parametrize("moments_known", [True, False])
def test_equal_rows_of_a_start_give_equal_parameters(family, moments_known):
    start = tfd.MultivariateNormalDiag(tf.zeros([3, 2]), [0.5, 1.0])
    if not moments_known:
        flow = InverseAutoregressiveFamily(1, 4)
        start = flow.distribution(flow.start(start, tf.constant([1, 2])))
    for part in family.start(start, tf.constant([3, 4])):
        np.testing.assert_allclose(part, tf.broadcast_to(part[:1], part.shape), atol=1e-5)


def test_components_of_little_weight_begin_anew_and_others_stay():
    family = MixtureFamily(3, threshold=0.05)
    old = MixtureParameters(
        tf.constant([[0.0, 0.0, -9.0], [0.0, 0.0, 0.0]]),
        tf.zeros([2, 3, 2]),
        tf.zeros([2, 3, 2]),
    )
    fresh = MixtureParameters(tf.ones([2, 3]), tf.ones([2, 3, 2]), tf.ones([2, 3, 2]))
    new, again = family.refresh(old, fresh, tf.constant(20))
    np.testing.assert_array_equal(again, [True, False])
    np.testing.assert_array_equal(new.loc[0, :, 0], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(new.logits, np.zeros([2, 3]))
    kept, again = family.refresh(old, fresh, tf.constant(101))
    assert not again.numpy().any() and (kept.loc.numpy() == 0.0).all()


def test_what_families_cannot_be_is_said():
    with pytest.raises(ValueError, match="'stratified' or 'importance', got 'best'"):
        MixtureFamily(3, estimator="best")
    with pytest.raises(ValueError, match=r"below 1 / components = 0.333"):
        MixtureFamily(3, threshold=0.5)
    with pytest.raises(NotImplementedError, match="no density"):
        NetworkFamily().distribution(None)
    wide = tfd.MultivariateNormalDiag(tf.zeros([1, 3]))
    with pytest.raises(ValueError, match="latents of size 2"):
        NetworkFamily().start(wide, tf.constant([0, 1]))


def test_a_network_s_determinant_is_that_of_its_jacobian():
    family = NetworkFamily(hidden=6)
    parameters = parameters_of(family)
    noise = tf.constant(np.random.default_rng(1).normal(size=[QUERIES, 1, 2]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z, log_det = family._forward(noise, parameters)
    jacobian = tape.batch_jacobian(z, noise)[:, 0, :, 0]
    want = np.log(np.abs(np.linalg.det(jacobian.numpy())))
    np.testing.assert_allclose(log_det[:, 0], want, rtol=1e-3, atol=1e-4)
