"""The pictures of benchmarks/qavi_images.py."""

import numpy as np
from qavi_image_methods import METHODS, PRIOR, SEARCHES, shown
from qavi_image_models import TITLES, picture_file, questions

from vae_arbcond import pictures

LOOKS = {  # name: (colour, line, marker)
    "Mix. QAVI": ("#d62728", "-", "o"),
    "Flow QAVI": ("#ff7f0e", "-", "s"),
    "Gaus. QAVI": ("#8c564b", "-", "^"),
    "Mix. QAVI, beta 2": ("#e8899a", "--", "p"),
    "Mix. QAVI, beta 4": ("#7b0000", "-.", "h"),
    "Gaus. QAVI, amortised start": ("#8c564b", "--", "^"),
    "Feat. QAVI": ("#e377c2", "-", "v"),
    "Posterior Match": ("#1f77b4", "-", "D"),
    "Posterior Match (true)": ("#1f77b4", "--", "D"),
    "Posterior Match (random)": ("#1f77b4", ":", "D"),
    "Re-tuned Encoder": ("#17becf", "-", "P"),
    "Fill Zeros": ("#7f7f7f", "-", "X"),
    "the prior": ("#000000", ":", "."),
    "pseudo-Gibbs": ("#2ca02c", "-", "<"),
    "Metropolis-in-Gibbs": ("#2ca02c", "--", ">"),
    "HMC": ("#9467bd", "-", "*"),
}
STRIPS, STRIP_DRAWS = 4, 5  # questions that are shown, and draws of each method


def draw(found, arguments):
    """Every picture whose results are there."""
    import matplotlib

    matplotlib.use("Agg")
    rows = found.get("methods", {})
    if rows:
        likelihood(found, arguments)
        accuracy(found, arguments)
    for mask_name in rows:
        strips(mask_name, found, arguments)
    for mask_name in found.get("time", {}):
        against_time(mask_name, found, arguments)


def save(figure, name, arguments, dpi=90):
    """Writes a figure beside the JSON file."""
    import matplotlib.pyplot as plt

    path = arguments.json.parent / f"{arguments.json.stem}_{name}.png"
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    print(path, path.stat().st_size, flush=True)


def likelihood(found, arguments):
    """Figure 4: Eq. 12 by the number of draws."""
    import matplotlib.pyplot as plt

    masks = list(found["methods"])
    figure, axes = plt.subplots(
        1, len(masks), figsize=(4.6 * len(masks) + 2.6, 4.6), layout="constrained"
    )
    for axis, mask_name in zip(np.atleast_1d(axes), masks, strict=True):
        rows = found["methods"][mask_name]
        for label in [m for m in METHODS if m in rows]:
            counts = [int(count) for count in rows[label]["curve"]]
            colour, line, marker = LOOKS[label]
            axis.plot(
                counts,
                list(rows[label]["curve"].values()),
                line,
                color=colour,
                marker=marker,
                markersize=4,
                label=shown(label),
            )
        if mask_name in found.get("truth", {}):
            end = found["truth"][mask_name]["log p(x_M) a pixel"]
            axis.axhline(end, color="black", linewidth=1, label="q fitted to x_M itself")
        least = min(rows[m]["curve"]["1"] for m in rows if m != PRIOR)
        axis.set_ylim(bottom=1.05 * least)  # The prior begins far below.
        axis.set_xscale("log")
        axis.set(title=TITLES[mask_name], xlabel="draws S of q(z)")
        axis.grid(alpha=0.3)
    first = np.atleast_1d(axes)
    first[0].set_ylabel("log p(x_M), Eq. 12, nats a hidden pixel")
    handles, labels = first[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, handlelength=3.5)
    save(figure, "likelihood", arguments)


