"""Hamiltonian Monte Carlo over z, as Wu, Domke and Sanner, 2018, compare with.

https://arxiv.org/abs/1805.07785, Sec. 4.2 and 7.3.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.monte_carlo.base import (
    Chains,
    MonteCarlo,
    split_seed,
)
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_counts, check_positive, check_sizes


@register
class HamiltonianMonteCarlo(MonteCarlo):
    """Hamiltonian Monte Carlo over z alone, with x_u integrated out in closed form.

    Every chain has momentum of its own; every query has a step size of its own, adapted in the
    first four fifths of the burn-in by dual averaging over its chains. Look at `r_hat` and
    `acceptance` of `sample_posterior`: with 10 or more numbers in z, and posteriors with
    several modes, chains mix badly.

    Args:
      model, num_chains, num_draws, correct_likelihood, train_model: as for `MonteCarlo`.
      num_burn_in: steps before the first draw.
      num_leapfrog_steps: of each step.
      vary_length: each step takes a number of leapfrog steps of its own, from half of
        `num_leapfrog_steps` to one and a half of it: chains of one length may come round to
        where they were. False takes that number always, as papers do.
      step_size: of the leapfrog, at the start where it is adapted.
      adapt_step_size: False keeps `step_size`.
      target_acceptance: what adaptation aims at.
      num_steps_between: steps between draws, which are left out.
    """

    def __init__(
        self,
        model,
        num_chains: int = 4,
        num_draws: int = 100,
        num_burn_in: int = 200,
        num_leapfrog_steps: int = 10,
        vary_length: bool = True,
        step_size: float = 0.1,
        adapt_step_size: bool = True,
        target_acceptance: float = 0.75,
        num_steps_between: int = 0,
        correct_likelihood: bool = True,
        train_model: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            model, num_chains, num_draws, correct_likelihood, train_model, name=name
        )
        check_sizes(self, num_leapfrog_steps=num_leapfrog_steps)
        check_positive(self, step_size=step_size, target_acceptance=target_acceptance)
        check_counts(self, num_burn_in=num_burn_in, num_steps_between=num_steps_between)
        if adapt_step_size and num_burn_in < 10:
            raise ValueError(
                f"HamiltonianMonteCarlo adapts its step size while it burns in, and "
                f"num_burn_in={num_burn_in} steps are too few for that: give 10 or more (200 "
                f"is usual), or set adapt_step_size=False."
            )
        if target_acceptance >= 1:
            raise ValueError(
                f"target_acceptance is a share below 1, 0.75 say; got {target_acceptance}."
            )
        self.num_burn_in, self.num_leapfrog_steps = num_burn_in, num_leapfrog_steps
        self.vary_length = vary_length
        self.step_size, self.adapt_step_size = step_size, adapt_step_size
        self.target_acceptance = target_acceptance
        self.num_steps_between = num_steps_between

    def _chains(self, x, observed, start, seed):
        rows = tf.shape(x)[0]
        # Where it is stored in the results it is a tensor, of one number a query.
        kernel = tfp.mcmc.HamiltonianMonteCarlo(
            lambda z: self.log_joint(x, observed, z),
            step_size=tf.fill([1, rows, 1], self.step_size),
            num_leapfrog_steps=self.num_leapfrog_steps,
            store_parameters_in_results=True,
        )
        if self.vary_length:
            kernel = VaryingLength(kernel, self.num_leapfrog_steps)
        if self.adapt_step_size:
            kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
                kernel,
                num_adaptation_steps=self.num_burn_in * 4 // 5,
                target_accept_prob=self.target_acceptance,
            )
            kernel = KeptShapes(kernel)

        def trace(z, results):
            del z
            metropolis = results.inner_results if self.adapt_step_size else results
            return metropolis.is_accepted, metropolis.accepted_results.step_size

        z, (accepted, step_size) = tfp.mcmc.sample_chain(
            self.num_draws,
            start,
            kernel=kernel,
            num_burnin_steps=self.num_burn_in,
            num_steps_between_results=self.num_steps_between,
            trace_fn=trace,
            seed=seed,
        )
        acceptance = tf.reduce_mean(tf.cast(accepted, tf.float32), 0)
        return Chains(z, acceptance, step_size[-1, 0, :, 0])


class VaryingLength(tfp.mcmc.TransitionKernel):
    """A Hamiltonian kernel whose every step draws its number of leapfrog steps.

    Args:
      inner_kernel: stores its parameters in its results.
      num_leapfrog_steps: the number on average.
    """

    def __init__(self, inner_kernel, num_leapfrog_steps: int):
        self.inner_kernel, self.num_leapfrog_steps = inner_kernel, num_leapfrog_steps

    @property
    def is_calibrated(self):
        return True  # The number depends on nothing: a mixture of calibrated kernels.

    def bootstrap_results(self, init_state):
        return self.inner_kernel.bootstrap_results(init_state)

    def one_step(self, current_state, previous_kernel_results, seed=None):
        seed, length_seed = split_seed(seed, 2)
        most = 3 * self.num_leapfrog_steps // 2
        least = self.num_leapfrog_steps * 2 - most
        length = tf.random.stateless_uniform([], length_seed, least, most + 1, tf.int32)
        accepted = previous_kernel_results.accepted_results
        results = previous_kernel_results._replace(
            accepted_results=accepted._replace(num_leapfrog_steps=length)
        )
        return self.inner_kernel.one_step(current_state, results, seed=seed)


class KeptShapes(tfp.mcmc.TransitionKernel):
    """A kernel whose results keep the static shapes that they start with.

    Dual averaging forgets the shape of its step sizes where the number of rows is not known,
    and a loop refuses that.
    """

    def __init__(self, inner_kernel):
        self.inner_kernel = inner_kernel

    @property
    def is_calibrated(self):
        return self.inner_kernel.is_calibrated

    def bootstrap_results(self, init_state):
        return self.inner_kernel.bootstrap_results(init_state)

    def one_step(self, current_state, previous_kernel_results, seed=None):
        state, results = self.inner_kernel.one_step(
            current_state, previous_kernel_results, seed=seed
        )
        results = tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(new, old.shape), results, previous_kernel_results
        )
        return tf.ensure_shape(state, current_state.shape), results
