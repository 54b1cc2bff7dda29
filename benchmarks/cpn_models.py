"""What benchmarks/cpn_figures.py asks about: its models, its questions, its plane."""

import json
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import networks, runs, training
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.data.image_datasets import tfds_images
from vae_arbcond.distributions import Bernoulli, DiagonalGaussian
from vae_arbcond.masks import BernoulliMask, MixtureMask
from vae_arbcond.models import VAE, LatentVariableModel
from vae_arbcond.optimizers import adam_cosine
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
UNITS, STEPS, BATCH = (64,), 6_000, 128
QUERIES = 50
PLANE = (
    [0.4, 0.35, 0.25],
    [[-1.5, 0.0], [1.2, 1.2], [1.5, -1.5]],
    [[0.3, 0.6]] * 3,
)  # weights, means and scales of Figure 10's mixture


def images_of(name, arguments):
    """Splits of a data set, binarised at one half."""
    if not SHARED.is_dir():
        sys.exit(f"This benchmark needs the images in {SHARED}.")
    return tfds_images(name, str(SHARED), arguments.data_dir, binarise=0.5)


def fit(name, make, data, mask, num_steps, validate_every, arguments):
    """(`make()` trained, facts of its training), from --runs where it is done."""
    folder = arguments.runs / name
    done = arguments.runs / f"{name}.trained.json"
    if not done.exists():
        began = time.process_time()
        result = training.train(
            run_dir=str(folder),
            conditioner=make(),
            data=images_of(data, arguments),
            mask=mask,
            num_steps=num_steps,
            batch_size=BATCH,
            optimizer=adam_cosine,
            validate_every=validate_every,
            validation_samples=0,
            patience=None,
            resume=(folder / runs.SCHEMA).exists(),
            verbose=0,
        )
        facts = {"steps": num_steps, "batch": BATCH}
        facts["CPU s"] = round(time.process_time() - began, 1)
        facts["parameters"] = result.metrics["num_parameters"]
        done.write_text(json.dumps(facts, indent=1))
    return runs.load(folder).conditioner, json.loads(done.read_text())


def trained(name, arguments):
    """(Posterior Matching around a VAE of two latents, facts of its training), runs/cpn."""

    def make():
        head = DiagonalGaussian
        vae = VAE(2, networks.mlp(UNITS), head(2), networks.mlp(UNITS), Bernoulli())
        return PosteriorMatching(vae, networks.mlp(UNITS), head(2))

    # As much as the questions show, and half.
    mask = MixtureMask([BernoulliMask(p) for p in (0.05, 0.15, 0.5)], [1.0, 1.0, 1.0])
    return fit(name, make, name, mask, STEPS, 1_000, arguments)


def questions(name, share, arguments, count=QUERIES):
    """The first test images x [B, 28, 28]; single pixels observed with probability `share`.

    Kept in the runs' folder: reading a data set takes longer than many a method.
    """
    path = arguments.runs / f"{name}.test.npz"
    if not path.exists():
        np.savez_compressed(path, x=images_of(name, arguments).test.x[:500])
    x = np.load(path)["x"][:count].astype(np.float32)
    observed = np.random.default_rng(5).random(x.shape) < share
    return tf.constant(x), tf.constant(observed)


class Plane(LatentVariableModel):
    """One pixel, on with a probability proportional to mixture(z) / N(z | 0, I).

    The posterior of z, given that it is on, is the mixture: Figure 10's target behind the
    interface of a decoder.
    """

    def __init__(self, weights, locs, scales):
        super().__init__()
        self.mixture = tfd.MixtureSameFamily(
            tfd.Categorical(probs=weights),
            tfd.MultivariateNormalDiag(tf.constant(locs), tf.constant(scales)),
        )
        axis = np.linspace(-5.0, 5.0, 401, dtype=np.float32)
        z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        # Half of what is possible keeps the pixel's probability below 1 between grid points.
        self.log_most = float(tf.reduce_max(self.log_ratio(z))) + float(np.log(2.0))

    def log_ratio(self, z):
        """log mixture(z) - log N(z | 0, I)."""
        return self.mixture.log_prob(z) - self.prior().log_prob(z)

    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros([2]))

    def posterior(self, x, present):
        raise NotImplementedError("The plane has no encoder.")

    def likelihood(self, z):
        log_p = self.log_ratio(z) - self.log_most
        logits = log_p - tf.math.log1p(-tf.exp(log_p))
        return tfd.Bernoulli(logits[..., tf.newaxis], dtype=tf.float32)

    def build_for(self, spec=None):
        super().build_for(DataSpec((1,)) if spec is None else spec)
