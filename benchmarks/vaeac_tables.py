"""Tables 1, 2, 10 and 11 of VAEAC: imputation with half the cells gone, regression after it.

    python benchmarks/vaeac_tables.py [--tables iris ...] [--methods vaeac ...] [--splits 0]
    python benchmarks/vaeac_tables.py --small [--splits 0 1 2]

The protocol is in `vaeac_protocol.py`, the networks in `vaeac_networks.py`, the paper's
figures in `vaeac_paper.py`, the data in ../shared/data. Every cell (table, method, split) is
added to the JSON file as soon as it is there; what the file has is not run again without
--again, so a run can be interrupted and goes on where it was; networks of other settings than
today's are. --small completes a small Gaussian table with the library's own configuration and
compares with what is best.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import vaeac_markdown
import vaeac_protocol as protocol

RESULTS = pathlib.Path(__file__).parent / "results"
NETWORKS = ("vaeac", "gsnn", "nn")
GIN = {"vaeac_gin": "models/table_vaeac.gin", "gain": "models/table_gain.gin"}
METHODS = (*NETWORKS, "mixture", "mice", "missforest", *GIN)
IMPUTATIONS = 10


def of_network(part, seed, fitter):
    """Ten imputations [S, N, D] by a network of the paper, and how the training went."""
    told = fitter.fit(part.data(seed), seed)
    x = np.where(part.seen, part.x, 0.0).astype(np.float32)
    count = 1 if fitter.variant == "nn" else IMPUTATIONS
    return fitter.impute(x, part.seen, count, seed), told


def of_mixture(part, seed):
    """Draws of the exact closed form, its best completion as an entry of its own."""
    from vae_arbcond import floor

    method = floor.fit_floor(part.data(seed, valid_fraction=0.0).train, seed)
    x = np.where(part.seen, part.x, 0.0).astype(np.float32)
    draws = method.impute(x, part.seen, IMPUTATIONS, [seed, 1]).numpy()
    filled = method.complete(x, part.seen, 1, [seed, 1]).numpy()
    return draws, {"components": int(method.fitted or 0)}, filled


def of_gin(models, part, seed):
    """Ten imputations by a method as its experiment in `gin/` configures it.

    VAEAC's are means of the decoder, as those of `of_network`; GAIN has draws only.
    """
    import gin

    from vae_arbcond import config, training
    from vae_arbcond.masks import BernoulliMask

    with tempfile.TemporaryDirectory() as folder:
        config.load([models, "training/default.gin"], [])
        run = training.train(
            str(pathlib.Path(folder) / "run"),
            data=part.data(seed),
            mask=BernoulliMask(0.8),
            seed=seed,
            verbose=0,
        )
        gin.clear_config()
    x = np.where(part.seen, part.x, 0.0).astype(np.float32)
    method = run.conditioner
    impute = getattr(method, "impute_means", method.impute)
    draws = impute(x, part.seen, IMPUTATIONS, [seed, 1]).numpy()
    return draws, {"best_step": run.metrics["stages"]["training"]["best_step"]}


def of_baseline(name, part, seed):
    """Ten imputations, or MissForest's one, by scikit-learn or miceforest."""
    from vae_arbcond import baselines

    x = np.where(part.seen, part.x, 0.0).astype(np.float32)
    count = 1 if name == "missforest" else IMPUTATIONS
    rows = part.train
    data = (x[rows], part.seen[rows], x, part.seen)
    return baselines.impute(name, *data, part.spec, count, seed), {}


def cell(part, seed, method, fitter):
    """Scores of one method on one split, and the CPU time it took."""
    started = time.process_time()
    filled = None
    if method in NETWORKS:
        draws, told = of_network(part, seed, fitter)
    elif method in GIN:
        draws, told = of_gin(GIN[method], part, seed)
    elif method == "mixture":
        draws, told, filled = of_mixture(part, seed)
    else:
        draws, told = of_baseline(method, part, seed)
    seconds = time.process_time() - started
    if filled is None:
        filled = protocol.point(draws, part.table.levels)
    return {
        "test_rows": protocol.imputation_error(part, filled, part.test),
        "all_rows": protocol.imputation_error(part, filled, np.arange(len(filled))),
        "regression": protocol.regression_score(part, draws),
        "cpu_seconds": round(seconds, 1),
        **told,
    }


def _stale(method, cells, seed):
    """Whether a cell is missing, or of a network that was trained with other settings."""
    from vaeac_networks import DIGEST

    told = cells.get(str(seed))
    return told is None or (method in NETWORKS and told.get("settings") != DIGEST)


def run_table(name, options, found, save):
    """Runs what is asked for of one table and is not there yet."""
    table = protocol.load(name)
    for method in options.methods:
        cells = found["cells"].setdefault(name, {}).setdefault(method, {})
        wanted = [s for s in options.splits if options.again or _stale(method, cells, s)]
        fitter = None
        for seed in wanted:
            part = protocol.split(table, seed)
            if method in NETWORKS and fitter is None:
                from vaeac_networks import Fitter

                fitter = Fitter(method, part.spec, len(part.data(seed).train))
            cells[str(seed)] = cell(part, seed, method, fitter)
            print(name, method, seed, json.dumps(cells[str(seed)]), flush=True)
            save()


