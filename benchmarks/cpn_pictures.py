"""The pictures of benchmarks/cpn_figures.py."""

import numpy as np
import tensorflow as tf
from cpn_models import PLANE, Plane, questions, trained

from vae_arbcond.conditioners import GridPosterior

METHODS = (
    "Exact",
    "Gaussian",
    "GVI",
    "Planar flow",
    "IAF",
    "Mixture of 10",
    "FCN",
    "HMC",
)
INK = "#1f77b4"


def evidence(x, observed):
    """x [H, W], dark, with what is observed in colour, ink orange and paper blue: RGB."""
    picture = np.repeat(x[..., np.newaxis], 3, -1) * 0.25
    picture[observed & (x > 0.5)] = (1.0, 0.6, 0.1)
    picture[observed & (x <= 0.5)] = (0.2, 0.45, 1.0)
    return picture


def draw(found, arguments):
    """Every picture whose results are there."""
    import matplotlib

    matplotlib.use("Agg")
    for cell, rows in found.get("queries", {}).items():
        if not {"GVI", "Mixture of 10"} <= set(rows):
            continue
        posteriors(cell, found, arguments)
        measures(cell, found, arguments)
    if "acceptance" in found:
        acceptance(found["acceptance"], arguments)
    if "gibbs" in found:
        gibbs(found["gibbs"], arguments)
    if "toy" in found:
        toy(found["toy"], arguments)


def save(figure, name, arguments):
    """Writes a figure beside the JSON file."""
    import matplotlib.pyplot as plt

    path = arguments.json.parent / f"cpn_{name}.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(path, path.stat().st_size, flush=True)


def posteriors(cell, found, arguments, count=5):
    """Figures 3 and 4: the exact posterior, and every method's draws over its contours."""
    import matplotlib.pyplot as plt

    name, share = cell.split()
    labels = [m for m in METHODS if (arguments.runs / f"draws {cell} {m}.npz").exists()]
    match, _ = trained(name, arguments)
    x, observed = questions(name, float(share), arguments)
    grid = GridPosterior(match.model, train_model=False)
    grid.build_for(match.spec)
    exact = grid.posterior(x, observed)
    # From the posterior that is least like a Gaussian to the one that is most.
    rows = found["queries"][cell]
    wins = np.subtract(rows["Mixture of 10"]["each"]["bound"], rows["GVI"]["each"]["bound"])
    chosen = np.argsort(-wins)[[0, 1, 3, 9, 24]]
    size = (1.75 * (1 + len(labels)), 1.8 * count)
    figure, axes = plt.subplots(count, 1 + len(labels), figsize=size, layout="constrained")
    levels = [0.05, 0.35, 0.7]  # of the highest density
    for row, q in zip(axes, chosen, strict=True):
        row[0].imshow(evidence(x[q].numpy(), observed[q].numpy()))
        low, high = exact.low[q].numpy(), exact.high[q].numpy()
        density = np.exp(exact.log_mass[q].numpy()).reshape(exact.points, -1).T
        ticks = [np.linspace(a, b, exact.points) for a, b in zip(low, high, strict=True)]
        for axis, label in zip(row[1:], labels, strict=True):
            z = np.load(arguments.runs / f"draws {cell} {label}.npz")["z"][:400, q]
            if label == "Exact":
                axis.contourf(*ticks, density, 12, cmap="Greys")
            else:
                axis.plot(*z.T, ".", color=INK, markersize=1.6, alpha=0.6)
                axis.contour(
                    *ticks,
                    density,
                    [v * density.max() for v in levels],
                    colors="black",
                    linewidths=0.7,
                )
            tight = np.argwhere(density > 0.002 * density.max())
            lo, hi = tight.min(0), tight.max(0)
            axis.set_xlim(*(ticks[0][i] for i in (lo[1], hi[1])))
            axis.set_ylim(*(ticks[1][i] for i in (lo[0], hi[0])))
        for axis in row:
            axis.set_xticks([]), axis.set_yticks([])
    for axis, label in zip(axes[0], ["evidence", *labels], strict=True):
        axis.set_title(label, fontsize=10)
    save(figure, f"posteriors_{name}_{share}", arguments)


