"""Closed forms on tables: NRMSE, PFC, log scores and speed beside what was wanted.

    python benchmarks/closed_form.py [--tables iris ...] [--speed] [--json FILE] [--md FILE]
    python benchmarks/closed_form.py --tables digits wall_robot --factors 16 32
    python benchmarks/closed_form.py --tables --speed complete

The second tries these numbers of factor analysers alone, which takes less time; the third
measures no table and only such speeds as have that word in their name.

Numeric tables follow ../shared/tools/tabular_protocol.py (splits, masks, scoring), seeds 0, 1
and 2: the mean over features of the RMSE of hidden test cells, in standard deviations. How
many components is decided by the out-of-fold log score of training rows, which family by their
out-of-fold error; with --factors the family is given, and the numbers of components to try.
Categorical tables are split and masked in the same way: PFC is the mean over features of the
share of hidden test cells that are wrong. Log scores are nats a hidden test cell, of
standardised columns with 50 or more distinct values (20 or 2 where there are none). What is
measured is added to what the JSON file has.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from vae_arbcond import floor
from vae_arbcond.conditioners import GaussianMixtureConditioner
from vae_arbcond.shapes import DataSpec

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
SEEDS = (0, 1, 2)
MIN_DISTINCT = (50, 20, 2)
# The NRMSE of a prototype of the same recipe, to be reached within .01.
WANTED = {
    "iris": 0.612,
    "diabetes": 0.783,
    "banknote": 0.773,
    "yeast": 0.966,
    "breast_wdbc": 0.381,
    "concrete": 0.795,
    "red_wine": 0.778,
    "white_wine": 0.819,
    "digits": 0.642,
    "boston": 0.628,
    "wall_robot": 0.708,
}
# VAEAC's PFC and two standard deviations.
WANTED_PFC = {"mushroom": 0.244, "zoo": 0.16, "phishing_1353": 0.394}
SPEED = {  # rows, columns, components or None for the search: seconds wanted
    "search, 1,000 x 20": (1_000, 20, None, 20.0),
    "search, 5,000 x 25": (5_000, 25, None, 90.0),
    "one Gaussian, 100,000 x 50": (100_000, 50, 1, 120.0),
}


def protocol():
    """The module that everybody's splits and masks come from."""
    sys.path.insert(0, str(SHARED / "tools"))
    import tabular_protocol

    return tabular_protocol


def numeric(name, seed, factors):
    """Scores of the closed forms on one split of a numeric table.

    `factors`: numbers of components to try of factor analysers alone; empty for the floor.
    """
    tools = protocol()
    full, train, test, truth, removed = tools.split(*tools.load(SHARED / "data", name), seed)
    mean, scale = np.nanmean(train, 0), np.nanstd(train, 0)
    scale = np.where(scale > 0, scale, 1.0)
    present, observed = ~np.isnan(train), ~np.isnan(test)
    x = np.where(present, (train - mean) / scale, 0.0).astype(np.float32)
    asked = np.where(observed, (test - mean) / scale, 0.0).astype(np.float32)
    answers = ((truth - mean) / scale).astype(np.float32)
    spec = DataSpec((x.shape[1],))
    distinct = np.array([len(np.unique(column)) for column in full.T])[:-1]
    # Where no column has 50 distinct values, those that have 20; else all that vary.
    least = next(n for n in MIN_DISTINCT if (distinct >= n).any())
    target = removed & np.append(distinct >= least, False)
    plain = GaussianMixtureConditioner((1,), strength=0.0, bag=False).create_variables(spec)
    plain.fit_rows(x, present)
    started = time.time()
    if factors:
        made = GaussianMixtureConditioner(tuple(factors), num_factors=12, num_steps=20)
        told = made.create_variables(spec).fit_rows(x, present)
        fits = [floor.Fitted("factors", made, told, 0.0, 0.0)]
    else:
        fits = floor.fit_candidates(x, present, spec)
    scored = {"seconds": time.time() - started}
    chosen = fits.index(floor.best(fits))
    for label, method in (
        ("em_gaussian", plain),
        *((fit.label, fit.conditioner) for fit in fits),
    ):
        done = method.complete(asked, observed, 1, [0, 0]).numpy() * scale + mean
        filled = np.where(observed, test, done)
        scored[label] = {
            "nrmse": tools.nrmse(truth, filled, removed, full.std(0)),
            "log_score": log_score(method, answers, observed, target),
        }
    scored["chosen"] = fits[chosen].label
    scored["tried"] = [*(fit.label for fit in fits), *factors]
    scored["components"] = fits[chosen].told["components"]
    return scored


