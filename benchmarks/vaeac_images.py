"""VAEAC and the Universal Marginalizer on images: Tables 5 and 9, Figures 1, 2, 8, 9 and 12.

    python benchmarks/vaeac_images.py train vaeac um gsnn vae omniglot   # into runs/images
    python benchmarks/vaeac_images.py train um_30_epochs                 # with a GPU
    python benchmarks/vaeac_images.py score vaeac um gsnn bayes times steps colour
    python benchmarks/vaeac_images.py draw mnist um omniglot convergence

Ivanov et al., 2019, https://arxiv.org/abs/1806.02382. MNIST is binarised at one half, and a
line of three rows of pixels at a uniform place is all that is seen. Trainings follow
gin/experiments/vaeac_mnist.gin, um_mnist.gin and vaeac_omniglot.gin; one that was interrupted
goes on where it was. Scores are added to the JSON file; the images are expected in
../shared/data. Networks compute in bfloat16, densities in float32, in training and in scoring.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import keras
import numpy as np
import tensorflow as tf
import vaeac_pictures

from vae_arbcond import baselines, config, models, optimizers, pictures, runs, training
from vae_arbcond.conditioners import VAEAC, MonteCarloLikelihood
from vae_arbcond.data.density_tables import sha256_of
from vae_arbcond.distributions import Bernoulli, DiagonalGaussian, DiscretizedLogistic
from vae_arbcond.masks import HorizontalLineMask, RectangleMask
from vae_arbcond.registry import register
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import SkipConvDecoder, SkipConvEncoder

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
RUNS = {  # name: (experiment, further parameters)
    "vaeac": ("vaeac_mnist", []),
    "um": ("um_mnist", []),
    # The paper's 30 epochs, at full resolution: hours of a CPU, a minute of a large GPU.
    "um_30_epochs": (
        "um_mnist",
        ["FILTERS = (32, 64, 96)", "PATCH = 1", "NUM_STEPS = 25_781"],
    ),
    "gsnn": ("vaeac_mnist", ["VAEAC.alpha = 0.0"]),
    "omniglot": ("vaeac_omniglot", []),
    "vae": ("vaeac_mnist", ["train.conditioner = @plain_vae()"]),
}
CONDITIONER = "train.conditioner"
ORDERS = 8  # of UM's chain rule, in the row that has several


@register
class MapEncoder(keras.layers.Layer):
    """A `SkipConvEncoder` without its states."""

    def __init__(self, encoder, name: str | None = None):
        super().__init__(name=name)
        self.encoder = encoder

    def call(self, x):
        return self.encoder(x)[0]


@register
class MapDecoder(keras.layers.Layer):
    """A `SkipConvDecoder` that has nothing but z: its skip connections hold zeros."""

    def __init__(self, decoder, channels, height: int, width: int, name: str | None = None):
        super().__init__(name=name)
        self.decoder, self.channels = decoder, tuple(channels)
        self.height, self.width = height, width

    def call(self, z):
        sizes = [(self.height, self.width, 0)]
        for i, channels in enumerate(self.channels):
            step = self.decoder.patch * 2**i
            sizes.append((-(-self.height // step), -(-self.width // step), channels))
        # One row: what a bias makes of nothing is the same for all.
        states = [tf.zeros([1, *size], self.compute_dtype) for size in sizes]
        context = self.decoder.prepare(states)
        rows = tf.shape(z)[0]
        context = [tf.tile(part, [rows, 1, 1, 1]) for part in context]
        return self.decoder(z, context)


@gin.register(module="vae_arbcond")
def plain_vae():
    """A VAE of the proposal's and the generative network's layers, for Figure 9."""
    channels, filters = (16, 32), (32, 64)
    return models.VAE(
        16,
        MapEncoder(SkipConvEncoder(channels, patch=2)),
        DiagonalGaussian(16),
        MapDecoder(SkipConvDecoder(filters, patch=2), channels, 28, 28),
        Bernoulli(per_feature=True),
    )


def load_config(name, arguments):
    """Reads the experiment of a run, with data where this benchmark has them."""
    experiment, params = RUNS[name]
    data = [f'tfds_images.files_dir = "{SHARED}"', "tfds_images.max_test_rows = 1_000"]
    if name == "omniglot":  # The archives at hand were packed anew: their own sums.
        sums = {path.name: sha256_of(path) for path in (SHARED / "omniglot").glob("*.zip")}
        data.append(f"tfds_images.checksums = {sums}")
    data += [f'tfds_images.data_dir = "{arguments.data_dir}"'] if arguments.data_dir else []
    gin.clear_config()
    config.load([f"experiments/{experiment}.gin"], [*data, "train.verbose = 0", *params])


class History(keras.callbacks.Callback):
    """Losses after every validation, and the CPU seconds so far, as JSON lines."""

    def __init__(self, path):
        super().__init__()
        self.path, self.started = path, time.process_time()
        lines = path.read_text().splitlines() if path.exists() else []
        self.before = json.loads(lines[-1])["cpu_seconds"] if lines else 0.0

    def on_epoch_end(self, epoch, logs=None):
        spent = self.before + time.process_time() - self.started
        line = {"step": int(self.model.optimizer.iterations.numpy()), "cpu_seconds": spent}
        line |= {name: float(value) for name, value in (logs or {}).items()}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(self.path.stem, {k: round(v, 3) for k, v in line.items()}, flush=True)


def train(name, arguments):
    """Trains one run, or goes on with it where it was interrupted."""
    folder = arguments.runs / name
    done = arguments.runs / f"{name}.trained.json"
    if done.exists():
        return
    keras.config.set_dtype_policy("mixed_bfloat16")
    load_config(name, arguments)
    history = History(arguments.runs / f"{name}.history.jsonl")
    result = training.train(
        run_dir=str(folder),
        resume=(folder / runs.SCHEMA).exists(),
        callbacks=[history],
        config_text=config.full_config(),
    )
    lines = history.path.read_text().splitlines()
    facts = {
        "steps": json.loads(lines[-1])["step"],
        "images": len(result.splits.train),
        "batch": gin.query_parameter("train.batch_size"),
        "parameters": result.metrics["num_parameters"],
        "cpu_seconds": json.loads(lines[-1])["cpu_seconds"],
    }
    done.write_text(json.dumps(facts, indent=1))
    keep(arguments, "trainings", name, facts | {"losses at the end": json.loads(lines[-1])})
    keras.config.set_dtype_policy("float32")


def trained(name, arguments):
    """The conditioner of a finished run, and its test images x [N, 28, 28]."""
    if not (arguments.runs / f"{name}.trained.json").exists():
        sys.exit(f"{name} is not trained yet: vaeac_images.py train {name}")
    load_config(name, arguments)
    splits = gin.get_configurable("tfds_images")()
    return runs.load(arguments.runs / name).conditioner, splits


def question(x, mask=None):
    """x, what is observed and what is hidden, the same for every method."""
    x = tf.constant(x)
    present = tf.ones(x.shape[:3], tf.bool)
    observed = (mask or HorizontalLineMask(3))(x, present, [7, 0])
    return x, observed, ~observed


def over_batches(function, images, batch):
    """function(x, observed, target, number of the batch) -> [batch], over images: [N]."""
    x, observed, target = question(images)
    parts = []
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        parts.append(function(x[rows], observed[rows], target[rows], start).numpy())
    return np.concatenate(parts)


def score(arguments, label, function, images, batch, **facts):
    """Adds minus the mean of `over_batches`, in nats, and what it cost."""
    started = time.process_time()
    values = -over_batches(function, images, batch)
    spent = time.process_time() - started
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    facts = {"images": len(images), "cpu_seconds": round(spent, 1), **facts}
    keep(arguments, "scores", label, {"nats": float(values.mean()), "stderr": error, **facts})


def keep(arguments, kind, label, facts):
    """Writes one result into the JSON file."""
    found = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    found.setdefault(kind, {})[label] = facts
    found["versions"] = runs.versions() | {"machine": machine()}
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(kind, label, facts, flush=True)


def machine():
    """The processor's name and number of cores."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0] if names else platform.processor()}"