def measures(cell, found, arguments):
    """Figure 5: pairs of bounds; likelihoods, SSIM and diversity of all questions."""
    import matplotlib.pyplot as plt

    rows = found["queries"][cell]
    labels = [m for m in METHODS if m in rows]
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.4), layout="constrained")
    base = rows["GVI"]["each"]["bound"]
    for label in ("Planar flow", "IAF", "Mixture of 10"):
        if label in rows:
            gain = np.subtract(rows[label]["each"]["bound"], base)
            axes[0].plot(base, gain, ".", label=label)
    axes[0].axhline(0.0, color="black", linewidth=0.8)
    axes[0].set(xlabel="C-ELBO of GVI, nats", ylabel="C-ELBO above GVI's, nats")
    axes[0].legend(fontsize=8)
    exact = found["exact"][cell]["each"]["log p(x_u | x_o)"]
    loss = {m: np.subtract(rows[m]["each"]["log p(x_u | x_o)"], exact) for m in labels}
    axes[1].boxplot(list(loss.values()), tick_labels=labels)
    axes[1].set_ylabel("log p(x_u | x_o) above exact, nats")
    for axis, key in ((axes[2], "SSIM"), (axes[3], "diversity")):
        axis.boxplot([rows[m]["each"][key] for m in labels], tick_labels=labels)
        axis.set_ylabel(key)
    for axis in axes[1:]:
        axis.tick_params(axis="x", rotation=60)
    name, share = cell.split()
    save(figure, f"measures_{name}_{share}", arguments)


def acceptance(found, arguments):
    """Figure 12: boxes of 30 chains."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(11, 3), sharey=True, layout="constrained"
    )
    for axis, (leapfrogs, row) in zip(axes, found.items(), strict=True):
        axis.boxplot([facts["each"] for facts in row.values()], tick_labels=list(row))
        axis.set(title=f"{leapfrogs} leapfrog steps", xlabel="step size")
    axes[0].set_ylabel("acceptance, 30 chains")
    save(figure, "acceptance", arguments)


def gibbs(found, arguments):
    """Figure 11."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    keys = {
        "MSE": "squared error of hidden pixels",
        "error of E z": "error of E z, exact std. dev.",
        "spread": "spread of z over the exact one",
    }
    shares = [100 * float(share) for share in found]
    for axis, (key, label) in zip(axes, keys.items(), strict=True):
        for method in ("Exact", "Metropolis-within-Gibbs", "Pseudo-Gibbs"):
            values = [row[method][key] for row in found.values()]
            axis.plot(shares, values, "o-", label=method, markersize=4)
        axis.set(xlabel="observed, %", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    save(figure, "gibbs", arguments)


def toy(found, arguments):
    """Figure 10."""
    import matplotlib.pyplot as plt

    plane = Plane(*PLANE)
    axis_of_z = np.linspace(-3.2, 3.2, 161, dtype=np.float32)
    places = np.stack(np.meshgrid(axis_of_z, axis_of_z), -1)
    density = tf.exp(plane.mixture.log_prob(places)).numpy()
    figure, axes = plt.subplots(
        1, len(found), figsize=(2.1 * len(found), 2.4), layout="constrained"
    )
    for axis, (label, facts) in zip(axes, found.items(), strict=True):
        z = np.load(arguments.runs / f"toy {label}.npz")["z"]
        axis.contour(axis_of_z, axis_of_z, density, 4, colors="black", linewidths=0.6)
        axis.plot(*z.T, ".", color=INK, markersize=1.6, alpha=0.6)
        axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[])
        axis.set_title(f"{label}\nMMD² {facts['MMD^2']:.4f}", fontsize=9)
    save(figure, "toy", arguments)
