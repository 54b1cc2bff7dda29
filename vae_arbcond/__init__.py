"""Arbitrary conditioning: any features given any others, from any VAE.

    import vae_arbcond as ac

    run = ac.load("runs/breast_cancer")
    run.conditioner.impute(x, observed, num_samples=20, seed=[0, 1])

In every mask, True means observed. Names are loaded on first use: importing this package
alone does not import TensorFlow.
"""

import importlib

_MODULES = ("zoo",)
_HOMES = {
    "PosteriorMatching": "conditioners",
    "TableSchema": "schema",
    "VAE": "models",
    "complete_table": "imputer",
    "evaluate": "evaluation",
    "load": "runs",
    "make_splits": "data.pipeline",
    "read_table": "data.sources",
    "train": "training",
    "write_table": "data.sources",
}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'vae_arbcond' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
