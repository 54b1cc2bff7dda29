"""Optimisation of many queries at once, each with its own state, step size and end.

A query's parameters, its optimiser's state, its learning rate and whether it is done are rows
of tensors. Queries that are done leave the batch, so that they cost nothing any more; every
query ends with the best parameters it was checked at.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes
from vae_arbcond.variational.vectors import Layout

RUNNING, CONVERGED, DIVERGED = 0, 1, 2


class Problem(NamedTuple):
    """What is maximised, for a batch of queries.

    Attributes:
      bound: (parameters, rows, seed, exact) -> (estimate [B], what to differentiate [B]),
        nats; `exact` as in `Family.draw`.
      rows: nest of tensors [B, ...], what `bound` must know of each query.
      refresh: (parameters, rows, step) -> (parameters, whose search starts again [B]).
    """

    bound: Callable
    rows: tuple
    refresh: Callable


class Found(NamedTuple):
    """Where the queries ended; tensors [B] but for the parameters.

    Attributes:
      parameters: the best that each query was checked at.
      bound: there, on noise of its own, the same at every check; nats.
      steps: optimiser steps taken.
      status: RUNNING where the steps ran out first; CONVERGED; DIVERGED where the search left
        the numbers (the parameters are the best before that) or began outside them.
    """

    parameters: tuple
    bound: tf.Tensor
    steps: tf.Tensor
    status: tf.Tensor


def search_seeds(seed):
    """Of a minimizer's seed int32 [2]: those of its checks and of its steps."""
    return tuple(tf.unstack(tfp.random.split_seed(seed, n=2), 2))


