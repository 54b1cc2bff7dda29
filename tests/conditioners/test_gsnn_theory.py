"""VAEAC's arguments in numbers: how a GSNN collapses (C.1), and why targets help (B.2).

K modes x_1 .. x_K, equally likely, a categorical z with K equally likely values and one vector
of parameters v_j for each: p(x | z = j) = f(x, v_j).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, special, stats

from vae_arbcond import optimizers
from vae_arbcond.conditioners import VAEAC
from vae_arbcond.distributions import MixedColumns
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import SkipMlpDecoder, SkipMlpEncoder

FAMILIES = ("Gaussian", "Bernoulli")
MODES = {
    "Gaussian": np.array([[-2.0, 1.0], [3.0, 0.0], [0.5, -4.0]]),
    "Bernoulli": np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]]),
}


def log_f(family, v):
    """log f(x_i, v_j): [K, K]. v [K, D]: means of unit Normals, or logits of Bernoullis."""
    x = MODES[family][:, np.newaxis]
    if family == "Gaussian":
        return stats.norm.logpdf(x, v, 1.0).sum(-1)
    return (x * v - np.logaddexp(0.0, v)).sum(-1)


def with_the_best_q(family, v, alpha):
    """The hybrid objective at the best q: VAEAC, Eq. 20.

    q(z = j | x_i) = f(x_i, v_j) / sum_k f(x_i, v_k). From Eq. 19 term by term:
    sum_j q_j log(f_j / K q_j), and the mean of log f over the prior.
    """
    log_p = log_f(family, v)
    q = special.softmax(log_p, axis=1)
    bound = np.sum(q * (log_p - np.log(3.0) - np.log(q)), 1)
    return np.mean(alpha * bound + (1 - alpha) * log_p.mean(1))


def simplified(family, v, alpha):
    """alpha log sum_j f(x_i, v_j) + (1 - alpha) sum_j log f(x_i, v_j) / K: VAEAC, Eq. 21.

    Summed over i, but for constants.
    """
    log_p = log_f(family, v)
    return np.sum(alpha * special.logsumexp(log_p, axis=1) + (1 - alpha) * log_p.mean(1))


def best(family, alpha):
    """v at the best local optimum from 8 starts: means of f, [K, D]."""
    shape, rng = MODES[family].shape, np.random.default_rng(0)

    def loss(flat):
        # Logits of the best Bernoullis are infinite where alpha = 1: a box ends the search.
        return -simplified(family, flat.reshape(shape), alpha)

    bounds = [(-12.0, 12.0)] * int(np.prod(shape))
    starts = rng.normal(size=[8, int(np.prod(shape))])
    found = [optimize.minimize(loss, s, method="L-BFGS-B", bounds=bounds) for s in starts]
    v = min(found, key=lambda result: result.fun).x.reshape(shape)
    return v if family == "Gaussian" else special.expit(v)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_eq_20_is_eq_21_but_for_constants(family, alpha):
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=[2, *MODES[family].shape])
    by_20 = [with_the_best_q(family, v, alpha) for v in (first, second)]
    by_21 = [simplified(family, v, alpha) / 3.0 for v in (first, second)]
    np.testing.assert_allclose(np.diff(by_20), np.diff(by_21), rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_bound_every_z_gives_the_average_of_the_modes(family):
    # Tolerance: L-BFGS stops at a relative change of 2e-9 of the objective.
    average = np.broadcast_to(MODES[family].mean(0), MODES[family].shape)
    np.testing.assert_allclose(best(family, 0.0), average, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_bound_alone_every_mode_has_a_z_of_its_own(family):
    modes = MODES[family]
    nearest = np.abs(best(family, 1.0)[:, np.newaxis] - modes).sum(-1)
    assert sorted(nearest.argmin(1)) == [0, 1, 2]
    # Unit Normals at these modes still overlap a little, which draws the means together.
    assert nearest.min(1).max() < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_the_bound_s_weight_the_nearer_the_average(family):
    average = MODES[family].mean(0)
    spread = [np.abs(best(family, alpha) - average).sum() for alpha in (1.0, 0.9, 0.5, 0.1)]
    assert np.all(np.diff(spread) < 0.0)


class WithTargetTest(tf.test.TestCase):
    """VAEAC, B.2: x1 = 1, x2 ~ N(y, 1), y 0 or 5. Is an imputed x2 on y's side of 2.5?

    From p(x2 | x1), without y, it is for half of the rows, whatever y is; from p(x2 | x1, y)
    for Phi(2.5) = 0.9938 of them.
    """

    mean, scale = 2.5, np.sqrt(1.0 + 2.5**2)  # of x2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        keras.utils.set_random_seed(0)
        method = VAEAC(
            2,
            SkipMlpEncoder(32, 2),
            SkipMlpEncoder(32, 2),
            SkipMlpDecoder(32, 2),
            MixedColumns(network_scale=True),
        )
        method.create_variables(DataSpec((3,), levels=(0, 0, 2)), 0)
        steps, mask = 1500, BernoulliMask(0.25)
        method.optimizer = optimizers.adam_cosine(steps, 3e-3)
        method.optimizer.build(method.variables_to_train())

        @tf.function
        def train():
            for i in tf.range(steps):
                x = cls.rows(128, tf.stack([5, i]))
                present = tf.ones([128, 3], tf.bool)
                method.train_step((x, present, mask(x, present, tf.stack([6, i]))))

        train()
        cls.method = method

    @classmethod
    def rows(cls, count, seed):
        """[count, 3]: x1, x2 in standard deviations, y as a level."""
        y = tf.cast(tf.random.stateless_uniform([count], seed) < 0.5, tf.float32)
        x2 = 5.0 * y + tf.random.stateless_normal([count], seed + 100)
        return tf.stack([tf.ones([count]), (x2 - cls.mean) / cls.scale, y], 1)

    def consistent(self, observed, x, y=None):
        """Share of imputed x2 on the side of y, by default of the imputed one."""
        observed = np.tile(observed, [len(x), 1])
        draws = self.method.impute(x, observed, 1, [0, 1])[0].numpy()
        return np.mean((draws[:, 1] > 0.0) == (draws[:, 2] if y is None else y).astype(bool))

    def test_the_closed_form_without_the_target_is_right_for_half_of_the_rows(self):
        on_side = 0.5 * (stats.norm.cdf(2.5, 0, 1) + stats.norm.cdf(2.5, 5, 1))
        self.assertAllClose(on_side, 0.5)

    def test_given_the_target_draws_are_on_its_side(self):
        x = self.rows(2000, tf.constant([8, 9])).numpy()
        share = self.consistent([True, False, True], x, x[:, 2])
        # 0.002 of chance; the rest is for what training leaves.
        self.assertAllClose(share, stats.norm.cdf(2.5), atol=0.02)

    def test_an_unobserved_target_is_imputed_together_with_what_fits_it(self):
        x = self.rows(2000, tf.constant([8, 9])).numpy()
        # 0.9938 is the truth, 0.5 what two draws that know nothing of each other give; the
        # latent modes of a short training leave some draws between the clusters.
        self.assertGreater(self.consistent([True, False, False], x), 0.8)

    def test_without_the_target_half_of_the_draws_are_on_the_wrong_side(self):
        x = self.rows(2000, tf.constant([8, 9])).numpy()
        share = self.consistent([True, False, False], x, x[:, 2])
        # Four standard errors of a coin over 2,000 rows, and what training leaves.
        self.assertAllClose(share, 0.5, atol=0.045 + 0.03)
