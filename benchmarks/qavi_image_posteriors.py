"""Figure 3 of benchmarks/qavi_images.py: what each family makes of a posterior."""

import argparse
import json
import pathlib
import time

import cpn_figures
import numpy as np
import qavi_tables
import scipy.stats
import tensorflow as tf
from cpn_measures import Measures
from cpn_models import questions, trained
from cpn_pictures import evidence
from qavi_image_methods import searched

from vae_arbcond.conditioners import GridPosterior, QueryAdaptive
from vae_arbcond.variational import FirstOrder, MixtureFamily

CPN = pathlib.Path(__file__).resolve().parent / "results" / "cpn_figures.json"

SHARE, ROWS = 0.05, 4  # of the pixels that are seen; questions that are shown
PLANE = (  # columns, named as cpn_figures.py names them
    "Exact",
    "Mixture of 100",
    "Gaussian",
    "Mixture of 10",
    "Planar flow",
    "IAF",
    "FCN",
    "Posterior Matching",
)
HIDDEN = {"banknote": (0, 1), "concrete": (0, 3)}  # two columns of a table
NAMES = {
    "banknote": ("variance", "skewness"),
    "concrete": ("cement", "water"),
}
VARIANTS = ("Gaus. QAVI", "Flow QAVI", "Mix. QAVI", "Feat. QAVI", "Posterior Match")
GAIN = ("Gaus. QAVI", "Mix. QAVI")  # by whose bounds questions are chosen
SHOWN = 1_000  # draws of each, as in the paper
TRIED = 40  # test rows of a table of which one is shown
INK = "#1f77b4"


def extended(components=100):
    """The paper's reference: a mixture of 100, fitted for longer."""
    long = FirstOrder(learning_rate=0.05, num_steps=1_000, patience=None)
    return MixtureFamily(components, threshold=0.0), long


def chosen_questions():
    """Numbers of questions by what a mixture's bound gained, as cpn_figures.json has it."""
    rows = json.loads(CPN.read_text())["queries"][f"mnist {SHARE:g}"]
    bounds = [rows[label]["each"]["bound"] for label in ("Gaussian", "Mixture of 10")]
    return np.argsort(np.subtract(*bounds))[[0, 1, 3, 24]]


def plane(arguments, keep, missing):
    """Posteriors of z, two numbers, for the questions that are least like a Gaussian."""
    wanted = [m for m in PLANE if missing(arguments, "posteriors", m)]
    if not wanted:
        return
    of_plane = argparse.Namespace(**{**vars(arguments), "runs": arguments.plane_runs})
    match, _ = trained("mnist", of_plane)
    x, observed = questions("mnist", SHARE, of_plane)
    chosen = chosen_questions()
    x, observed = tf.gather(x, chosen), tf.gather(observed, chosen)
    measures = Measures(match.model, match.spec, x, observed)
    for label in wanted:
        if label == "Mixture of 100":
            family, long = extended()
            method = QueryAdaptive(
                match.model,
                family,
                long,
                num_samples=1_000,
                train_model=False,
                jit_compile=True,
            )
            hidden = tf.where(observed, x, 0.0)
            found, facts = searched(method, match.spec, hidden, observed)
            q = family.distribution(found.parameters)
            z = q.sample(2 * SHOWN, seed=[3, 1])
            log_q = q.log_prob(z)
        else:
            asked = match, measures.exact, x, observed
            z, log_q, _, facts = cpn_figures.draws_of(label, *asked)
        if label not in ("Exact", "FCN"):
            gaps = measures.gaps(z, log_q)
            facts |= {"KL(q || exact)": float(gaps.mean()), "each": gaps.round(4).tolist()}
        np.savez_compressed(file_of(arguments, "plane", label), z=z[:SHOWN])
        keep(arguments, ["posteriors", label], facts)


def file_of(arguments, what, label):
    """Where draws are kept."""
    return arguments.runs / f"posterior {what} {label}.npz"


def tables(arguments, keep, missing):
    """Posteriors of two hidden columns: draws of x_M by each method, as in the paper."""
    for name, columns in HIDDEN.items():
        if not missing(arguments, "tables", name):
            continue
        began = time.process_time()
        splits = qavi_tables.splits_of(name)
        match, again = qavi_tables.trained(splits)
        made = qavi_tables.methods_of(match, again)
        family, long = extended()
        made["Mixture of 100"] = QueryAdaptive(
            match.model, family, long, num_samples=1_000, train_model=False
        )
        x = splits.test.x[:TRIED]
        observed = np.ones(x.shape, bool)
        observed[:, columns] = False
        for method in made.values():
            if method.spec is None:
                method.build_for(splits.train.spec)
        # The question whose posterior is least like a Gaussian; its answer plays no part.
        bounds = [made[m].search(x, observed).bound.numpy() for m in GAIN]
        row = int(np.argmax(bounds[1] - bounds[0]))
        one = tf.constant(x[row : row + 1]), tf.constant(observed[row : row + 1])
        nothing = tf.zeros_like(one[1])
        found = {"prior": drawn(made["Gaus. QAVI"], one[0], nothing)}
        for label in ("Mixture of 100", *VARIANTS):
            found[label] = drawn(made[label], *one)
        found = {label: draws[:, columns] for label, draws in found.items()}
        np.savez_compressed(file_of(arguments, name, "draws"), **found, truth=x[row, columns])
        facts = {"row": row, "bounds' difference": float((bounds[1] - bounds[0])[row])}
        keep(arguments, ["tables", name], facts | {"CPU s": time.process_time() - began})


