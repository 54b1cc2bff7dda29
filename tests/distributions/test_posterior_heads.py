"""Every posterior head, the same questions: is it a density, does it draw from it?

A new head joins with a line in HEADS.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from vae_arbcond import networks
from vae_arbcond.conditioners import PosteriorMatching, sampling
from vae_arbcond.distributions import (
    AutoregressiveMixture,
    CholeskyGaussian,
    Conditional,
    DiagonalGaussian,
    FeatureScaleNormal,
    GaussianMixture,
    InverseAutoregressiveFlow,
    MadeMixture,
    MaskedAutoregressiveFlow,
    Planar,
    PlanarFlow,
    conditional,
)
from vae_arbcond.models import VAE
from vae_arbcond.registry import dtype_policy
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions

HEADS = {
    "diagonal": lambda size: DiagonalGaussian(size),
    "cholesky": lambda size: CholeskyGaussian(size),
    "mixture": lambda size: GaussianMixture(size, 3),
    "cholesky mixture": lambda size: GaussianMixture(size, 3, full_covariance=True),
    "autoregressive": lambda size: AutoregressiveMixture(size, 3, hidden=16, blocks=1),
    "made": lambda size: MadeMixture(size, 3, hidden=16, blocks=1),
    "maf": lambda size: MaskedAutoregressiveFlow(size, 2, hidden=16),
    "iaf": lambda size: InverseAutoregressiveFlow(size, 2, hidden=16),
    "planar": lambda size: PlanarFlow(size, 3),
}
REPARAMETERIZED = {"diagonal", "cholesky", "maf", "iaf", "planar"}
CONTEXT = 4


def context(rows=5):
    # Not far out, so that no density is narrower than the grids below.
    return 0.5 * tf.random.stateless_normal([rows, CONTEXT], [0, 1])


def bent(head):
    """The head with weights that are not those of the start, where flows do nothing."""
    q = head(context())
    q.log_prob(q.sample(seed=[0, 0]))
    for i, weight in enumerate(head.trainable_variables):
        noise = tf.random.stateless_normal(weight.shape, [1, i])
        weight.assign_add(0.15 * noise)
    return head


@pytest.fixture(params=HEADS)
def name(request):
    return request.param


@pytest.mark.parametrize("size", [1, 2])
def test_the_density_integrates_to_1(name, size):
    q = bent(HEADS[name](size))(context(1))
    edges = np.linspace(-30, 30, 60_001 if size == 1 else 1_201)
    middles = (0.5 * (edges[1:] + edges[:-1])).astype(np.float32)
    axes = np.meshgrid(*[middles] * size, indexing="ij")
    z = np.stack([axis.ravel() for axis in axes], -1)
    total = 0.0
    for part in np.array_split(z, 8):
        total += float(np.exp(q.log_prob(part[:, np.newaxis]).numpy().astype(float)).sum())
    assert total * (edges[1] - edges[0]) ** size == pytest.approx(1.0, abs=2e-3)


def test_samples_fall_where_the_density_is(name):
    # The probability integral of a coordinate, from the density alone, against its draws.
    q = bent(HEADS[name](1))(context(1))
    edges = np.linspace(-30, 30, 60_001)
    middles = (0.5 * (edges[1:] + edges[:-1])).astype(np.float32)
    density = np.exp(q.log_prob(middles[:, np.newaxis, np.newaxis]).numpy()[:, 0])
    cdf = np.concatenate([[0.0], np.cumsum(density)])
    draws = q.sample(4000, seed=[3, 0]).numpy().ravel()
    # False alarms: 1e-6 a head.
    assert stats.kstest(np.interp(draws, edges, cdf / cdf[-1]), "uniform").pvalue > 1e-6


def test_coordinates_together_fall_where_the_density_is(name):
    # E[f(z)] under draws and under the density, for an f that sees how two coordinates meet.
    q = bent(HEADS[name](2))(context(1))
    middles = np.linspace(-15, 15, 601).astype(np.float32)
    z = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 1, 2)
    weights = np.exp(q.log_prob(z).numpy().astype(float)).ravel()
    weights /= weights.sum()
    draws = q.sample(8000, seed=[4, 0]).numpy()[:, 0]

    def features(z):
        a, b = z[..., 0], z[..., 1]
        return np.stack([np.tanh(a), np.tanh(b), np.tanh(a) * np.tanh(b), np.cos(a - b)], -1)

    exact = weights @ features(z[:, 0])
    drawn = features(draws)
    # Five standard errors and the grid's own error: 6e-7 false alarms a number.
    bound = 5 * drawn.std(0) / np.sqrt(len(drawn)) + 2e-3
    assert (np.abs(drawn.mean(0) - exact) < bound).all()


def test_densities_carry_gradients_to_every_weight(name):
    head = bent(HEADS[name](3))
    with tf.GradientTape() as tape:
        z = tf.random.stateless_normal([40, 5, 3], [5, 0])
        loss = -tf.reduce_mean(head(context()).log_prob(z))
    for weight, gradient in zip(
        head.trainable_variables, tape.gradient(loss, head.trainable_variables), strict=True
    ):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


def test_only_reparameterised_draws_carry_gradients(name):
    head = bent(HEADS[name](2))
    with tf.GradientTape() as tape:
        q = head(context())
        loss = tf.reduce_sum(q.sample(seed=[6, 0]) ** 2)
    gradients = [g for g in tape.gradient(loss, head.trainable_variables) if g is not None]
    kind = q.reparameterization_type
    assert (kind == tfd.FULLY_REPARAMETERIZED) == (name in REPARAMETERIZED)
    if name in REPARAMETERIZED:
        assert len(gradients) == len(head.trainable_variables)
    elif isinstance(q, Conditional):
        # A draw that involves a choice passes nothing on, rather than a biased part.
        assert not gradients


def test_a_graph_of_unknown_batch_size_gives_the_same(name):
    head = bent(HEADS[name](3))

    @tf.function(input_signature=[tf.TensorSpec([None, CONTEXT])])
    def both(h):
        q = head(h)
        z = q.sample(6, seed=[7, 0])
        return z, q.log_prob(z)

    q = head(context())
    z = q.sample(6, seed=[7, 0])
    for got, want in zip(both(context()), (z, q.log_prob(z)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert both(context(2))[0].shape == (6, 2, 3)


def test_a_row_can_be_taken_out(name):
    q = bent(HEADS[name](3))(context())
    z = tf.random.stateless_normal([6, 5, 3], [8, 0])
    np.testing.assert_allclose(
        q[3].log_prob(z[:, 3]), q.log_prob(z)[:, 3], rtol=1e-4, atol=1e-4
    )
    assert q[1:3].batch_shape == (2,)


def test_rows_with_seeds_of_their_own_do_not_depend_on_each_other(name):
    q = bent(HEADS[name](3))(context())
    seeds = tf.constant([[i, 9] for i in range(5)])
    z = sampling.sample(q, 4, seeds)
    assert z.shape == (4, 5, 3)
    again = sampling.sample(q[2:4], 4, seeds[2:4])
    np.testing.assert_allclose(again, z[:, 2:4], rtol=1e-4, atol=1e-4)
    draws = sampling.sample(q[:1], 4000, seeds[:1])[:, 0]
    error = draws.numpy().std(0) / np.sqrt(4000)
    want = q[:1].sample(4000, seed=[1, 1])[:, 0].numpy().mean(0)
    # The difference of two means: 6e-7 false alarms a number.
    assert (np.abs(draws.numpy().mean(0) - want) < 5 * np.sqrt(2) * error + 1e-6).all()


def test_half_precision_networks_give_float32_densities(name):
    with dtype_policy("mixed_bfloat16"):
        q = HEADS[name](2)(context())
        z = q.sample(3, seed=[0, 0])
        assert z.dtype == tf.float32 and q.log_prob(z).dtype == tf.float32


def conditioner(head):
    model = VAE(
        2,
        networks.mlp((8,)),
        CholeskyGaussian(2),
        networks.mlp((8,)),
        FeatureScaleNormal(),
    )
    return PosteriorMatching(model, networks.mlp((8,)), head)


@pytest.mark.parametrize("largest", [1, 200, 2**24])
def test_many_rows_are_taken_in_slices_that_change_nothing(name, largest, monkeypatch):
    head = bent(HEADS[name](2))
    q = head(context())
    z = tf.random.stateless_normal([7, 5, 2], [5, 1])
    log_prob, draws = q.log_prob(z), q.sample(7, seed=[6, 1])
    monkeypatch.setattr(conditional, "LARGEST_LAYER", largest)
    np.testing.assert_allclose(q.log_prob(z), log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q.sample(7, seed=[6, 1]), draws, rtol=1e-4, atol=1e-5)
    unknown = tf.function(q.log_prob, input_signature=[tf.TensorSpec([None, 5, 2])])
    np.testing.assert_allclose(unknown(z), log_prob, rtol=1e-4, atol=1e-5)


def test_a_method_in_half_precision_comes_back_from_its_file(tmp_path):
    with dtype_policy("mixed_bfloat16"):
        method = conditioner(MadeMixture(2, 3, hidden=16, blocks=1))
    method.create_variables(DataSpec((3,)))
    x = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    observed = np.random.default_rng(1).random([4, 3]) < 0.5
    want = method.log_likelihood(x, observed, ~observed, 30, [0, 1]).value
    method.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert keras.config.dtype_policy().name == "float32"
    got = loaded.log_likelihood(x, observed, ~observed, 30, [0, 1]).value
    np.testing.assert_array_equal(got, want)


def test_a_method_trains_in_half_precision():
    with dtype_policy("mixed_bfloat16"):
        method = conditioner(MadeMixture(2, 3, hidden=16, blocks=1))
        method.create_variables(DataSpec((3,)))
    assert all(v.dtype == "float32" for v in method.trainable_variables)
    x = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    observed = np.random.default_rng(1).random([4, 3]) < 0.5
    terms = method(x, observed | True, observed, seed=[0, 1], step=tf.constant(0))
    assert all(np.isfinite(term).all() and term.dtype == tf.float32 for term in terms.values())
    estimate = method.log_likelihood(x, observed, ~observed, 20, [0, 1])
    assert np.isfinite(estimate.value).all()


# Half a minute of tracing each: a Gaussian, a mixture and a flow every day, the others slowly.
EVERY_DAY = ("diagonal", "made", "maf")


@pytest.mark.parametrize(
    "head",
    [pytest.param(n, marks=() if n in EVERY_DAY else pytest.mark.slow) for n in HEADS],
)
def test_it_is_kept_by_a_keras_file_and_by_an_export(head, tmp_path):
    method = conditioner(HEADS[head](2)).create_variables(DataSpec((3,)), seed=1)
    x = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    observed = np.random.default_rng(1).random([4, 3]) < 0.5
    want = method.log_likelihood(x, observed, ~observed, 20, [0, 1]).value
    draws = method.impute(x, observed, 5, [0, 1])
    assert np.isfinite(want).all() and np.isfinite(draws).all()

    method.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.impute(x, observed, 5, [0, 1]), draws)

    rows = tf.TensorSpec([None, 3])
    seen = tf.TensorSpec([None, 3], tf.bool)

    @tf.function(input_signature=[rows, seen], autograph=False)
    def answer(x, observed):
        return {
            "draws": method.impute(x, observed, 5, [0, 1]),
            "value": method.log_likelihood(x, observed, ~observed, 20, [0, 1]).value,
        }

    module = tf.Module()
    module.method, module.answer = method, answer
    tf.saved_model.save(module, str(tmp_path / "export"), signatures=answer)
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    got = served(x=tf.constant(x), observed=tf.constant(observed))
    np.testing.assert_allclose(got["draws"], draws, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["value"], want, rtol=1e-4, atol=1e-4)


def test_a_head_that_does_not_fit_z_is_refused(name):
    with pytest.raises(ValueError, match=r"event_size \[3\].*size \[2\]"):
        conditioner(HEADS[name](3)).create_variables(DataSpec((3,)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AutoregressiveMixture(0), "whole number, 1 or more"),
        (lambda: MadeMixture(2, components=0), "whole number, 1 or more"),
        (lambda: MadeMixture(2, min_scale=0.0), "above 0"),
        (lambda: GaussianMixture(2, 0), "whole number, 1 or more"),
        (lambda: MaskedAutoregressiveFlow(2, 0), "whole number, 1 or more"),
        (lambda: PlanarFlow(0), "whole number, 1 or more"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_wild_network_outputs_give_no_nan(name, value):
    q = HEADS[name](2)(tf.fill([3, CONTEXT], value))
    z = q.sample(5, seed=[0, 0])
    assert not np.isnan(z).any()
    assert not np.isnan(q.log_prob(tf.zeros([3, 2]))).any()


# ---- what is special about some ------------------------------------------------------------


def test_the_stacked_density_is_the_product_of_its_conditionals():
    # D.5's product, coordinate by coordinate, by what sampling uses: another way through.
    for head in (AutoregressiveMixture(4, 3, 16, 2), MadeMixture(4, 3, 16, 2)):
        bent(head)
        h, z = context(), tf.random.stateless_normal([5, 4], [1, 1])
        total = 0.0
        for i in range(4):
            before = z * tf.cast(tf.range(4) < i, tf.float32)
            params = head.params_of(i, before, head.prepare(h))
            logits, loc, scale = head.components_of(params)
            mixture = tfd.MixtureSameFamily(tfd.Categorical(logits), tfd.Normal(loc, scale))
            total += mixture.log_prob(z[:, i])
        np.testing.assert_allclose(head(h).log_prob(z), total, rtol=1e-5, atol=1e-5)


def test_made_sees_the_coordinates_before_and_nothing_else():
    made = networks.Made(4, 2, hidden=13, blocks=2)
    z, h = tf.random.stateless_normal([3, 4], [1, 2]), context(3)
    made(z, h)
    for i, weight in enumerate(made.trainable_variables):
        weight.assign(tf.random.stateless_normal(weight.shape, [2, i]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, h])
        out = made(z, h)
    jacobian = tape.batch_jacobian(out, z).numpy()  # [N, D, outputs, D]
    sees = np.abs(jacobian).max((0, 2)) > 0
    np.testing.assert_array_equal(sees, np.tril(np.ones([4, 4], bool), -1))
    assert (np.abs(tape.batch_jacobian(out, h).numpy()).max((0, 2)) > 0).all()


class PlanarTest(tf.test.TestCase):
    def planar(self, scale=1.0):
        draws = [tf.random.stateless_normal([6, 3], [i, 0]) * scale for i in range(2)]
        return Planar(*draws, tf.random.stateless_normal([6], [2, 0]))

    def test_it_is_inverted(self):
        planar, z = self.planar(), tf.random.stateless_normal([6, 3], [3, 0])
        self.assertAllClose(planar.inverse(planar.forward(z)), z, atol=1e-4)

    def test_its_log_determinant_is_that_of_its_jacobian(self):
        planar, z = self.planar(), tf.random.stateless_normal([6, 3], [3, 0])
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = planar.forward(z)
        want = tf.linalg.slogdet(tape.batch_jacobian(y, z)).log_abs_determinant
        got = planar.forward_log_det_jacobian(z, event_ndims=1)
        self.assertAllClose(got, want, rtol=1e-4, atol=1e-4)

    def test_the_map_is_invertible_whatever_the_parameters(self):
        for scale in (1e-8, 1.0, 3.0, 10.0, 1e3):
            w, u = (scale * tf.random.stateless_normal([20_000, 4], [i, 1]) for i in range(2))
            flow = Planar(w, u, tf.zeros([20_000]))
            at_0 = flow.forward_log_det_jacobian(tf.zeros([20_000, 4]), event_ndims=1)
            self.assertTrue(np.isfinite(at_0).all())

    def test_the_inverse_has_the_gradient_of_an_inverse(self):
        z = tf.random.stateless_normal([6, 3], [3, 0])
        y = self.planar().forward(z)
        w, u = (tf.random.stateless_normal([6, 3], [i, 0]) for i in range(2))
        b = tf.random.stateless_normal([6], [2, 0])[:, tf.newaxis]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([y, w, u, b])
            back = Planar(w, u, b[:, 0]).inverse(y)
        with tf.GradientTape(persistent=True) as straight:
            straight.watch([z, w, u, b])
            there = Planar(w, u, b[:, 0]).forward(z)
        # d inverse / d y is the inverse of d forward / d z; and where y stays, z moves by
        # minus that times what the parameter moves y by.
        inverse = tf.linalg.inv(straight.batch_jacobian(there, z))
        self.assertAllClose(tape.batch_jacobian(back, y), inverse, rtol=1e-3, atol=1e-3)
        for parameter in (w, u, b):
            want = -tf.matmul(inverse, straight.batch_jacobian(there, parameter))
            got = tape.batch_jacobian(back, parameter)
            self.assertAllClose(got, want, rtol=1e-3, atol=2e-3)