def monte_carlo(method, count):
    """Eq. 17 with `count` samples, as `score` wants a function."""
    likelihood = MonteCarloLikelihood()
    return lambda x, o, t, i: likelihood(method, x, o, t, count, [i, 17]).value


def score_vaeac(arguments):
    """Table 9's rows of VAEAC."""
    method, splits = trained("vaeac", arguments)
    images, few = splits.test.x, splits.test.x[: arguments.few]

    def importance(x, observed, target, i):
        return method.log_likelihood(x, observed, target, 100, [i, 18]).value

    score(arguments, "VAEAC IS-100", importance, images, 50)
    score(arguments, "VAEAC MC-100", monte_carlo(method, 100), images, 50)
    score(arguments, "VAEAC MC-10000", monte_carlo(method, 10_000), few, 10)


def score_gsnn(arguments):
    """Table 9's rows of the Gaussian stochastic neural network."""
    method, splits = trained("gsnn", arguments)
    score(arguments, "GSNN MC-100", monte_carlo(method, 100), splits.test.x, 50)
    few = splits.test.x[: arguments.few]
    score(arguments, "GSNN MC-10000", monte_carlo(method, 10_000), few, 10)


def score_um(arguments, name="um", title="UM"):
    """Table 5's row of UM: the chain rule, and an unbiased estimate of its mean."""
    method, splits = trained(name, arguments)
    rounds = 40
    method.objective = "chain"

    @tf.function
    def estimate(x, observed, seed):
        present = tf.ones_like(observed)
        return -method.loss_terms(x, present, observed, seed, None, False)["chain"]

    def several(x, observed, target, i):
        del target
        each = [estimate(x, observed, tf.constant([i, r])) for r in range(rounds)]
        return tf.add_n(each) / rounds

    label = f"{title}, chain rule in random order, estimate"
    score(arguments, label, several, splits.test.x, 100, questions_an_image=rounds)

    def chain(x, observed, target, i):
        return method.log_likelihood(x, observed, target, 1, [i, 11]).value

    images = splits.test.x[: arguments.chain]
    score(arguments, f"{title}, chain rule in one random order", chain, images, 100)

    def mixture(x, observed, target, i):
        return method.log_likelihood(x, observed, target, ORDERS, [i, 11]).value

    # The order is a latent variable of this model: several bound its likelihood better.
    label = f"{title}, chain rule in {ORDERS} random orders"
    score(arguments, label, mixture, images, 100)


