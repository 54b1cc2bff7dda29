"""What benchmarks/qavi_images.py asks about: its VAE, the trained methods, its questions."""

import dataclasses
import gzip
import warnings

import numpy as np
import tensorflow as tf
from cpn_models import SHARED, fit, images_of

from vae_arbcond import networks
from vae_arbcond.conditioners import PosteriorMatching, ReTunedEncoder
from vae_arbcond.distributions import Bernoulli, DiagonalGaussian
from vae_arbcond.masks import (
    BernoulliMask,
    FreeFormMask,
    RandomPatchesMask,
    RotatingHalfMask,
)
from vae_arbcond.models import VAE

LATENTS, UNITS, CHECK = 10, (128,), 2_000
VAE_STEPS, AGAIN_STEPS = 10_000, 4_000  # of the VAE; of each encoder for a part of x
BANK = 20_000  # free-form masks: each takes longer to draw than a step of training
MASKS = {  # name: (generator, seed of QAVI's code, share that is seen)
    "patches": (RandomPatchesMask(10), 1234, 0.75),
    "half": (RotatingHalfMask(), 5678, 0.5),
}
TITLES = {"patches": "Random-Patches", "half": "Rotating-Half"}


@dataclasses.dataclass(frozen=True)
class Bank:
    """Masks [N, 28, 28] drawn before, one of which each row gets."""

    masks: np.ndarray

    def __call__(self, x, present, seed):
        del x
        shape = tf.shape(present)[:1]
        chosen = tf.random.stateless_uniform(shape, seed, 0, len(self.masks), tf.int32)
        return tf.gather(tf.constant(self.masks), chosen) & present


def free_form(arguments):
    """A bank of free-form masks (Zhao et al., 2021), kept in the runs' folder."""
    path = arguments.runs / "free_form.npz"
    if not path.exists():
        draw, some = FreeFormMask(), tf.ones([500, 28, 28])
        parts = [
            draw(some, some > 0.0, tf.constant([12, i])).numpy() for i in range(BANK // 500)
        ]
        np.savez_compressed(path, masks=np.concatenate(parts))
    with np.load(path) as file:
        return Bank(file["masks"])


def network():
    """One hidden layer: of the encoders and of the decoder."""
    return networks.mlp(UNITS)


def vae_of(arguments):
    """(The VAE whose decoder all methods use, facts of its training)."""

    def make():
        return VAE(LATENTS, network(), DiagonalGaussian(LATENTS), network(), Bernoulli())

    return fit("vae", make, "mnist", BernoulliMask(0.5), VAE_STEPS, CHECK, arguments)


def encoder_of(label, mask_name, model, arguments):
    """(A method with an encoder of its own for a part of x, facts of its training).

    Args:
      label: "Posterior Match", followed by "(true)", "(random)" or nothing for free-form
        masks, or "Re-tuned Encoder".
      mask_name: of the questions; free-form masks are the same for all.
    """
    generator, _, share = MASKS[mask_name]
    masks = {"(true)": generator, "(random)": BernoulliMask(share)}
    kind = PosteriorMatching
    if label == "Re-tuned Encoder":
        name, mask, kind = f"retuned_{mask_name}", generator, ReTunedEncoder
    elif label == "Posterior Match":
        name, mask = "match_free_form", free_form(arguments)
    else:
        which = label.split()[-1]
        name, mask = f"match_{which.strip('()')}_{mask_name}", masks[which]

    def make():
        return kind(model, network(), DiagonalGaussian(LATENTS), train_model=False)

    return fit(name, make, "mnist", mask, AGAIN_STEPS, CHECK, arguments)


def questions(mask_name, count, arguments):
    """The first test images x [B, 28, 28], what is seen, and their digits [B]."""
    path = arguments.runs / "mnist.test.npz"
    if not path.exists():
        x = images_of("mnist", arguments).test.x[:1000]
        images, labels = originals("t10k")
        # The data set is read in another order than its files have.
        number = {
            image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)
        }
        digits = [number[image.tobytes()] for image in x > 0.5]
        np.savez_compressed(path, x=x, digits=digits)
    with np.load(path) as file:
        x, digits = file["x"][:count].astype(np.float32), file["digits"][:count]
    generator, seed, _ = MASKS[mask_name]
    x = tf.constant(x)
    observed = generator(x, tf.ones_like(x, tf.bool), tf.constant([seed, 0]))
    return x, observed, digits


def picture_file(arguments, mask_name, label):
    """Where some completed images of a method are kept."""
    return arguments.runs / f"images {mask_name} {label}.npz"


def originals(part):
    """Images bool [N, 28, 28], bright above one half, and digits [N] of MNIST's own files."""
    folder = SHARED / "mnist"
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        grey = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        digits = np.frombuffer(file.read(), np.uint8, offset=8)
    return grey > 127, digits


class Classifier:
    """Digits of whole images by one hidden layer, fitted once and kept in the runs' folder.

    Attributes:
      right: share of the 10,000 test images whose digit it finds.
    """

    def __init__(self, arguments):
        path = arguments.runs / "classifier.npz"
        if not path.exists():
            self._fit(path)
        with np.load(path) as file:
            self.weights = [file[name] for name in ("first", "bias", "last", "offset")]
            self.right = float(file["right"])

    def _fit(self, path):
        # Not at the top: drawing needs no scikit-learn.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        network = MLPClassifier(256, batch_size=256, max_iter=12, random_state=0)
        parts = {}
        for part in ("train", "t10k"):
            images, digits = originals(part)
            parts[part] = images.reshape(len(images), -1).astype(np.float32), digits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # A dozen epochs are enough.
            network.fit(*parts["train"])
        (first, last), (bias, offset) = network.coefs_, network.intercepts_
        right = network.score(*parts["t10k"])
        np.savez(path, first=first, bias=bias, last=last, offset=offset, right=right)

    def predict(self, x):
        """Digits [N] of images [N, 784]."""
        first, bias, last, offset = self.weights
        return (np.maximum(x @ first + bias, 0.0) @ last + offset).argmax(1)