def log_score(method, x, observed, target):
    """log p of each target cell given what is observed, one cell at a time: their mean."""
    total, count = 0.0, 0
    for d in np.flatnonzero(target.any(0)):
        rows = target[:, d]
        alone = np.zeros([int(rows.sum()), x.shape[1]], bool)
        alone[:, d] = True
        value = method.log_likelihood(x[rows], observed[rows], alone, 1, [0, 0]).value
        total, count = total + float(np.sum(value)), count + len(alone)
    return total / max(count, 1)


def categorical_table(name):
    """Level indices [N, D], the target last, and the number of levels of each column."""
    folder = SHARED / "data" / name
    file = next(path for path in sorted(folder.iterdir()))
    lines = [line.strip() for line in file.read_text().splitlines()]
    cells = [li.split(",") for li in lines if li and not li.startswith(("@", "%"))]
    if name == "mushroom":  # The target comes first.
        cells = [[*row[1:], row[0]] for row in cells]
    if name == "zoo":  # The animals' names come first.
        cells = [row[1:] for row in cells]
    columns = [np.unique(column, return_inverse=True) for column in np.array(cells).T]
    return np.stack([i for _, i in columns], 1), tuple(len(u) for u, _ in columns)


def categorical(name, seed):
    """PFC and log score of both treatments of levels on one split."""
    x, levels = categorical_table(name)
    rng = np.random.RandomState(seed)
    order, cut = rng.permutation(len(x)), int(0.75 * len(x))
    removed = rng.rand(*x.shape) < 0.5
    train, test = order[:cut], order[cut:]
    present, observed = ~removed[train], ~removed[test]
    observed[:, -1] = False
    target = removed[test].copy()
    target[:, -1] = False
    started = time.time()
    method = GaussianMixtureConditioner().create_variables(
        DataSpec((x.shape[1],), levels=levels)
    )
    told = method.fit_rows(x[train].astype(np.float32), present)
    seconds = time.time() - started
    asked = x[test].astype(np.float32)
    shares = method.class_probabilities(asked, observed).numpy()
    found = {"levels": _class_scores(shares, x[test], target), "seconds": seconds}
    found["components"] = told["components"]
    shares = latent_gaussian(x, levels, train, test, present, observed)
    found["latent Gaussian"] = _class_scores(shares, x[test], target)
    return found


def latent_gaussian(x, levels, train, test, present, observed):
    """Levels as indicator columns of the Gaussian mixture: the other way to join them.

    Probabilities are the indicators' conditional means, kept above 0.01 and normalised.
    """
    owner = np.repeat(np.arange(len(levels)), levels)
    hot = np.concatenate([np.eye(n)[x[:, j]] for j, n in enumerate(levels)], 1)
    seen = present[:, owner]
    mean = np.nan_to_num(np.nanmean(np.where(seen, hot[train], np.nan), 0))
    scale = np.maximum(np.nan_to_num(np.nanstd(np.where(seen, hot[train], np.nan), 0)), 1e-3)
    z = ((hot - mean) / scale).astype(np.float32)
    few = hot.shape[1] <= 100  # More indicators would take minutes for a mixture.
    method = GaussianMixtureConditioner((1, 2, 4) if few else (1,), strength=0.0, bag=few)
    method.create_variables(DataSpec((z.shape[1],)))
    method.fit_rows(z[train], seen)
    done = method.complete(z[test], observed[:, owner], 1, [0, 0]).numpy() * scale + mean
    shares = np.zeros([len(test), len(levels), max(levels)])
    for j, size in enumerate(levels):
        table = np.maximum(done[:, owner == j], 0.01)
        shares[:, j, :size] = table / table.sum(1, keepdims=True)
    return shares