def score_um_30_epochs(arguments):
    """The same of the larger network, trained as long as the paper's."""
    score_um(arguments, "um_30_epochs", "UM, 30 epochs")


def score_bayes(arguments):
    """Naive Bayes: every pixel for itself, with one success and one failure added."""
    load_config("vaeac", arguments)
    splits = gin.get_configurable("tfds_images")()
    train = splits.train.x, splits.train.present
    for label in ("whole", "hidden pixels"):

        def function(x, observed, target, i, label=label):
            scored = target | (label == "whole")
            return tf.constant(
                baselines.naive_bayes_log_likelihood(*train, x.numpy(), scored.numpy())
            )

        score(arguments, f"Naive Bayes, {label}", function, splits.test.x, 1000)


def score_times(arguments):
    """Table 5's times: CPU seconds of 100 draws for one image."""
    for name, repeats in (("vaeac", 20), ("um", 1)):
        method, splits = trained(name, arguments)
        x, observed, _ = question(splits.test.x[:1])
        method.impute(x, observed, 100, [0, 0])
        spent = []
        for i in range(repeats):
            started = time.process_time()
            method.impute(x, observed, 100, [0, i])
            spent.append(time.process_time() - started)
        facts = {"cpu_seconds": float(np.median(spent))}
        keep(arguments, "times", f"{name}, 100 draws", facts)


