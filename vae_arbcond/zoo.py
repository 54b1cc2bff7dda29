"""Trained models that come with the library: run directories under zoo/.

vae_arbcond.zoo.names()            # ['pm-iris']
run = vae_arbcond.zoo.load("pm-iris")
"""

from vae_arbcond import config, runs


def names() -> list[str]:
    """Names of the entries, sorted."""
    folder = config.resource_dir("zoo")
    return sorted(path.parent.name for path in folder.glob(f"*/{runs.MODEL}"))


def load(name: str) -> runs.LoadedRun:
    """Reads an entry.

    Args:
      name: one of `names()`.

    Raises:
      ValueError: there is no such entry.
    """
    if name not in names():
        raise ValueError(f"The zoo has no entry {name!r}; there are {names()}.")
    return runs.load(config.resource_dir("zoo") / name)