def mixed(name, seed):
    """Both treatments on a mixed table: boston with its river and its roads as levels."""
    del name
    x, target_column = protocol().load(SHARED / "data", "boston")
    x = np.column_stack([x, target_column])
    sizes = np.zeros(x.shape[1], int)
    for column in (3, 8):  # CHAS and RAD
        values, x[:, column] = np.unique(x[:, column], return_inverse=True)
        sizes[column] = len(values)
    rng = np.random.RandomState(seed)
    order, cut = rng.permutation(len(x)), int(0.75 * len(x))
    removed = rng.rand(*x.shape) < 0.5
    train, test = order[:cut], order[cut:]
    seen = ~removed
    seen[test, -1] = False
    real = sizes == 0
    shown = np.where(seen[train], x[train], np.nan)
    mean, scale = np.nanmean(shown, 0), np.nanstd(shown, 0)
    z = np.where(real, (x - mean) / scale, x).astype(np.float32)
    method = GaussianMixtureConditioner().create_variables(
        DataSpec((x.shape[1],), levels=tuple(sizes.tolist()))
    )
    started = time.time()
    told = method.fit_rows(z[train], seen[train])
    found = {"seconds": time.time() - started, "components": told["components"]}
    target = removed[test] & ~real
    truth = np.where(real, 0, x[test]).astype(int)
    shares = method.class_probabilities(z[test], seen[test]).numpy()
    found["levels"] = _class_scores(shares, truth, target)
    owner = np.repeat(np.arange(x.shape[1]), np.maximum(sizes, 1))
    parts = [
        z[:, [d]] if n == 0 else np.eye(n)[x[:, d].astype(int)] for d, n in enumerate(sizes)
    ]
    hot = np.concatenate(parts, 1)
    shown = np.where(seen[train][:, owner], hot[train], np.nan)
    mean, scale = np.nanmean(shown, 0), np.maximum(np.nanstd(shown, 0), 1e-3)
    hot = ((hot - mean) / scale).astype(np.float32)
    method = GaussianMixtureConditioner().create_variables(DataSpec((hot.shape[1],)))
    method.fit_rows(hot[train], seen[train][:, owner])
    done = method.complete(hot[test], seen[test][:, owner], 1, [0, 0]).numpy() * scale + mean
    for d in np.flatnonzero(~real):
        table = np.maximum(done[:, owner == d], 0.01)
        shares[:, d, : sizes[d]] = table / table.sum(1, keepdims=True)
    found["latent Gaussian"] = _class_scores(shares, truth, target)
    return found


def _class_scores(shares, truth, target):
    wrong = shares.argmax(-1) != truth
    pfc = [wrong[target[:, j], j].mean() for j in np.flatnonzero(target.any(0))]
    right = np.take_along_axis(shares, truth[..., np.newaxis], -1)[..., 0]
    return {
        "pfc": float(np.mean(pfc)),
        "log_score": float(np.log(np.maximum(right[target], 1e-12)).mean()),
    }


def speed(word):
    """Seconds of fits and milliseconds of completions whose label has `word` in it."""
    found = {}
    for label, (num_rows, size, components, wanted) in SPEED.items():
        if word not in label:
            continue
        x, present = simulated(num_rows, size)
        made = GaussianMixtureConditioner((components,), bag=False) if components else None
        made = (made or GaussianMixtureConditioner()).create_variables(DataSpec((size,)))
        seconds, cpu = timed(lambda made=made, x=x, present=present: made.fit_rows(x, present))
        found[label] = {"seconds": seconds, "cpu": cpu, "wanted": wanted}
        print(label, found[label], flush=True)
    x, present = simulated(1_500, 25)
    asked, observed = simulated(1_000, 25)
    for components, bag in ((1, False), (8, False), (8, True)):
        label = f"complete 1,000 x 25, {components * (6 if bag else 1)} components"
        if word not in label:
            continue
        made = GaussianMixtureConditioner((components,), bag=bag)
        made.create_variables(DataSpec((25,))).fit_rows(x, present)
        times = [
            timed(lambda made=made: made.complete(asked, observed, 1, [0, 0]).numpy())
            for _ in range(20)
        ]
        wall, cpu = (1e3 * min(t) for t in zip(*times[1:], strict=True))
        found[label] = {"milliseconds": wall, "cpu": cpu, "wanted": 50.0}
        print(label, found[label], flush=True)
    return found


def timed(function):
    """Seconds on the clock and seconds of CPU that function() takes."""
    started, used = time.time(), time.process_time()
    function()
    return time.time() - started, time.process_time() - used


def simulated(num_rows, size, seed=0):
    """Rows of four clusters with factors, a third of the columns skewed; half of the cells."""
    rng = np.random.default_rng(seed)
    loadings, means = rng.normal(size=[4, size, 6]), 2 * rng.normal(size=[4, size])
    k = rng.integers(4, size=num_rows)
    x = means[k] + np.einsum("ndq,nq->nd", loadings[k], rng.normal(size=[num_rows, 6]))
    x += 0.5 * rng.normal(size=x.shape)
    x = np.where(np.arange(size) % 3 == 0, np.exp(x / 4), x)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return x, rng.random(x.shape) >= 0.5


