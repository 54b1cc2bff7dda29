"""The methods of benchmarks/qavi_images.py and what is measured of their answers."""

import time
from typing import NamedTuple

import numpy as np
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp
from cpn_figures import build
from qavi_image_models import encoder_of

from vae_arbcond import estimators
from vae_arbcond.conditioners import (
    AmortisedStart,
    EncoderStart,
    FeatureQueryAdaptive,
    FillZeros,
    HamiltonianMonteCarlo,
    MetropolisWithinGibbs,
    PriorStart,
    PseudoGibbs,
    QueryAdaptive,
)
from vae_arbcond.conditioners.monte_carlo.base import fitted_proposal
from vae_arbcond.variational import (
    FirstOrder,
    GaussianFamily,
    InverseAutoregressiveFamily,
    MixtureFamily,
)

tfd = tfp.distributions
SEARCHES = {  # name: (family, learning rate)
    "Mix. QAVI": (MixtureFamily(10), 0.1),
    "Flow QAVI": (InverseAutoregressiveFamily(), 0.03),
    "Gaus. QAVI": (GaussianFamily(), 0.1),
}
WIDER = {  # beta "more than 1", as the paper has it
    f"Mix. QAVI, beta {beta:g}": beta for beta in (2.0, 4.0)
}
AMORTISED = "Gaus. QAVI, amortised start"
PRIOR = "the prior"  # an answer that knows nothing of x_o
ENCODERS = (
    "Posterior Match",
    "Posterior Match (true)",
    "Posterior Match (random)",
    "Re-tuned Encoder",
)
CHAINS = {
    "pseudo-Gibbs": (PseudoGibbs, {"num_burn_in": 300}),
    "Metropolis-in-Gibbs": (MetropolisWithinGibbs, {"num_burn_in": 280}),
    "HMC": (HamiltonianMonteCarlo, {"num_burn_in": 200, "num_steps_between": 4}),
}
METHODS = (*SEARCHES, *WIDER, AMORTISED, "Feat. QAVI", *ENCODERS, "Fill Zeros", PRIOR, *CHAINS)
OURS = (*WIDER, AMORTISED, PRIOR, "HMC")  # not among the paper's rows
NUM_CHAINS = 5
DRAWS, AT_ONCE = 100, 100  # of z, for pictures and classes; that are decoded at once
SAMPLES = (1, 10, 100, 1_000, 5_000)  # of Eq. 12
CORRECTED = 2_000
FEATURE_DRAWS = 20  # a step of Feat. QAVI


def shown(label):
    """How tables and pictures call a method."""
    return f"{label} (free-form)" if label == "Posterior Match" else label


class Answer(NamedTuple):
    """What a method says of z for B questions.

    Attributes:
      proposal: q(z) that Eq. 12 draws from: of chains and of Feat. QAVI, as in the paper's
        code, the encoder's at one completion.
      own: a density of the method's own draws; None: `proposal` is.
      z: its draws [DRAWS, B, Z].
      facts: seconds, steps and the like.
    """

    proposal: tfd.Distribution
    own: tfd.Distribution | None
    z: tf.Tensor
    facts: dict


def searching(label, model, num_steps=300, match=None):
    """The query-adaptive method of this name."""
    options = {"train_model": False, "jit_compile": True}
    few = {"num_steps": num_steps, "check_every": min(20, num_steps)}
    if label == "Feat. QAVI":
        # Each draw of x_M goes through both networks and is drawn pixel by pixel: dear.
        return FeatureQueryAdaptive(
            model,
            FirstOrder(**few),
            num_samples=FEATURE_DRAWS,
            unit_interval=True,
            train_model=False,
        )
    if label == AMORTISED:
        minimizer = FirstOrder("rmsprop", num_steps=30, check_every=10)
        return QueryAdaptive(
            None, GaussianFamily(), minimizer, AmortisedStart(match), **options
        )
    family, rate = SEARCHES[label.split(",")[0]]
    beta = WIDER.get(label, 1.0)
    minimizer = FirstOrder(learning_rate=rate, **few)
    return QueryAdaptive(model, family, minimizer, EncoderStart(), beta=beta, **options)


def searched(method, spec, hidden, observed):
    """(What the search found, facts of it)."""
    optimise = tf.function(build(method, spec).optimise, autograph=False)
    began = time.process_time()
    # Nothing observed is nothing to search for: compiles alone, for as many questions.
    optimise(hidden, tf.zeros_like(observed))
    compiled = time.process_time()
    found = optimise(hidden, observed)
    facts = {"steps": float(np.mean(found.steps))}  # Waits for the search.
    facts["CPU s"] = time.process_time() - compiled
    facts["compile CPU s"] = compiled - began
    facts["bound of the search"] = float(np.mean(found.bound))
    return found, facts | {"diverged": int(np.sum(found.status == 2))}


