"""Schedules of beta at steps worked out by hand."""

import numpy as np
import tensorflow as tf

from vae_arbcond.models import ConstantBeta, CyclicalBeta, MonotoneBeta


class ScheduleTest(tf.test.TestCase):
    def check(self, beta, values):
        for step, value in values.items():
            for dtype in (tf.int64, tf.int32):
                got = beta(tf.constant(step, dtype))
                self.assertEqual(got.dtype, tf.float32)
                self.assertAllClose(got, value, msg=f"step {step}")

    def test_a_constant_stays(self):
        self.check(ConstantBeta(), {0: 1.0, 10**7: 1.0})
        self.check(ConstantBeta(0.3), {5: 0.3})

    def test_a_cycle_rises_in_its_first_half_and_stays_in_its_second(self):
        # Delay 3, period 8: t' = (t - 3) mod 8 rises as t' / 4 up to t' = 4, then 1 to t' = 7.
        values = {
            0: 0,
            2: 0,
            3: 0,
            4: 0.25,
            5: 0.5,
            6: 0.75,
            7: 1,
            8: 1,
            10: 1,
            11: 0,
            12: 0.25,
        }
        self.check(CyclicalBeta(period=8, delay=3), values)

    def test_the_paper_s_tables_use_cycles_of_50_000_after_1_000_steps(self):
        values = {999: 0.0, 1_000: 0.0, 13_500: 0.5, 26_000: 1.0, 50_999: 1.0, 51_000: 0.0}
        self.check(CyclicalBeta(), values)

    def test_a_period_of_one_step_is_0(self):
        self.check(CyclicalBeta(period=1, delay=0), {0: 0.0, 1: 0.0, 17: 0.0})

    def test_a_monotone_schedule_rises_once_and_stays(self):
        values = {0: 0.0, 10: 0.0, 11: 0.25, 13: 0.75, 14: 1.0, 10**9: 1.0}
        self.check(MonotoneBeta(start=10, end=14), values)

    def test_the_paper_s_code_for_bsds_ends_at_0_85(self):
        # Up over 200,000 steps from step 30,000, in a training of 200,000.
        self.check(MonotoneBeta(start=30_000, end=230_000), {200_000: 0.85})

    def test_schedules_run_in_a_graph(self):
        beta = CyclicalBeta(period=8, delay=3)
        graph = tf.function(beta, input_signature=[tf.TensorSpec([], tf.int64)])
        self.assertAllClose([graph(t) for t in range(20)], [beta(t) for t in range(20)])
        self.assertAllInRange(np.array([graph(t) for t in range(20)]), 0.0, 1.0)

    def test_impossible_schedules_are_refused(self):
        with self.assertRaisesRegex(ValueError, "period >= 1 and delay >= 0 steps; got per"):
            CyclicalBeta(period=0)
        with self.assertRaisesRegex(ValueError, "delay -1"):
            CyclicalBeta(delay=-1)
        for start, end in ((5, 5), (-1, 5), (6, 5)):
            with self.assertRaisesRegex(ValueError, f"got start {start}, end {end}"):
                MonotoneBeta(start, end)