def score_steps(arguments):
    """The cost of a step of VAEAC and of a VAE, in turns (Figure 9's factor)."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    load_config("vaeac", arguments)
    methods = {"vae": plain_vae(), "vaeac": config.value(CONDITIONER)}
    keras.config.set_dtype_policy("float32")
    x = tf.cast(tf.random.stateless_uniform([64, 28, 28], [0, 1]) < 0.2, tf.float32)
    x, observed, _ = question(x)
    steps, spent = {}, {name: [] for name in methods}
    for name, method in methods.items():
        method.create_variables(DataSpec((28, 28)), 0)
        method.optimizer = optimizers.adam()
        method.optimizer.build(method.variables_to_train())
        steps[name] = tf.function(method.train_step)
    for _ in range(31):
        for name, step in steps.items():
            started = time.process_time()
            step((x, tf.ones_like(observed), observed))
            spent[name].append(time.process_time() - started)
    cost = {name: float(np.median(times[1:])) for name, times in spent.items()}
    facts = {"CPU seconds a step": cost, "ratio": cost["vaeac"] / cost["vae"]}
    keep(arguments, "times", "VAEAC beside VAE", facts)


def score_colour(arguments):
    """A training step of VAEAC on colour images of 128 x 128, batch 8."""
    filters, batch = (16, 32, 64, 64), 8
    keras.config.set_dtype_policy("mixed_bfloat16")
    method = VAEAC(
        64,
        SkipConvEncoder(filters, patch=2),
        SkipConvEncoder(filters, patch=2),
        SkipConvDecoder(filters, patch=2),
        DiscretizedLogistic(256, per_feature=True),
    ).create_variables(DataSpec((128, 128), (3,)), 0)
    keras.config.set_dtype_policy("float32")
    method.optimizer = optimizers.adam(learning_rate=1e-3)
    method.optimizer.build(method.variables_to_train())
    x = tf.round(255.0 * tf.random.stateless_uniform([batch, 128, 128, 3], [0, 1])) / 255.0
    present = tf.ones([batch, 128, 128], tf.bool)
    observed = RectangleMask(0.25, 1.0)(x, present, [0, 2])
    step = tf.function(method.train_step)
    losses, spent = [], []
    for _ in range(6):
        started = time.process_time()
        losses.append(float(step((x, present, observed))["loss"]))
        spent.append(time.process_time() - started)
    facts = {"cpu_seconds": float(np.median(spent[1:])), "batch": batch}
    facts |= {"parameters": int(method.count_params()), "losses": losses}
    keep(arguments, "times", "VAEAC training step, 128 x 128 x 3", facts)


def write_sheets(arguments, name, sheets):
    """{title: sheet} side by side as a PNG."""
    vaeac_pictures.write(arguments.json.parent / f"{name}.png", sheets, 3 * 28)


def draw_mnist(arguments):
    """Figures 1 and 8: Bernoulli means of VAEAC, then of GSNN, for draws of z."""
    sheets = {}
    for name in ("vaeac", "gsnn"):
        method, splits = trained(name, arguments)
        x, observed, _ = question(splits.test.x[:10])
        means = method.impute_means(x, observed, 8, [0, 3])
        title = f"{name.upper()}: means, one for each draw of z"
        sheets[title] = pictures.inpainting_sheet(x, observed, means)
    write_sheets(arguments, "vaeac_images_mnist", sheets)


def draw_um(arguments):
    """Figure 12: draws of the Universal Marginalizer and of VAEAC for the same inputs."""
    sheets = {}
    long = (arguments.runs / "um_30_epochs.trained.json").exists()
    for name in ("um_30_epochs" if long else "um", "vaeac"):
        method, splits = trained(name, arguments)
        x, observed, _ = question(splits.test.x[:10])
        title = f"{name.split('_')[0].upper()}: draws"
        draws = method.impute(x, observed, 6, [0, 3])
        sheets[title] = pictures.inpainting_sheet(x, observed, draws)
    write_sheets(arguments, "vaeac_images_um", sheets)


def draw_omniglot(arguments):
    """Figure 2, downsized: Bernoulli means of VAEAC for draws of z."""
    method, splits = trained("omniglot", arguments)
    x, observed, _ = question(splits.test.x[:1000:100], RectangleMask(0.25, 1.0))
    means = method.impute_means(x, observed, 8, [0, 3])
    title = "VAEAC: means, one for each draw of z"
    sheets = {title: pictures.inpainting_sheet(x, observed, means)}
    write_sheets(arguments, "vaeac_images_omniglot", sheets)


def draw_convergence(arguments):
    """Figure 9: the bound on validation images by steps, of VAE and VAEAC."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), dpi=90)
    for name, label in (("vae", "VAE, whole images"), ("vaeac", "VAEAC, given a line")):
        lines = (arguments.runs / f"{name}.history.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        axis.plot([v["step"] for v in lines], [-v["val_loss"] for v in lines], label=label)
    axis.set(xlabel="training steps (batch 64)", ylabel="bound on validation images, nats")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(arguments.json.parent / "vaeac_images_convergence.png")


def main():
    """Does what it is told, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "score", "draw"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/images"))
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS / "vaeac_images.json")
    parser.add_argument("--data_dir", help="where TFDS keeps what it builds")
    parser.add_argument("--few", type=int, default=20, help="images for MC-10,000")
    parser.add_argument("--chain", type=int, default=100, help="images for UM's chain rule")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"This benchmark needs the images in {SHARED}.")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    parts = {"score": SCORES, "draw": DRAWINGS}.get(arguments.what, {})
    if arguments.what == "train":
        parts = {name: lambda a, name=name: train(name, a) for name in RUNS}
    if unknown := set(arguments.names) - set(parts):
        sys.exit(f"There is no {sorted(unknown)} to {arguments.what}; there is {list(parts)}.")
    for name in arguments.names or parts:
        parts[name](arguments)


SCORES = {
    "vaeac": score_vaeac,
    "gsnn": score_gsnn,
    "um": score_um,
    "um_30_epochs": score_um_30_epochs,
    "bayes": score_bayes,
    "times": score_times,
    "steps": score_steps,
    "colour": score_colour,
}
DRAWINGS = {
    "mnist": draw_mnist,
    "um": draw_um,
    "omniglot": draw_omniglot,
    "convergence": draw_convergence,
}

if __name__ == "__main__":
    main()