def averages(found):
    """Means over the seeds, as the Markdown table shows them."""
    lines = [
        "# Closed forms on tables",
        "",
        f"`{found['command']}`, with `--tables` and `--seeds` as the rows say, on",
        f"{found['hardware']}.",
        "NRMSE: lower is better; the ratio is to the wanted figure. Log score: nats a hidden",
        "cell, higher is better. How many components is chosen by the out-of-fold log score,",
        "the family by the out-of-fold error of training rows; where the family was given",
        "(`--factors`), the row says which numbers of components were tried.",
        "",
        "| table | chosen | NRMSE | wanted | ratio | EM Gaussian | log score | of EM | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in found["numeric"].items():
        rows = list(runs.values())
        chosen = [row[row["chosen"]] for row in rows]
        nrmse = np.mean([row["nrmse"] for row in chosen])
        plain = np.mean([row["em_gaussian"]["nrmse"] for row in rows])
        scores = [row["log_score"] for row in chosen]
        plain_scores = [row["em_gaussian"]["log_score"] for row in rows]
        labels = "/".join(sorted({row["chosen"] for row in rows}))
        given = {n for row in rows for n in row.get("tried", ()) if not isinstance(n, str)}
        if given:
            labels += " (given; K of " + ", ".join(map(str, sorted(given))) + ")"
        lines.append(
            f"| {name} ({len(rows)} splits) | {labels} | {nrmse:.3f} | {WANTED[name]:.3f} | "
            f"{nrmse / WANTED[name]:.3f} | {plain:.3f} | {np.mean(scores):.3f} | "
            f"{np.mean(plain_scores):.3f} | {np.mean([r['seconds'] for r in rows]):.0f} |"
        )
    lines += [
        "",
        "| table | PFC, levels | wanted | PFC, indicators in a Gaussian | log scores | s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found["categorical"].items():
        rows = list(runs.values())
        pick = {
            (kind, what): np.mean([row[kind][what] for row in rows])
            for kind in ("levels", "latent Gaussian")
            for what in ("pfc", "log_score")
        }
        lines.append(
            f"| {name} ({len(rows)} splits) | {pick['levels', 'pfc']:.3f} | "
            f"{WANTED_PFC.get(name, '-')} | "
            f"{pick['latent Gaussian', 'pfc']:.3f} | {pick['levels', 'log_score']:.3f} / "
            f"{pick['latent Gaussian', 'log_score']:.3f} | "
            f"{np.mean([r['seconds'] for r in rows]):.0f} |"
        )
    if found["speed"]:
        lines += ["", "| what | measured | CPU | wanted |", "|---|---|---|---|"]
        for label, row in found["speed"].items():
            unit = "seconds" if "seconds" in row else "milliseconds"
            cpu = f"{row['cpu']:.1f}" if "cpu" in row else "-"
            lines.append(f"| {label} | {row[unit]:.1f} {unit} | {cpu} | {row['wanted']:.0f} |")
    lines += ["", *(f"* {note}" for note in found.get("notes", []))]
    return "\n".join(lines) + "\n"


def main():
    """Runs what is asked for and adds it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="*", default=[*WANTED, *WANTED_PFC, "boston_mixed"])
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--factors", nargs="*", type=int, default=[])
    parser.add_argument("--speed", nargs="?", const="", metavar="WORD")
    results = pathlib.Path(__file__).parent / "results"
    parser.add_argument("--json", default=str(results / "closed_form.json"))
    parser.add_argument("--md", default=str(results / "closed_form.md"))
    options = parser.parse_args()
    path = pathlib.Path(options.json)
    found = json.loads(path.read_text()) if path.is_file() else {}
    for part in ("numeric", "categorical", "speed"):
        found.setdefault(part, {})
    found["command"] = "python benchmarks/closed_form.py --speed"
    cores = f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} at the start"
    found["hardware"] = f"{platform.machine()}, {cores}"
    for name in options.tables:
        part, run = ("numeric", numeric) if name in WANTED else ("categorical", categorical)
        run = mixed if name == "boston_mixed" else run
        for seed in options.seeds:
            scored = run(name, seed, options.factors) if run is numeric else run(name, seed)
            found[part].setdefault(name, {})[str(seed)] = scored
            print(name, seed, json.dumps(scored), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            pathlib.Path(options.md).write_text(averages(found))
    if options.speed is not None:
        found["speed"].update(speed(options.speed))
        path.write_text(json.dumps(found, indent=1) + "\n")
    pathlib.Path(options.md).write_text(averages(found))


if __name__ == "__main__":
    main()
