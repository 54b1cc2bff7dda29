"""`Columns`: columns of different families as one distribution."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import Columns

tfd = tfp.distributions

LOGITS = np.log(np.float32([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))


def columns(order=((3, 0), (1, 2))):
    """Real columns 3 and 0 (in this order), categorical 1 and 2; batch_shape [4]."""
    real = tfd.Normal([3.0, -3.0], [0.5, 0.1])
    return Columns([real, tfd.Categorical(LOGITS, dtype=tf.float32)], order)


class ColumnsTest(tf.test.TestCase):
    def test_every_column_has_the_density_of_its_own_part(self):
        x = tf.constant([[-3.1, 2.0, 0.0, 3.3]])
        want = [
            tfd.Normal(-3.0, 0.1).log_prob(-3.1),
            np.log(0.7),
            np.log(0.5),
            tfd.Normal(3.0, 0.5).log_prob(3.3),
        ]
        self.assertAllClose(columns().log_prob(x)[0], want, rtol=1e-5)

    def test_a_single_part_may_list_its_columns_in_any_order(self):
        part = tfd.Normal([0.0, 5.0, 9.0], 1.0)
        shuffled = Columns([part], [[2, 0, 1]])
        x = tf.constant([5.0, 9.0, 0.0])
        self.assertAllClose(shuffled.log_prob(x), tfd.Normal(x, 1.0).log_prob(x))
        self.assertAllClose(
            tf.reduce_mean(shuffled.sample(2000, seed=[0, 1]), 0), x, atol=0.15
        )
        self.assertAllEqual(shuffled.expected_features()[:, 0], x)

    def test_draws_stand_in_their_columns(self):
        draws = columns().sample(4000, seed=[0, 1]).numpy()
        self.assertEqual(draws.shape, (4000, 4))
        self.assertEqual(draws.dtype, np.float32)
        # Five standard errors of the means of 4000 draws: 6e-7 false alarms a number.
        self.assertAllClose(draws[:, 0].mean(), -3.0, atol=5 * 0.1 / 63)
        self.assertAllClose(draws[:, 3].mean(), 3.0, atol=5 * 0.5 / 63)
        for column, probs in ((1, [0.1, 0.2, 0.7]), (2, [0.5, 0.25, 0.25])):
            counts = np.bincount(draws[:, column].astype(int), minlength=3)
            error = np.sqrt(4000 * np.array(probs) * (1 - np.array(probs)))
            self.assertAllLessEqual(np.abs(counts - 4000 * np.array(probs)) - 5 * error, 0)

    def test_parts_draw_independently(self):
        # Both parts from one seed would copy noise from one to the other.
        part = tfd.Normal([0.0, 0.0], 1.0)
        draws = Columns([part, part], [[0, 1], [2, 3]]).sample(4000, seed=[0, 1])
        # Correlations of 4000 independent pairs: five standard errors of 1 / 63.
        off = np.corrcoef(draws.numpy().T) - np.eye(4)
        self.assertAllInRange(off, -5 / 63, 5 / 63)

    def test_shapes_are_known_with_and_without_a_batch(self):
        self.assertEqual(columns().batch_shape, (4,))
        self.assertEqual(columns().event_shape, ())
        batch = Columns([tfd.Normal(tf.zeros([5, 2, 1]), 1.0)] * 2, [[1], [0]])
        self.assertEqual(batch.batch_shape, (5, 2, 2))
        self.assertAllEqual(batch.batch_shape_tensor(), [5, 2, 2])
        self.assertEqual(batch.sample(3, seed=[0, 0]).shape, (3, 5, 2, 2))
        self.assertEqual(batch.log_prob(tf.zeros([3, 5, 2, 2])).shape, (3, 5, 2, 2))

    def test_expected_features_are_means_and_probabilities_side_by_side(self):
        expected = columns().expected_features()
        self.assertAllClose(
            expected,
            [[-3.0, 0.0, 0.0], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [3.0, 0.0, 0.0]],
        )

    def test_only_real_columns_are_reparameterised(self):
        self.assertEqual(columns().reparameterization_type, tfd.NOT_REPARAMETERIZED)
        real = Columns([tfd.Normal([0.0], 1.0)], [[0]])
        self.assertEqual(real.reparameterization_type, tfd.FULLY_REPARAMETERIZED)