def accuracy(found, arguments):
    """Figure 7: share of completed images whose digit a classifier finds."""
    import matplotlib.pyplot as plt

    masks = list(found["methods"])
    labels = [m for m in METHODS if any(m in found["methods"][k] for k in masks)]
    figure, axes = plt.subplots(
        1, len(masks), figsize=(3.6 * len(masks) + 2.0, 4.2), sharey=True, layout="constrained"
    )
    for axis, mask_name in zip(np.atleast_1d(axes), masks, strict=True):
        rows = found["methods"][mask_name]
        for i, label in enumerate(labels):
            if label not in rows:
                continue
            height = len(labels) - 1 - i
            colour = LOOKS[label][0]
            value, error = (100 * rows[label][k] for k in ("accuracy", "accuracy, stderr"))
            axis.barh(height, value, xerr=error, color=colour, alpha=0.75, height=0.7)
            axis.text(2, height, f"{value:.0f}", va="center", fontsize=8, color="white")
        told = found.get("classifier", {}).get(mask_name, {})
        for key, line in (("true image", "-"), ("hidden pixels black", ":")):
            if key in told:
                axis.axvline(100 * told[key], color="black", linestyle=line, label=key)
        axis.set(title=TITLES[mask_name], xlabel="digit found, % of draws (+- standard error)")
        axis.set_xlim(0, 103)
        axis.set_yticks(np.arange(len(labels))[::-1], [shown(m) for m in labels], fontsize=8)
    figure.legend(
        *np.atleast_1d(axes)[0].get_legend_handles_labels(),
        loc="outside lower right",
        fontsize=8,
        ncols=2,
    )
    save(figure, "accuracy", arguments)


def strips(mask_name, found, arguments):
    """Figure 5: for some images the input, draws of every method, and the truth."""
    import matplotlib.pyplot as plt

    rows = found["methods"][mask_name]
    labels = [m for m in METHODS if picture_file(arguments, mask_name, m).exists()]
    if "Mix. QAVI" not in labels:
        return
    x, observed, _ = questions(mask_name, 20, arguments)
    # Half of them the first of the test images, half those of which the mixture is least sure.
    unsure = np.argsort(np.array(rows["Mix. QAVI"]["each"]["accuracy"])[:20], kind="stable")
    chosen = list(range(STRIPS // 2))
    chosen += [int(i) for i in unsure if i >= STRIPS // 2][: STRIPS - len(chosen)]
    tall = 0.36 * len(labels) + 0.5
    figure, axes = plt.subplots(
        1, STRIPS, figsize=(2.85 * STRIPS + 1.9, tall), layout="constrained"
    )
    images = {}
    for label in labels:
        images[label] = np.load(picture_file(arguments, mask_name, label))["images"]
    for axis, i in zip(axes, chosen, strict=True):
        many = [images[label][:, i] for label in labels]
        sheet = pictures.inpainting_sheet(
            np.repeat(x.numpy()[i : i + 1], len(labels), 0),
            np.repeat(observed.numpy()[i : i + 1], len(labels), 0),
            np.stack(many, 1),
            scale=1,
        )
        axis.imshow(sheet, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axis.set_xticks([15, 107, 199], ["input", "draws", "truth"], fontsize=8)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0].set_yticks(
        [17 + 30 * i for i in range(len(labels))], [shown(m) for m in labels], fontsize=8
    )
    save(figure, f"strips_{mask_name}", arguments, dpi=120)


def against_time(mask_name, found, arguments):
    """Figure 8: likelihoods against CPU seconds a question."""
    import matplotlib.pyplot as plt

    rows = found["methods"][mask_name]
    count = len(rows["Mix. QAVI"]["each"]["accuracy"])
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    labels = {
        "log p(x_M) a pixel": "log p(x_M), Eq. 12 with 1,000 draws,\nnats a hidden pixel",
        "log p(x_M | x_o)": "log p(x_M | x_o), mean over 100 plain draws,\nnats an image",
    }
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        for method in [m for m in METHODS if "CPU s" in rows.get(m, {})]:
            last = rows[method] | {"log p(x_M) a pixel": rows[method]["curve"]["1000"]}
            steps = [*found["time"][mask_name].get(method, {}).values(), last]
            colour, line, marker = LOOKS[method]
            axis.plot(
                [facts["CPU s"] / count for facts in steps],
                [facts[key] for facts in steps],
                line if method in SEARCHES else "none",
                color=colour,
                marker=marker,
                markersize=6,
                fillstyle="full" if line == "-" else "none",
                label=shown(method),
            )
        axis.set_xscale("log")
        axis.set(xlabel="CPU seconds a question, compilation apart", ylabel=label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, handlelength=3.5)
    figure.suptitle(TITLES[mask_name], fontsize=10)
    save(figure, f"time_{mask_name}", arguments)
