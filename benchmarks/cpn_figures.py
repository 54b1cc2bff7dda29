"""Conditional prior networks' MNIST experiments, with what their paper shows as numbers.

    python benchmarks/cpn_figures.py queries [--data mnist fashion_mnist] [--shares 0.05 0.15]
    python benchmarks/cpn_figures.py optimisers acceptance gibbs toy draw

Wu, Domke and Sanner, 2018, https://arxiv.org/abs/1805.07785. A VAE with two latents is trained
first, into runs/cpn. Every method answers the same 50 questions about test images. What is
measured is added to the JSON file cell by cell; what it has is not run again without --again.
The images are expected in ../shared/data.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cpn_markdown
import cpn_pictures
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from cpn_measures import Measures, rbf_mmd
from cpn_models import PLANE, Plane, questions, trained

from vae_arbcond import runs
from vae_arbcond.conditioners import (
    AmortisedStart,
    GridPosterior,
    HamiltonianMonteCarlo,
    MetropolisWithinGibbs,
    PseudoGibbs,
    QueryAdaptive,
)
from vae_arbcond.variational import (
    LBFGS,
    FirstOrder,
    GaussianFamily,
    InverseAutoregressiveFamily,
    MixtureFamily,
    NetworkFamily,
    PlanarFamily,
)

tfd = tfp.distributions
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
NOT_FOR_FCN = ("KL(q || exact)", "stderr", "worst")
DRAWS = 2_000  # of q, for the bound and the histograms
SLOW = {"learning_rate": 0.03, "num_steps": 600}
SEARCHES = {  # name: (family, minimizer)
    "Gaussian": (GaussianFamily(), FirstOrder()),
    "GVI": (GaussianFamily(full_covariance=True), FirstOrder()),
    "Planar flow": (PlanarFamily(16), FirstOrder(**SLOW)),
    "IAF": (InverseAutoregressiveFamily(), FirstOrder(**SLOW)),
    "Mixture of 10": (MixtureFamily(10), FirstOrder()),
    "FCN": (NetworkFamily(), FirstOrder(**SLOW)),
}
AMORTISED = "Mixture of 10, amortised start"
METHODS = (*SEARCHES, AMORTISED, "Posterior Matching", "HMC", "Exact")
SHARES = (0.05, 0.2, 0.4, 0.6, 0.8)  # observed, Figure 11
RULES = {  # name: learning rates that are tried
    "L-BFGS": (None,),
    "Adam": (0.03, 0.1),
    "RMSProp": (0.01, 0.03),
    "Adadelta": (1.0, 10.0),
    "SGD": (0.001, 0.01),
}
LEAPFROGS, STEP_SIZES = (5, 10, 30), (0.03, 0.1, 0.2, 0.4, 0.8)


def keep(arguments, place, facts, text=cpn_markdown.text):
    """Writes one result into the JSON file, at a path of keys, and the Markdown anew."""
    found = read(arguments)
    node = found
    for key in place[:-1]:
        node = node.setdefault(key, {})
    node[place[-1]] = facts
    found["hardware"] = f"{platform.machine()}, {os.cpu_count()} CPU cores shared with others"
    found["versions"] = runs.versions()
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    arguments.json.with_suffix(".md").write_text(text(found))
    shown = (
        {k: v for k, v in facts.items() if k != "each"} if isinstance(facts, dict) else facts
    )
    print(*place, json.dumps(shown), flush=True)


def read(arguments):
    """What was measured so far."""
    return json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}


def missing(arguments, *place):
    """Whether there is no result at this path of keys yet, or it is to be made again."""
    node = read(arguments)
    for key in place:
        node = node.get(key)
        if node is None:
            return True
    return arguments.again


def search(method, x, observed):
    """(Found, CPU seconds of the search, those of tracing and compiling it)."""
    specs = [tf.TensorSpec([None, *x.shape[1:]]), tf.TensorSpec([None, *x.shape[1:]], tf.bool)]
    optimise = tf.function(method.optimise, input_signature=specs, autograph=False)
    began = time.process_time()
    optimise(x[:2], tf.zeros_like(observed[:2]))  # Nothing to search for: compiles alone.
    compiled = time.process_time()
    found = optimise(x, observed)
    found.bound.numpy()
    return found, time.process_time() - compiled, compiled - began


def build(method, spec):
    """The method, knowing the shape of x; but FCN, which can be searched and not asked."""
    if getattr(method, "family", GaussianFamily()).has_density:
        method.build_for(spec)
    return method


def draws_of(label, match, exact, x, observed):
    """z [S, B, 2], log q(z) [S, B] or None, log q's function or None, facts."""
    model, spec = match.model, match.spec
    seed = tf.constant([3, 1])
    if label == "Exact":
        z = exact.sample(DRAWS, seed=seed)
        return z, exact.log_prob(z), exact.log_prob, {}
    if label == "HMC":
        chains = build(
            HamiltonianMonteCarlo(
                model, num_chains=20, num_draws=200, num_burn_in=100, train_model=False
            ),
            spec,
        )
        chains.sample_posterior(x[:2], observed[:2], seed)
        began = time.process_time()
        got = chains.sample_posterior(x, observed, seed)
        spent = time.process_time() - began
        z = tf.reshape(got.z, [-1, *got.z.shape[2:]])
        facts = {"CPU s": spent, "acceptance": float(tf.reduce_mean(got.acceptance))}
        r_hat = got.r_hat.numpy()
        facts |= {"R-hat, median": float(np.median(r_hat)), "largest": float(r_hat.max())}
        return z, None, None, facts
    if label == "Posterior Matching":
        # A graph, as the searches are.
        answer = tf.function(
            lambda x, o: match.infer(x, o, seed).posterior.sample(1, seed=seed)
        )
        began = time.process_time()
        answer(x, observed)
        compiled = time.process_time()
        answer(x, observed)
        facts = {"CPU s": time.process_time() - compiled, "compile CPU s": compiled - began}
        q = match.infer(tf.where(observed, x, 0.0), observed, seed).posterior
        z = q.sample(DRAWS, seed=seed)
        return z, q.log_prob(z), q.log_prob, facts
    if label == AMORTISED:
        few = FirstOrder(num_steps=30, check_every=10)
        start = AmortisedStart(match)
        method = QueryAdaptive(None, MixtureFamily(10), few, start, train_model=False)
    else:
        method = QueryAdaptive(model, *SEARCHES[label], train_model=False)
    build(method, spec)
    found, spent, compiled = search(method, tf.where(observed, x, 0.0), observed)
    facts = {"CPU s": spent, "compile CPU s": compiled}
    facts |= {"steps": float(np.mean(found.steps)), "diverged": int(np.sum(found.status == 2))}
    if label == "FCN":
        draws = method.family.draw(found.parameters, DRAWS, seed)
        return draws.z, draws.log_q, None, facts
    q = method.family.distribution(found.parameters)
    z = q.sample(DRAWS, seed=seed)
    return z, q.log_prob(z), q.log_prob, facts