@register
class FirstOrder:
    """Stochastic gradient steps, the rule of a well-known optimiser applied query by query.

    Every `check_every` steps each query's bound is taken on the same noise as before. Without
    a gain of `tolerance` nats the query's learning rate is halved and it goes on from its best
    parameters; after `patience` such checks in a row it is done. In the last half of the steps
    the learning rate also falls along a cosine, to a twentieth.

    Args:
      rule: "adam", "rmsprop", "adadelta" or "sgd".
      learning_rate: of the first steps.
      num_steps: most steps a query gets.
      check_every: steps from check to check.
      tolerance: nats.
      patience: checks without a gain; None: all steps are taken.
      fixed_noise: True takes the same noise at every step (conditional prior networks), False
        fresh noise (QAVI).
    """

    def __init__(
        self,
        rule: str = "adam",
        learning_rate: float = 0.1,
        num_steps: int = 300,
        check_every: int = 20,
        tolerance: float = 0.003,
        patience: int | None = 4,
        fixed_noise: bool = False,
    ):
        check_sizes(self, num_steps=num_steps, check_every=check_every)
        check_positive(self, learning_rate=learning_rate)
        if rule not in _RULES:
            raise ValueError(
                f"FirstOrder.rule is one of {', '.join(sorted(_RULES))}; got {rule!r}."
            )
        if patience is not None and patience < 1:
            raise ValueError(
                f"FirstOrder.patience must be 1 or more, or None; got {patience}."
            )
        if not tolerance >= 0.0:
            raise ValueError(f"FirstOrder.tolerance must be 0 or more nats; got {tolerance}.")
        self.rule, self.learning_rate, self.num_steps = rule, learning_rate, num_steps
        self.check_every, self.tolerance, self.patience = check_every, tolerance, patience
        self.fixed_noise = fixed_noise

    def maximise(self, problem: Problem, parameters, seed, done=None, compact=True) -> Found:
        """Maximises every query's bound.

        Args:
          problem: the bound and the queries.
          parameters: where to start, nest of [B, ...].
          seed: int32 [2], of the noise.
          done: bool [B], queries that are left as they are; None = none.
          compact: whether queries that are done leave the batch. False keeps all shapes
            static where they are, as XLA needs them and a single query is faster.
        """
        compact = compact and self.patience is not None  # Else none is done before the end.
        rows = problem.rows
        count = tf.shape(tf.nest.flatten(parameters)[0])[0]
        layout, seeds = Layout(parameters), search_seeds(seed)
        start = layout.vector(parameters)
        bound = problem.bound(parameters, rows, seeds[0], False)[0]
        lost = ~tf.math.is_finite(bound)
        status = tf.where(lost, DIVERGED, RUNNING)
        if done is not None:
            status = tf.where(done, CONVERGED, status)
        state = _State(
            step=tf.constant(0),
            vector=start,
            slots=_RULES[self.rule].slots(start),
            best=start,
            bound=bound,
            rate=tf.fill([count], self.learning_rate),
            since=tf.zeros([count], tf.int32),
            began=tf.zeros([count], tf.int32),
            steps=tf.zeros([count], tf.int32),
            status=status,
        )

        def unfinished(*state):
            state = tf.nest.pack_sequence_as(shape_of, list(state))
            running = tf.reduce_any(tf.equal(state.status, RUNNING))
            return (state.step < self.num_steps) & running

        def advance(*state):
            state = tf.nest.pack_sequence_as(shape_of, list(state))
            if compact:
                index = tf.where(tf.equal(state.status, RUNNING))
                part = state.take(index[:, 0])
                part_rows = tf.nest.map_structure(lambda r: tf.gather(r, index[:, 0]), rows)
                moved = self._some_steps(problem, part, part_rows, layout, seeds)
                return tf.nest.flatten(state.put(index, moved))
            moved = self._some_steps(problem, state, rows, layout, seeds)
            running = tf.equal(state.status, RUNNING)
            return tf.nest.flatten(state.where(running, moved))

        shape_of = state
        flat = tf.nest.flatten(state)
        found = tf.while_loop(
            unfinished,
            advance,
            flat,
            shape_invariants=tf.nest.map_structure(_open_rows, flat) if compact else None,
            parallel_iterations=1,
        )
        state = tf.nest.pack_sequence_as(shape_of, list(found))
        best = layout.nest(state.best)
        return Found(best, state.bound, state.steps, state.status)

    def _some_steps(self, problem, state, rows, layout, seeds):
        """`check_every` steps (or what is left) of the queries in `state`, then a check."""
        check_seed, step_seed = seeds
        rule = _RULES[self.rule]
        last = tf.minimum(state.step + self.check_every, self.num_steps)
        rates = self._rates(state)
        fresh = tf.random.stateless_uniform([], step_seed, None, None, tf.int32)

        def step(i, vector, slots):
            # As `stateless_fold_in` has it, whose first half needs no drawing at every step.
            seed = step_seed if self.fixed_noise else tf.stack([fresh, i])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(vector)
                surrogate = problem.bound(layout.nest(vector), rows, seed, self.fixed_noise)[1]
            move, slots = rule.move(tape.gradient(surrogate, vector), slots)
            rate = tf.gather(rates, i - state.step)
            return i + 1, vector + rate * move, slots

        loop = (state.step, state.vector, state.slots)
        _, vector, slots = tf.while_loop(
            lambda i, *_: i < last, step, loop, parallel_iterations=1
        )
        parameters = layout.nest(vector)
        bound = problem.bound(parameters, rows, check_seed, False)[0]
        finite = tf.math.is_finite(bound)
        better = finite & (bound > state.bound)
        gained = finite & (bound > state.bound + self.tolerance)
        best = where_rows(better, vector, state.best)
        since = tf.where(gained, 0, state.since + 1)
        status = tf.where(finite, RUNNING, DIVERGED)
        began, rate = state.began, state.rate
        if self.patience is not None:
            # Queries that gained nothing go on from their best, more carefully.
            vector = where_rows(gained, vector, best)
            slots = where_rows(gained, slots, rule.slots(vector))
            began = tf.where(gained, began, last)
            rate = tf.where(gained, rate, 0.5 * rate)
            status = tf.where(finite & (since >= self.patience), CONVERGED, status)
        parameters, again = problem.refresh(layout.nest(vector), rows, last)
        again &= tf.equal(status, RUNNING)
        return state._replace(
            step=last,
            vector=layout.vector(parameters),
            slots=where_rows(again, rule.slots(vector), slots),
            best=best,
            bound=tf.where(better, bound, state.bound),
            rate=tf.where(again, self.learning_rate, rate),
            since=tf.where(again, 0, since),
            began=tf.where(again, last, began),
            steps=tf.fill(tf.shape(state.steps), last),
            status=status,
        )

    def _rates(self, state):
        """What a query's moves are multiplied by until its next check: [steps, B, 1]."""
        steps = state.step + tf.range(self.check_every)
        schedule = self._schedule(np.arange(self.num_steps + self.check_every))
        factors = _RULES[self.rule].factors(len(schedule))
        age = steps[:, tf.newaxis] - state.began
        rates = state.rate * tf.gather(tf.constant(schedule, tf.float32), steps)[:, tf.newaxis]
        return (rates * tf.gather(tf.constant(factors, tf.float32), age))[..., tf.newaxis]

    def _schedule(self, step: np.ndarray) -> np.ndarray:
        """1 in the first half, then along a cosine to 0.05."""
        late = np.clip(2.0 * step / self.num_steps - 1.0, 0.0, 1.0)
        return 0.05 + 0.95 * 0.5 * (1.0 + np.cos(np.pi * late))


class _State(NamedTuple):
    """A search; tensors [B, ...] but for the step, which all queries share.

    `vector` [B, P] is where the queries are, `best` where they were at their best.
    """

    step: tf.Tensor
    vector: tf.Tensor
    slots: tuple
    best: tf.Tensor
    bound: tf.Tensor
    rate: tf.Tensor
    since: tf.Tensor
    began: tf.Tensor
    steps: tf.Tensor
    status: tf.Tensor

    def take(self, index):
        """The queries with these numbers."""
        rest = tf.nest.map_structure(lambda part: tf.gather(part, index), self[1:])
        return _State(self.step, *rest)

    def put(self, index, moved):
        """These queries (index [N, 1]) replaced by `moved`."""

        def scatter(part, new):
            return tf.tensor_scatter_nd_update(part, index, new)

        return _State(moved.step, *tf.nest.map_structure(scatter, self[1:], moved[1:]))

    def where(self, chosen, moved):
        """`moved` where chosen [B]."""
        return _State(moved.step, *where_rows(chosen, moved[1:], self[1:]))