def answer(label, mask_name, model, x, observed, arguments) -> Answer:
    """Asks one method all questions.

    Args:
      label: one of METHODS.
      mask_name: of the questions.
      model: the VAE.
      x, observed: [B, 28, 28].
      arguments: of the command line.
    """
    spec, seed = model.spec, tf.constant([3, 1])
    hidden = tf.where(observed, x, 0.0)
    if label == "Feat. QAVI":
        found, facts = searched(searching(label, model), spec, hidden, observed)
        pixels = tfd.ContinuousBernoulli(logits=found.parameters.loc)
        several = tf.where(observed, x, pixels.sample(DRAWS, seed=seed))
        q = encoded(model, tf.reshape(several, [-1, *x.shape[1:]]))
        z = tf.reshape(q.sample(seed=seed), [DRAWS, *x.shape[:1], -1])
        return Answer(encoded(model, several[0]), around(z, model, observed), z, facts)
    if label in CHAINS:
        kind, options = CHAINS[label]
        chains = kind(
            model,
            num_chains=NUM_CHAINS,
            num_draws=DRAWS // NUM_CHAINS,
            train_model=False,
            **options,
        )
        began = time.process_time()
        build(chains, spec).sample_posterior(hidden, observed, seed)
        first = time.process_time()
        got = chains.sample_posterior(hidden, observed, seed)
        facts = {"CPU s": time.process_time() - first}
        facts["compile CPU s"] = max(0.0, first - began - facts["CPU s"])
        facts["acceptance"] = float(tf.reduce_mean(got.acceptance))
        facts["R-hat, median"] = float(np.median(got.r_hat))
        last = model.likelihood(got.z[-1, 0]).sample(seed=seed)
        z = tf.reshape(got.z, [DRAWS, *got.z.shape[2:]])
        one = encoded(model, tf.where(observed, x, last))
        return Answer(one, around(z, model, observed), z, facts)
    if label == PRIOR:
        q = PriorStart()(model, hidden, observed, seed)
        return Answer(q, None, q.sample(DRAWS, seed=seed), {})
    if label in (*ENCODERS, "Fill Zeros"):
        method, trained = FillZeros(model, train_model=False), {}
        if label in ENCODERS:
            method, trained = encoder_of(label, mask_name, model, arguments)
        facts = {f"training, {k}": v for k, v in trained.items()}
        facts |= timed(build(method, spec), hidden, observed, seed)
        q = method.infer(hidden, observed, seed).posterior
        return Answer(q, None, q.sample(DRAWS, seed=seed), facts)
    match, trained = None, {}
    if label == AMORTISED:
        match, facts = encoder_of("Posterior Match", mask_name, model, arguments)
        trained = {"training, CPU s": facts["CPU s"]}
    method = searching(label, model, match=match)
    found, facts = searched(method, spec, hidden, observed)
    q = method.family.distribution(found.parameters)
    return Answer(q, None, q.sample(DRAWS, seed=seed), facts | trained)


def encoded(model, x):
    """The encoder's q(z | x) of whole images."""
    return model.posterior(x, tf.ones_like(x, tf.bool))


def around(z, model, observed):
    """A density around draws z [S, B, Z], as Monte Carlo methods of the library take it."""
    nothing = tf.zeros(tf.shape(observed)[:1], tf.bool)
    return fitted_proposal(z[:, tf.newaxis], model.prior(), nothing)


def timed(method, x, observed, seed):
    """CPU seconds of DRAWS draws of z by a method that does not search."""
    draws = tf.function(
        lambda x, observed: method.infer(x, observed, seed).posterior.sample(DRAWS, seed=seed),
        autograph=False,
    )
    spent = []
    for _ in range(6):
        began = time.process_time()
        draws(x, observed).numpy()
        spent.append(time.process_time() - began)
    return {"CPU s": min(spent[1:]), "compile CPU s": spent[0] - min(spent[1:])}


@tf.function(jit_compile=True, autograph=False)
def parts_of(model, x, observed, z):
    """log p(x_M | z), log p(x_o | z) and log p(z) at z [S, B, Z]: each [S, B]."""
    each = model.likelihood(z).log_prob(x)
    seen = tf.reduce_sum(tf.where(observed, each, 0.0), [-1, -2])
    return tf.reduce_sum(each, [-1, -2]) - seen, seen, model.prior().log_prob(z)


def logs_of(model, x, observed, q, count):
    """`parts_of` and log q(z) at `count` draws of q: four arrays [count, B]."""
    found = []
    for i in range(0, count, AT_ONCE):
        z = q.sample(min(AT_ONCE, count), seed=tf.constant([i, 7]))
        found.append([*parts_of(model, x, observed, z), q.log_prob(z)])
    return [np.concatenate(part) for part in zip(*found, strict=True)]


