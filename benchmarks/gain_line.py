"""GAIN on MNIST when all that is seen is a line of three pixels: VAEAC, D.4, Figure 11.

    python benchmarks/gain_line.py   # draws results/gain_line.png

MNIST is binarised at one half. GAIN trains on what the mask shows, three rows of pixels of 28,
and never sees the rest of a digit, so it cannot learn what digits look like; VAEAC trains on
the hidden pixels, too. The networks are GAIN's own for images: fully connected.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.pyplot as plt
import numpy as np

from vae_arbcond import networks, pictures, training
from vae_arbcond.conditioners import GAIN
from vae_arbcond.data.image_datasets import tfds_images
from vae_arbcond.masks import HorizontalLineMask
from vae_arbcond.optimizers import adam

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
DIGITS, DRAWS = 6, 5


def draw(conditioner, x, observed, seed=(0, 0), num_samples=DRAWS) -> np.ndarray:
    """A row of pictures an image: truth, what was seen, draws, their mean; [h, w, 3].

    Args:
      conditioner: any method on images.
      x: [B, H, W], values in [0, 1].
      observed: bool [B, H, W].
      seed: two numbers.
      num_samples: draws of each.
    """
    completions = conditioner.impute(x, observed, num_samples, seed).numpy()
    return pictures.inpainting_grid(x, observed, completions)


def main():
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    result = pathlib.Path(__file__).parent / "results" / "gain_line.png"
    parser.add_argument("--png", type=pathlib.Path, default=result)
    options = parser.parse_args()
    data = tfds_images(
        "mnist", files_dir=str(SHARED), binarise=0.5, valid_rows=5000, max_valid_rows=500
    )
    mask = HorizontalLineMask()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        method = training.train(
            run_dir=f"{folder}/run",
            conditioner=GAIN(networks.mlp((256, 256)), networks.mlp((256, 256))),
            data=data,
            mask=mask,
            num_steps=options.steps,
            validate_every=options.steps,
            keep_best=False,
            batch_size=64,
            optimizer=adam,
            verbose=2,
        ).conditioner
    x, present = data.test.x[:DIGITS], data.test.present[:DIGITS]
    observed = mask(x, present, [0, 3]).numpy()
    plt.imsave(options.png, draw(method, x, observed))
    print(f"{options.png}: {time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