def part_queries(arguments):
    """Figures 3 to 5: every method's bound, divergences, likelihoods, SSIM and diversity."""
    for name in arguments.data:
        for share in arguments.shares:
            cell = f"{name} {share:g}"
            wanted = [m for m in arguments.methods if missing(arguments, "queries", cell, m)]
            if not wanted:
                continue
            match, facts = trained(name, arguments)
            if missing(arguments, "training", name):
                keep(arguments, ["training", name], facts)
            x, observed = questions(name, share, arguments)
            measures = Measures(match.model, match.spec, x, observed)
            truth = measures.facts()
            if missing(arguments, "exact", cell):
                keep(arguments, ["exact", cell], truth)
            for label in wanted:
                z, log_q, density, facts = draws_of(label, match, measures.exact, x, observed)
                bounded = label not in ("HMC", "Exact")
                told = measures(z, log_q if bounded else None, density)
                if label == "FCN":
                    told["not a bound"] = told.pop("bound")
                    told = {k: v for k, v in told.items() if k not in NOT_FOR_FCN}
                keep(arguments, ["queries", cell, label], {**facts, **told})
                file = arguments.runs / f"draws {cell} {label}.npz"
                np.savez_compressed(file, z=z[:: max(1, len(z) // 1000)])


def part_optimisers(arguments):
    """Section 4.6: the bound by optimiser, on fixed noise, for one Gaussian and a flow."""
    ready = None
    for family_name in arguments.families:
        for rule, rates in RULES.items():
            for rate in rates:
                label = rule if rate is None else f"{rule}, {rate:g}"
                if not missing(arguments, "optimisers", family_name, label):
                    continue
                if ready is None:
                    match, _ = trained("mnist", arguments)
                    x, observed = questions("mnist", 0.05, arguments, 25)
                    ready = Measures(match.model, match.spec, x, observed)
                measures, x = ready, tf.where(observed, x, 0.0)
                minimizer = LBFGS(max_iterations=100)
                if rate is not None:
                    minimizer = FirstOrder(
                        rule.lower(), rate, num_steps=300, patience=None, fixed_noise=True
                    )
                method = QueryAdaptive(
                    match.model, SEARCHES[family_name][0], minimizer, train_model=False
                )
                found, spent, compiled = search(build(method, match.spec), x, observed)
                q = method.family.distribution(found.parameters)
                z = q.sample(DRAWS, seed=[3, 1])
                gaps = measures.gaps(z, q.log_prob(z))
                facts = {"KL(q || exact)": float(gaps.mean()), "worst": float(gaps.max())}
                facts |= {"median": float(np.median(gaps)), "CPU s": spent}
                facts |= {"compile CPU s": compiled, "steps": float(np.mean(found.steps))}
                facts["bound"] = float(np.mean(measures.log_evidence - gaps))
                keep(arguments, ["optimisers", family_name, label], facts)


def part_acceptance(arguments):
    """Figure 12: acceptance of 30 chains by step size and number of leapfrog steps."""
    match = None
    for leapfrogs in LEAPFROGS:
        for size in STEP_SIZES:
            place = ["acceptance", str(leapfrogs), f"{size:g}"]
            if not missing(arguments, *place):
                continue
            if match is None:
                match, _ = trained("mnist", arguments)
                x, observed = questions("mnist", 0.15, arguments, 1)
            chains = HamiltonianMonteCarlo(
                match.model,
                num_chains=30,
                num_draws=100,
                num_burn_in=50,
                num_leapfrog_steps=leapfrogs,
                vary_length=False,
                step_size=size,
                adapt_step_size=False,
                train_model=False,
            )
            got = build(chains, match.spec).sample_posterior(x, observed, [0, leapfrogs])
            each = np.sort(got.acceptance[:, 0].numpy())
            facts = {"each": each.round(3).tolist(), "mean": float(each.mean())}
            facts |= {"R-hat": float(got.r_hat[0])}
            keep(arguments, place, facts)


def part_gibbs(arguments):
    """Figure 11: pseudo-Gibbs and Metropolis-within-Gibbs by the share that is observed."""
    for share in SHARES:
        if not missing(arguments, "gibbs", f"{share:g}"):
            continue
        match, _ = trained("mnist", arguments)
        x, observed = questions("mnist", share, arguments, 30)
        hidden = tf.where(observed, x, 0.0)
        options = {"num_chains": 10, "num_draws": 100, "train_model": False}
        grid = build(GridPosterior(match.model, 64, train_model=False), match.spec)
        exact = grid.posterior(hidden, observed)
        pools = {"Exact": exact.sample(1000, seed=[3, 2])}
        for label, kind in (
            ("Pseudo-Gibbs", PseudoGibbs),
            ("Metropolis-within-Gibbs", MetropolisWithinGibbs),
        ):
            got = build(kind(match.model, **options), match.spec).sample_posterior(
                hidden, observed, [4, 4]
            )
            pools[label] = tf.reshape(got.z, [-1, *got.z.shape[2:]])
        facts = {}
        for label, z in pools.items():
            mean = match.model.likelihood(z[::10]).mean().numpy().mean(0)
            wrong = np.where(observed, 0.0, (mean - x.numpy()) ** 2).sum((1, 2))
            wrong /= (~observed.numpy()).sum((1, 2))
            apart = np.abs(np.mean(z, 0) - exact.mean().numpy()) / exact.stddev().numpy()
            ratio = np.std(z, 0) / exact.stddev().numpy()
            facts[label] = {
                "MSE": float(wrong.mean()),
                "its stderr": float(wrong.std(ddof=1) / np.sqrt(len(wrong))),
                "error of E z": float(apart.mean()),
                "spread": float(np.exp(np.mean(np.log(ratio)))),
            }
        keep(arguments, ["gibbs", f"{share:g}"], facts)


def part_toy(arguments):
    """Figure 10: a mixture of three Gaussians in the plane, and the MMD of each method."""
    plane = Plane(*PLANE)
    plane.build_for()
    x, observed = tf.ones([1, 1]), tf.ones([1, 1], tf.bool)
    count = 1000
    truth = plane.mixture.sample(count, seed=[9, 1]).numpy()
    for label in ("Truth", "GVI", "Planar flow", "IAF", "Mixture of 10", "FCN", "HMC"):
        if not missing(arguments, "toy", label):
            continue
        facts, began = {}, time.process_time()
        if label == "Truth":
            z = plane.mixture.sample(count, seed=[9, 2])
        elif label == "HMC":
            # One chain, as the paper's code has.
            chain = HamiltonianMonteCarlo(
                plane, num_chains=1, num_draws=count, num_burn_in=500, train_model=False
            )
            z = build(chain, plane.spec).sample_posterior(x, observed, [9, 3]).z[:, 0, 0]
        else:
            family, minimizer = SEARCHES[label]
            method = QueryAdaptive(
                plane, family, minimizer, num_samples=500, train_model=False
            )
            found, spent, _ = search(build(method, plane.spec), x, observed)
            facts["CPU s"] = spent
            z = family.draw(found.parameters, count, [9, 4]).z[:count, 0]
            if label in ("Mixture of 10",):
                z = family.distribution(found.parameters).sample(count, seed=[9, 4])[:, 0]
            if label != "FCN":
                q = family.distribution(found.parameters)
                many = q.sample(20_000, seed=[9, 5])
                gap = q.log_prob(many) - plane.mixture.log_prob(many)
                facts["KL(q || exact)"] = float(tf.reduce_mean(gap))
        facts.setdefault("CPU s", time.process_time() - began)
        facts["MMD^2"] = rbf_mmd(np.asarray(z), truth)
        centres = np.asarray(PLANE[1])
        near = np.argmin(((np.asarray(z)[:, np.newaxis] - centres) ** 2).sum(-1), 1)
        facts["shares"] = (np.bincount(near, minlength=3) / len(near)).round(3).tolist()
        keep(arguments, ["toy", label], facts)
        np.savez_compressed(arguments.runs / f"toy {label}.npz", z=z)


def part_draw(arguments):
    """The pictures and the text of what was measured."""
    arguments.json.with_suffix(".md").write_text(cpn_markdown.text(read(arguments)))
    cpn_pictures.draw(read(arguments), arguments)


PARTS = {
    "queries": part_queries,
    "optimisers": part_optimisers,
    "acceptance": part_acceptance,
    "gibbs": part_gibbs,
    "toy": part_toy,
    "draw": part_draw,
}


def main():
    """Does what it is told, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=list(PARTS))
    parser.add_argument("--data", nargs="*", default=["mnist", "fashion_mnist"])
    parser.add_argument("--shares", nargs="*", type=float, default=[0.05, 0.15])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--families", nargs="*", default=["GVI", "Planar flow"])
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/cpn"))
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS / "cpn_figures.json")
    parser.add_argument("--data_dir", help="where TFDS keeps what it builds")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for what in arguments.what:
        PARTS[what](arguments)


if __name__ == "__main__":
    main()
