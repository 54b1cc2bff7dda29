"""Memory of an estimate with many samples stays bounded: samples are taken in chunks."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import resource
import numpy as np
from vae_arbcond import distributions, networks
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import CholeskyGaussian, FeatureScaleNormal
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB

model = VAE(
    16, networks.mlp((64,)), CholeskyGaussian(16), networks.mlp((64,)), FeatureScaleNormal()
)
method = PosteriorMatching(model, networks.mlp((64,)), distributions.HEAD(16))
method.create_variables(DataSpec((64,)))
rng = np.random.default_rng(0)
x = rng.normal(size=[1000, 64]).astype("float32")
observed = rng.random([1000, 64]) < 0.5
method.log_likelihood(x[:1], observed[:1], ~observed[:1], SAMPLES, [0, 1])
before = peak()
estimate = method.log_likelihood(x, observed, ~observed, SAMPLES, [0, 1])
assert np.isfinite(estimate.value).all()
print(peak() - before)
"""


# The autoregressive heads would take minutes for 10,000 samples; chunks of 64 are held one at
# a time, so that two of them need what all of them do.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "samples"),
    [("CholeskyGaussian", 10_000), ("MadeMixture", 128), ("AutoregressiveMixture", 128)],
)
def test_ten_thousand_samples_of_a_thousand_rows_fit_into_two_gigabytes(head, samples):
    program = PROGRAM.replace("HEAD", head).replace("SAMPLES", str(samples))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    gigabytes = float(done.stdout)
    print(f"{head}: {gigabytes:.2f} GB")
    assert gigabytes < 2.0