def averaged(log_values, count):
    """log mean exp over blocks of `count` draws of [S, B], averaged over the blocks: [B]."""
    blocks = np.asarray(log_values)
    blocks = blocks[: len(blocks) // count * count].reshape(-1, count, blocks.shape[1])
    return (scipy.special.logsumexp(blocks, 1) - np.log(count)).mean(0)


def told_by(values):
    """Mean over images and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def curve_of(model, x, observed, q, most=SAMPLES[-1]):
    """Eq. 12 by the number of draws: {draws: nats [B]}, and the logs it is made of."""
    missing, seen, prior, log_q = logs_of(model, x, observed, q, most)
    weights = missing + prior - log_q
    curve = {count: averaged(weights, count) for count in SAMPLES if count <= most}
    return curve, (missing, seen, prior, log_q)


def measured(model, x, observed, digits, found: Answer, classes):
    """(What is told of one answer, completed images [DRAWS, B, 28, 28]).

    Args:
      model, x, observed, found: as for and of `answer`.
      digits: [B].
      classes: a classifier of whole images.
    """
    pixels = np.sum(~observed.numpy(), (1, 2))
    curve, logs = curve_of(model, x, observed, found.proposal)
    weights = logs[0] + logs[2] - logs[3]
    told = {"curve": {}, "its stderr": {}}
    for count, values in curve.items():
        told["curve"][count], told["its stderr"][count] = told_by(values / pixels)
    told["log p(x_M)"] = float(curve[SAMPLES[-1]].mean())
    k = estimators.pareto_k(tf.constant(weights)).numpy()
    told["k above 0.7"] = float(np.mean(k > 0.7))
    each = {"log p(x_M)": curve[SAMPLES[-1]]}
    if found.own is not None:
        logs = logs_of(model, x, observed, found.own, CORRECTED)
    missing, seen, prior, log_q = (part[:CORRECTED] for part in logs)
    weights = seen + prior - log_q
    if found.own is None:
        told["bound"] = float(weights.mean())
    told["log p(x_o)"] = float(averaged(weights, CORRECTED).mean())
    given = estimators.corrected_predictive(tf.constant(weights), tf.constant(missing))
    each["log p(x_M | x_o), corrected"] = given.value.numpy()
    told["its k above 0.7"] = float(np.mean(given.pareto_k.numpy() > 0.7))
    # The method's own draws, uncorrected, as many for each method.
    plain = missing if found.own is None else parts_of(model, x, observed, found.z)[0]
    each["log p(x_M | x_o)"] = averaged(plain, DRAWS)
    means = model.likelihood(found.z).mean().numpy()
    images = np.where(observed, x, means)
    each["accuracy"], votes = right(classes, images, digits)
    told["accuracy of the majority"] = float(votes.mean())
    told["diversity"] = float(means.std(0)[~observed.numpy()].mean())
    for key, values in each.items():
        told[key], told[f"{key}, stderr"] = told_by(values)
    told["each"] = {key: np.round(values, 4).tolist() for key, values in each.items()}
    return told, images


def right(classes, images, digits):
    """Of images [S, B, 28, 28]: share classified right [B], and whether most are [B]."""
    flat = images.reshape(-1, images[0, 0].size).astype(np.float32)
    guessed = classes.predict(flat).reshape(images.shape[:2])
    counts = np.stack([(guessed == digit).sum(0) for digit in range(10)])
    return (guessed == digits).mean(0), counts.argmax(0) == digits


def truth(model, x, observed):
    """Likelihoods by proposals fitted to what is scored itself: what the bounds end at, nats.

    Each is a bound, too, of a proposal for just this; with many draws a tight one.
    """
    everything = tf.ones_like(observed)
    method = QueryAdaptive(
        model,
        GaussianFamily(full_covariance=True),
        start=EncoderStart(),
        train_model=False,
        jit_compile=True,
    )
    told = {}
    for key, seen in (
        ("log p(x)", everything),
        ("log p(x_M)", ~observed),
        ("log p(x_o)", observed),
    ):
        found, _ = searched(method, model.spec, tf.where(seen, x, 0.0), seen)
        q = method.family.distribution(found.parameters)
        _, log_p, prior, log_q = logs_of(model, x, seen, q, SAMPLES[-1])
        weights = log_p + prior - log_q
        values = averaged(weights, SAMPLES[-1])
        told[key], told[f"{key}, stderr"] = told_by(values)
        k = estimators.pareto_k(tf.constant(weights)).numpy()
        told[f"{key}, k above 0.7"] = float(np.mean(k > 0.7))
        told.setdefault("each", {})[key] = np.round(values, 4).tolist()
    given = np.subtract(told["each"]["log p(x)"], told["each"]["log p(x_o)"])
    told["log p(x_M | x_o)"], told["log p(x_M | x_o), stderr"] = told_by(given)
    pixels = np.sum(~observed.numpy(), (1, 2))
    told["log p(x_M) a pixel"] = float(np.mean(told["each"]["log p(x_M)"] / pixels))
    return told