def drawn(method, x, observed):
    """Plain draws of x given what is seen: [SHOWN, D]."""
    method.correct_draws = False
    return method.impute(x, observed, SHOWN, [5, 5]).numpy()[:, 0]


def draw(found, arguments):
    """The pictures whose results are there."""
    if set(PLANE) <= set(found.get("posteriors", {})):
        draw_plane(found["posteriors"], arguments)
    if set(HIDDEN) <= set(found.get("tables", {})):
        draw_tables(arguments)


def density(draws, ticks):
    """A kernel density estimate of draws [S, 2] on a grid, [len(ticks[1]), len(ticks[0])]."""
    places = np.stack(np.meshgrid(*ticks), 0).reshape(2, -1)
    found = scipy.stats.gaussian_kde(draws.T, 0.25)(places)
    return found.reshape(len(ticks[1]), len(ticks[0]))


def draw_plane(rows, arguments):
    """Densities of draws over contours of the grid posterior."""
    import matplotlib.pyplot as plt
    from qavi_image_pictures import save

    of_plane = argparse.Namespace(**{**vars(arguments), "runs": arguments.plane_runs})
    match, _ = trained("mnist", of_plane)
    x, observed = questions("mnist", SHARE, of_plane)
    chosen = chosen_questions()
    x, observed = tf.gather(x, chosen), tf.gather(observed, chosen)
    grid = GridPosterior(match.model, train_model=False)
    grid.build_for(match.spec)
    exact = grid.posterior(x, observed)
    size = (1.55 * (1 + len(PLANE)), 1.62 * ROWS + 0.5)
    figure, axes = plt.subplots(ROWS, 1 + len(PLANE), figsize=size, layout="constrained")
    for i, row in enumerate(axes):
        row[0].imshow(evidence(x[i].numpy(), observed[i].numpy()))
        low, high = exact.low[i].numpy(), exact.high[i].numpy()
        mass = np.exp(exact.log_mass[i].numpy()).reshape(exact.points, -1).T
        ticks = [np.linspace(a, b, exact.points) for a, b in zip(low, high, strict=True)]
        tight = np.argwhere(mass > 0.002 * mass.max())
        lo, hi = tight.min(0), tight.max(0)
        box = [np.linspace(ticks[a][lo[1 - a]], ticks[a][hi[1 - a]], 80) for a in (0, 1)]
        for axis, label in zip(row[1:], PLANE, strict=True):
            if label == "Exact":
                axis.contourf(*ticks, mass, 12, cmap="Blues")
            else:
                z = np.load(file_of(arguments, "plane", label))["z"][:, i]
                axis.contourf(*box, density(z, box), 12, cmap="Blues")
            levels = [v * mass.max() for v in (0.05, 0.35, 0.7)]
            axis.contour(*ticks, mass, levels, colors="black", linewidths=0.7)
            axis.set_xlim(box[0][0], box[0][-1])
            axis.set_ylim(box[1][0], box[1][-1])
            if "each" in rows[label]:
                axis.set_xlabel(
                    f"KL {round(rows[label]['each'][i], 3) + 0.0:.3f}", fontsize=8, labelpad=2
                )
        for axis in row:
            axis.set_xticks([]), axis.set_yticks([])
    for axis, label in zip(axes[0], ("evidence", *PLANE), strict=True):
        axis.set_title(label, fontsize=9)
    figure.suptitle(
        "q(z) of the model with two latents (blue) over the exact posterior's contours "
        "(black); KL(q || exact) in nats",
        fontsize=10,
    )
    save(figure, "posteriors", arguments)


def draw_tables(arguments):
    """Densities of two hidden columns' draws, and the true values."""
    import matplotlib.pyplot as plt
    from qavi_image_pictures import save

    labels = ("prior", "Mixture of 100", *VARIANTS)
    size = (1.75 * len(labels), 1.95 * len(HIDDEN) + 0.4)
    figure, axes = plt.subplots(len(HIDDEN), len(labels), figsize=size, layout="constrained")
    for row, name in zip(axes, HIDDEN, strict=True):
        with np.load(file_of(arguments, name, "draws")) as file:
            draws, truth = {label: file[label] for label in labels}, file["truth"]
        seen = np.concatenate([draws[label] for label in labels[1:]] + [truth[np.newaxis]])
        low, high = np.quantile(seen, 0.005, 0), np.quantile(seen, 0.995, 0)
        low, high = np.minimum(low, truth) - 0.5, np.maximum(high, truth) + 0.5
        ticks = [np.linspace(a, b, 80) for a, b in zip(low, high, strict=True)]
        for axis, label in zip(row, labels, strict=True):
            axis.contourf(*ticks, density(draws[label], ticks), 12, cmap="Blues")
            axis.plot(*truth, "o", color="red", markersize=4)
            axis.tick_params(labelsize=7)
            if axis is not row[0]:
                axis.set_yticklabels([])
            axis.set_xlabel(NAMES[name][0], fontsize=8)
        row[0].set_ylabel(f"{name}\n{NAMES[name][1]}", fontsize=8)
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set_title(label, fontsize=9)
    figure.suptitle(
        "Two hidden columns in standard deviations: 1,000 draws of each method; the truth red",
        fontsize=10,
    )
    save(figure, "tables", arguments)
