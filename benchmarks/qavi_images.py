"""QAVI's figures on MNIST, with a decoder small enough for an hour of two cores.

    python benchmarks/qavi_images.py methods time posteriors tables draw [--count 100]

Agarwal, Hope, Younis and Sudderth, 2023, "A decoder suffices for query-adaptive variational
inference", Figures 3, 4, 5, 7 and 8. A VAE and the encoders beside it are trained first, into
runs/qavi_images; every method answers the same questions about test images with that VAE's
decoder. What is measured is added to the JSON file cell by cell; what it has is not run again
without --again. The images are expected in ../shared/data.
"""

import argparse
import functools
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cpn_figures
import numpy as np
import qavi_image_markdown
import qavi_image_pictures
import qavi_image_posteriors
import tensorflow as tf
from cpn_figures import missing, read
from qavi_image_methods import (
    DRAWS,
    METHODS,
    SAMPLES,
    SEARCHES,
    answer,
    averaged,
    curve_of,
    measured,
    searched,
    searching,
    told_by,
    truth,
)
from qavi_image_models import MASKS, Classifier, picture_file, questions, vae_of
from qavi_image_pictures import STRIP_DRAWS

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
STEPS = (10, 50)  # of the searches of Figure 8, beside the 300 of the others
OF_TIME = SAMPLES[-2]  # draws of Eq. 12 there

keep = functools.partial(cpn_figures.keep, text=qavi_image_markdown.text)


def part_methods(arguments):
    """Figures 4, 5 and 7: every method's likelihoods, completed images and their classes."""
    classes = None
    for mask_name in arguments.masks:
        wanted = [m for m in arguments.methods if missing(arguments, "methods", mask_name, m)]
        model, facts = vae_of(arguments)
        if missing(arguments, "training"):
            keep(arguments, ["training"], facts)
        x, observed, digits = questions(mask_name, arguments.count, arguments)
        if missing(arguments, "truth", mask_name):
            facts = truth(model, x, observed)
            facts["hidden pixels"] = float(np.sum(~observed.numpy(), (1, 2)).mean())
            keep(arguments, ["truth", mask_name], facts)
        if wanted and classes is None:
            classes = Classifier(arguments)
        for label in wanted:
            began = time.process_time()
            found = answer(label, mask_name, model, x, observed, arguments)
            facts, images = measured(model, x, observed, digits, found, classes)
            facts |= found.facts | {"all CPU s": time.process_time() - began}
            # Of chains, whose draws take turns, one of each.
            few = images[:: DRAWS // STRIP_DRAWS - 1, :20][:STRIP_DRAWS]
            np.savez_compressed(picture_file(arguments, mask_name, label), images=few)
            keep(arguments, ["methods", mask_name, label], facts)
        if wanted:
            seen = [tf.where(observed, x, 0.0)[tf.newaxis], x[tf.newaxis]]
            rows = [classes.predict(part.numpy().reshape(len(x), -1)) for part in seen]
            shares = {"10,000 whole images": classes.right}
            for name, guessed in zip(("hidden pixels black", "true image"), rows, strict=True):
                shares[name] = float(np.mean(guessed == digits))
            keep(arguments, ["classifier", mask_name], shares)


def part_time(arguments):
    """Figure 8: searches of few and of many steps, each with a schedule of its own."""
    for mask_name in arguments.masks:
        for label in SEARCHES:
            for steps in STEPS:
                place = ["time", mask_name, label, str(steps)]
                if not missing(arguments, *place):
                    continue
                model, _ = vae_of(arguments)
                x, observed, _ = questions(mask_name, arguments.count, arguments)
                method = searching(label, model, steps)
                hidden = tf.where(observed, x, 0.0)
                found, facts = searched(method, model.spec, hidden, observed)
                q = method.family.distribution(found.parameters)
                curve, logs = curve_of(model, x, observed, q, OF_TIME)
                pixels = np.sum(~observed.numpy(), (1, 2))
                both = {"log p(x_M) a pixel": curve[OF_TIME] / pixels}
                both["log p(x_M | x_o)"] = averaged(logs[0], DRAWS)
                for key, values in both.items():
                    facts[key], facts[f"{key}, stderr"] = told_by(values)
                keep(arguments, place, facts)


def part_draw(arguments):
    """The pictures and the text of what was measured."""
    found = read(arguments)
    arguments.json.with_suffix(".md").write_text(qavi_image_markdown.text(found))
    qavi_image_pictures.draw(found, arguments)
    qavi_image_posteriors.draw(found, arguments)


def part_posteriors(arguments):
    """Figure 3 of MNIST's model with two latents, beside its grid posterior."""
    qavi_image_posteriors.plane(arguments, keep, missing)


def part_tables(arguments):
    """Figure 3 as it is: two hidden columns of banknote and of concrete."""
    qavi_image_posteriors.tables(arguments, keep, missing)


PARTS = {
    "methods": part_methods,
    "time": part_time,
    "posteriors": part_posteriors,
    "tables": part_tables,
    "draw": part_draw,
}


def main():
    """Does what it is told, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=list(PARTS))
    parser.add_argument("--count", type=int, default=100, help="test images")
    parser.add_argument("--masks", nargs="*", default=list(MASKS), choices=list(MASKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/qavi_images"))
    parser.add_argument(
        "--plane_runs",
        type=pathlib.Path,
        default=pathlib.Path("runs/cpn"),
        help="of cpn_figures.py, whose model with two latents is asked",
    )
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS / "qavi_images.json")
    parser.add_argument("--data_dir", help="where TFDS keeps what it builds")
    arguments = parser.parse_args()
    for folder in (arguments.runs, arguments.plane_runs):
        folder.mkdir(parents=True, exist_ok=True)
    for what in arguments.what:
        PARTS[what](arguments)


if __name__ == "__main__":
    main()