def _open_rows(part):
    if part.shape.rank == 0:
        return part.shape
    return tf.TensorShape([None]).concatenate(part.shape[1:])


def where_rows(chosen, yes, no):
    """tf.where over nests of [B, ...] with chosen [B]."""

    def pick(a, b):
        return tf.where(tf.reshape(chosen, [-1, *[1] * (a.shape.rank - 1)]), a, b)

    return tf.nest.map_structure(pick, yes, no)


class _Rule:
    """How a step follows from gradients, which are of what is maximised; tensors [B, P]."""

    num_slots = 0

    def slots(self, vector):
        """Fresh state."""
        return (tf.zeros_like(vector),) * self.num_slots

    def factors(self, count: int) -> np.ndarray:
        """What the learning rate is multiplied by 0, 1, ... steps after a fresh state."""
        return np.ones([count])

    def move(self, gradient, slots):
        """The step at learning rate 1, and the state after it."""
        raise NotImplementedError


class _Sgd(_Rule):
    def move(self, gradient, slots):
        return gradient, slots


class _Adam(_Rule):
    """Kingma and Ba, 2015, with its corrections of the first steps."""

    num_slots = 2

    def factors(self, count):
        age = np.arange(1, count + 1)
        return np.sqrt(1.0 - 0.999**age) / (1.0 - 0.9**age)

    def move(self, gradient, slots):
        mean, square = slots
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        return mean / (tf.sqrt(square) + 1e-8), (mean, square)


class _RmsProp(_Rule):
    """Hinton's lecture 6e: a decaying mean of squares."""

    num_slots = 1

    def move(self, gradient, slots):
        square = slots[0] + 0.1 * (gradient**2 - slots[0])
        return gradient / (tf.sqrt(square) + 1e-7), (square,)


class _Adadelta(_Rule):
    """Zeiler, 2012: steps in the parameters' own unit."""

    num_slots = 2

    def move(self, gradient, slots):
        square, moves = slots
        square += 0.05 * (gradient**2 - square)
        move = gradient * tf.sqrt(moves + 1e-6) / tf.sqrt(square + 1e-6)
        return move, (square, moves + 0.05 * (move**2 - moves))


_RULES = {"adam": _Adam(), "rmsprop": _RmsProp(), "adadelta": _Adadelta(), "sgd": _Sgd()}


@register
class LBFGS:
    """Quasi-Newton steps on fixed noise for all queries at once, by `tfp.optimizer`.

    What conditional prior networks chose: with the noise drawn once the bound is an ordinary
    function of the parameters. Few samples can be fitted too well; take some hundred.

    Args:
      max_iterations: of the quasi-Newton method.
      tolerance: of the bound's gradient, its largest entry.
    """

    fixed_noise = True

    def __init__(self, max_iterations: int = 50, tolerance: float = 1e-3):
        check_sizes(self, max_iterations=max_iterations)
        check_positive(self, tolerance=tolerance)
        self.max_iterations, self.tolerance = max_iterations, tolerance

    def maximise(self, problem: Problem, parameters, seed, done=None, compact=True) -> Found:
        """As for `FirstOrder`; `refresh` and `compact` play no part.

        The bound that is told, and by which a query's end is compared with its start, is taken
        on noise that nothing was fitted to.
        """
        del compact
        check_seed, fit_seed = search_seeds(seed)
        layout = Layout(parameters)

        def value_and_gradient(vector):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(vector)
                estimate, surrogate = problem.bound(
                    layout.nest(vector), problem.rows, fit_seed, True
                )
            return -estimate, -tape.gradient(surrogate, vector)

        start = layout.vector(parameters)
        first = problem.bound(parameters, problem.rows, check_seed, False)[0]
        result = tfp.optimizer.lbfgs_minimize(
            value_and_gradient,
            start,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        # After a failed line search the position need not be where the value was.
        bound = problem.bound(layout.nest(result.position), problem.rows, check_seed, False)[0]
        lost = ~tf.math.is_finite(bound)
        kept = lost | ~(bound > first)
        steps = tf.fill(tf.shape(bound), result.num_iterations)
        if done is not None:
            kept |= done
            steps = tf.where(done, 0, steps)
        status = tf.where(result.converged, CONVERGED, RUNNING)
        status = tf.where(lost, DIVERGED, status)
        return Found(
            layout.nest(tf.where(kept[:, tf.newaxis], start, result.position)),
            tf.where(kept, first, bound),
            steps,
            status if done is None else tf.where(done, CONVERGED, status),
        )
