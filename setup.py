"""Package metadata, dependencies, and where the gin files and zoo entries go.

The folders gin/ and zoo/ stay at the top of the repository, where people look for them. In
an installation they become vae_arbcond/_resources/gin and vae_arbcond/_resources/zoo, by
`package_dir`: nothing is copied in the repository, and site-packages/gin stays what it is,
the gin library. `vae_arbcond.config.resource_dir` finds them in both places.
"""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# A lower bound is the oldest version tried. An upper bound says why it is there.
INSTALL_REQUIRES = [
    # Below 2.22: tf_keras and tensorboard have to follow TensorFlow's minor version, and
    # tensorflow-probability 0.25 reaches into TensorFlow's insides; 2.21 is the newest tried.
    "tensorflow>=2.20,<2.22",
    # The same range: tf_keras 2.N itself requires tensorflow 2.N, so pip cannot mix them, and
    # TensorFlow 2.20 requires tensorboard 2.20. (2.21 requires none, hence it is named here.)
    "tf_keras>=2.20,<2.22",
    "tensorboard>=2.20,<2.22",
    # Below 4: registry.py builds on Keras 3's saving, which is not that of Keras 2.
    "keras>=3.15,<4",
    # Each release is made for certain versions of TensorFlow and tf_keras; 0.25 for these.
    "tensorflow-probability==0.25.*",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources",  # tensorflow-datasets imports it without requiring it.
    # config.py reads gin's error messages to explain them, and a release may reword those.
    "gin-config==0.5.*",
    "absl-py>=2.5",
    "numpy>=2",
    "pandas>=3.1",
    "pyarrow>=26",
    "h5py>=3.14",  # BSDS300; keras brings it anyway.
    "scikit-learn>=1.9",
    "matplotlib>=3.11",
    "setuptools>=77",  # tensorflow-probability imports distutils, which setuptools provides.
]

EXTRAS_REQUIRE = {
    "benchmarks": [
        # MICE and MissForest for tables with levels (vae_arbcond/baselines.py).
        "miceforest==6.0.5",
        "lightgbm>=4.6,<4.7",  # miceforest 6.0.5 breaks with 4.7.
    ],
    "dev": [
        "build>=1.3",
        "pytest>=9",
        "pytest-xdist>=3.8",
        # Minor versions of ruff change rules and layout, which `make test` checks.
        "ruff==0.17.*",
        "wheel>=0.45",
    ],
}

RESOURCES = {
    f"vae_arbcond._resources.{kind}": kind for kind in ("gin", "zoo") if (HERE / kind).is_dir()
}

COMMANDS = ("train", "evaluate", "impute", "export")

setup(
    name="vae_arbcond",
    version="0.1.0",
    description="Arbitrary conditioning for variational autoencoders: samples and likelihoods "
    "of any features given any others.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["vae_arbcond", "vae_arbcond.*"]), *RESOURCES],
    package_dir=RESOURCES,
    package_data={package: ["*", "**/*"] for package in RESOURCES},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": [
            f"arbcond-{command} = vae_arbcond.cli.{command}:run" for command in COMMANDS
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