def gaussian_table(seed, rows=1000, size=10, factors=4):
    """A Gaussian table [N, D] of unit variances and its covariance."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=[size, factors])
    scale = np.sqrt((loadings**2).sum(1) + 1.0)
    x = rng.normal(size=[rows, factors]) @ loadings.T + rng.normal(size=[rows, size])
    covariance = (loadings @ loadings.T + np.eye(size)) / np.outer(scale, scale)
    return x / scale, covariance, rng.random(x.shape) < 0.05


def conditional_mean(x, missing, covariance):
    """What is best: E[x_missing | x_observed] under the Gaussian that the table is from."""
    filled = x.copy()
    for i in np.flatnonzero(missing.any(1)):
        gone, here = np.flatnonzero(missing[i]), np.flatnonzero(~missing[i])
        gain = np.linalg.solve(covariance[np.ix_(here, here)], covariance[np.ix_(here, gone)])
        filled[i, gone] = x[i, here] @ gain
    return filled


def small(seed, params=()):
    """VAEAC of gin/experiments/vaeac_table.gin on 1,000 x 10 with 5 % missing.

    The missing cells of the table itself are completed, and those of 5,000 new rows, which
    tell more exactly how far the model is from the closed form, a Gaussian fitted by EM to the
    same table, and from the best. `params`: further bindings of gin.
    """
    import gin
    import pandas as pd

    from vae_arbcond import config, training
    from vae_arbcond.conditioners import GaussianMixtureConditioner
    from vae_arbcond.shapes import DataSpec

    x, covariance, missing = gaussian_table(seed, 6000)
    table, new = x[:1000], x[1000:]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "table.csv"
        frame = pd.DataFrame(np.where(missing[:1000], np.nan, table))
        frame.columns = [f"c{i}" for i in range(frame.shape[1])]
        frame.to_csv(path, index=False)
        config.load(
            ["experiments/vaeac_table.gin"],
            [
                f'table_file.path = "{path}"',
                f"train.seed = {seed}",
                "make_splits.test_fraction = 0.0",  # The closed form has all rows, too.
                *params,
            ],
        )
        told = training.train(str(pathlib.Path(folder) / "run"), verbose=0)
        gin.clear_config()
    schema = told.splits.train.schema
    scale = np.array([column.scale for column in schema.columns])
    mean = np.array([column.mean for column in schema.columns])
    seconds = time.process_time() - started
    closed = GaussianMixtureConditioner((1,), strength=0.0, bag=False)
    closed.create_variables(DataSpec((x.shape[1],)))
    seen = ~missing[:1000]
    closed.fit_rows(np.where(seen, (table - mean) / scale, 0.0).astype(np.float32), seen)
    scores = {"cpu_seconds": round(seconds, 1), "stages": told.metrics["stages"]}
    for label, rows, gone in (
        ("the table", table, missing[:1000]),
        ("new rows", new, missing[1000:]),
    ):
        asked = np.where(gone, 0.0, (rows - mean) / scale).astype(np.float32)
        done, exact = (
            method.complete(asked, ~gone, 100, [0, seed]).numpy() * scale + mean
            for method in (told.conditioner, closed)
        )
        best = conditional_mean(rows, gone, covariance)
        errors = [
            np.mean(
                [
                    np.sqrt(np.mean((filled[gone[:, d], d] - rows[gone[:, d], d]) ** 2))
                    for d in range(rows.shape[1])
                ]
            )
            for filled in (done, exact, best)
        ]
        scores[label] = {
            "vaeac": float(errors[0]),
            "closed": float(errors[1]),
            "best": float(errors[2]),
            "ratio": float(errors[0] / errors[1]),
        }
    return scores


def main():
    """Runs what is asked for and adds it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="*", default=list(protocol.TABLES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--splits", nargs="*", type=int, default=list(range(5)))
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--small", action="store_true", help="the Gaussian table alone")
    parser.add_argument("--markdown", action="store_true", help="write the Markdown alone")
    parser.add_argument("--json", default=str(RESULTS / "vaeac_tables.json"))
    parser.add_argument("--md", default=str(RESULTS / "vaeac_tables.md"))
    options = parser.parse_args()
    path = pathlib.Path(options.json)
    found = json.loads(path.read_text()) if path.is_file() else {}
    found.setdefault("cells", {})
    found.setdefault("small", {})

    def save():
        path.write_text(json.dumps(found, indent=1) + "\n")
        pathlib.Path(options.md).write_text(vaeac_markdown.text(found))

    if options.markdown:
        save()
        return
    cores = f"{os.cpu_count()} CPU cores shared with other work"
    found["hardware"] = f"{platform.machine()}, {cores}; seconds are CPU time"
    found["versions"] = _versions()
    if options.small:
        for seed in options.splits:
            found["small"][str(seed)] = small(seed)
            print("small", seed, json.dumps(found["small"][str(seed)]), flush=True)
            save()
        return
    from vaeac_networks import SETTINGS

    found["settings"] = SETTINGS
    for name in options.tables:
        run_table(name, options, found, save)


def _versions():
    from vae_arbcond import runs

    return runs.versions()


if __name__ == "__main__":
    main()
