"""Imports run one way; this page keeps them so. It reads source text and runs nothing."""

import ast
import pathlib
from collections.abc import Iterator, Mapping

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "vae_arbcond"

# What a part of the package may import besides itself. Parts that are not listed (training,
# runs, imputer, ...) are applications: they may import every part but the commands, and no
# part listed here may import them. A new part that lower ones need gets a line here.
BASE = {"shapes", "registry"}
NETWORKS = BASE | {"networks", "distributions"}
MODELS = NETWORKS | {"estimators", "models", "mixtures"}
ALLOWED = {
    "shapes": set(),
    "registry": set(),
    "files": set(),
    "schema": {"files"},
    "masks": BASE,
    "networks": BASE,
    "skip_networks": BASE,
    "distributions": BASE | {"networks"},
    "estimators": BASE | {"distributions"},
    "mixtures": BASE,
    "models": NETWORKS | {"mixtures"},
    "variational": BASE | {"distributions"},
    "conditioners": MODELS | {"variational"},
    "metrics": BASE | {"schema", "masks"},
    "data": BASE | {"schema", "masks", "files"},
    "acquisition": MODELS | {"conditioners", "schema", "masks", "data", "metrics"},
}
COMMANDS = {"cli", "demo"}  # Nothing in the library imports them.
MAY_READ_FLAGS = {"cli", "demo", "export"}
MAY_PARSE_GIN = {"cli", "config", "export"}

WITHOUT_TENSORFLOW = ("schema",)
TENSORFLOW = {
    "tensorflow",
    "tensorflow_probability",
    "tensorflow_datasets",
    "keras",
    "tf_keras",
}
PICKLES = {"pickle", "cloudpickle", "dill", "shelve", "joblib"}


def part_of(module: str) -> str:
    """vae_arbcond.models.vae -> models; vae_arbcond itself -> the empty string."""
    return [*module.split("."), ""][1]


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports, inside functions too."""
    parents = module.split(".")[: None if is_package else -1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = parents[: len(parents) + 1 - node.level] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def calls(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every call such as gin.parse_config(...)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def violations(modules: Mapping[str, str]) -> list[str]:
    """What breaks the rules above, one sentence each.

    Args:
      modules: dotted name of every module (a package under the name of its __init__, with
        ".__init__") -> source text.
    """
    found = []
    for key, source in modules.items():
        module = key.removesuffix(".__init__")
        part = part_of(module)
        for line, name in imports(module, source, key.endswith(".__init__")):
            top, place = name.split(".")[0], f"{key}, line {line}"
            if top == PACKAGE:
                other = part_of(name)
                allowed = ALLOWED.get(part)
                if other in (part, "") or part in COMMANDS:
                    continue
                if other in COMMANDS or (allowed is not None and other not in allowed):
                    found.append(f"{place}: {part or PACKAGE} must not import {other}.")
            elif top in TENSORFLOW and part in WITHOUT_TENSORFLOW:
                found.append(f"{place}: {part} must work without {top}.")
            elif top in PICKLES:
                found.append(f"{place}: {top} is not used for anything in this package.")
            elif name.startswith("absl.flags") and part not in MAY_READ_FLAGS:
                found.append(f"{place}: only the commands read flags.")
            elif name.startswith("gin.parse_") and part not in MAY_PARSE_GIN:
                found.append(f"{place}: only config and the commands parse gin files.")
        for line, name in calls(source):
            if (
                name.startswith(("gin.parse_", "gin.config.parse_"))
                and part not in MAY_PARSE_GIN
            ):
                found.append(
                    f"{key}, line {line}: only config and the commands parse gin files."
                )
        if "skip_unknown" in {
            k.arg
            for n in ast.walk(ast.parse(source))
            if isinstance(n, ast.Call)
            for k in n.keywords
        }:
            found.append(f"{key}: skip_unknown hides misspelt names.")
    return found


def cycle(modules: Mapping[str, str]) -> list[str]:
    """A circle among the imports at the top of modules, or an empty list."""
    names = {key.removesuffix(".__init__"): key for key in modules}

    def known(name: str) -> str | None:
        while name and name not in names:
            name = name.rpartition(".")[0]
        return name if name.startswith(f"{PACKAGE}.") else None

    graph = {}
    for name, key in names.items():
        top_level = ast.Module(
            [
                n
                for n in ast.parse(modules[key]).body
                if isinstance(n, ast.Import | ast.ImportFrom)
            ],
            [],
        )
        targets = imports(name, ast.unparse(top_level), key.endswith(".__init__"))
        graph[name] = {known(target) for _, target in targets} - {None, name}

    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if circle := walk(target, (*path, name)):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := walk(name, ()))), [])


@pytest.fixture(scope="module")
def modules() -> dict[str, str]:
    paths = sorted((CHECKOUT / PACKAGE).rglob("*.py"))
    assert len(paths) > 10
    return {
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts): path.read_text("utf-8")
        for path in paths
    }


def test_imports_run_one_way_and_only_the_commands_touch_flags_and_gin_files(modules):
    assert violations(modules) == []


def test_no_module_imports_itself_by_a_detour(modules):
    assert cycle(modules) == []


def test_no_folder_of_gin_files_is_a_python_package():
    # With an __init__.py, `import gin` in a checkout would find it instead of the library.
    assert list((CHECKOUT / "gin").rglob("*.py")) == []


@pytest.mark.parametrize(
    ("module", "source", "wanted"),
    [
        ("models.vae", "from vae_arbcond import conditioners", "models must not import cond"),
        ("models.vae", "from vae_arbcond.masks import BernoulliMask", "not import masks"),
        ("models.vae", "import vae_arbcond.schema", "models must not import schema"),
        (
            "models.vae",
            "def f():\n    from vae_arbcond import data",
            "line 2: models must not",
        ),
        ("models.vae", "from ..conditioners import base", "models must not import cond"),
        ("models.__init__", "from ..conditioners import base", "models must not import cond"),
        ("conditioners.base", "from vae_arbcond.schema.table import T", "not import schema"),
        ("conditioners.base", "from vae_arbcond.data import pipeline", "not import data"),
        ("networks", "from vae_arbcond import training", "networks must not import training"),
        ("schema", "import numpy, tensorflow as tf", "schema must work without tensorflow"),
        ("schema.table", "from keras import ops", "schema must work without keras"),
        ("schema", "from vae_arbcond.registry import register", "must not import registry"),
        ("training", "from vae_arbcond.cli import train", "training must not import cli"),
        ("__init__", "from vae_arbcond import demo", "vae_arbcond must not import demo"),
        ("training", "from absl import flags", "only the commands read flags"),
        ("training", "import gin\ngin.parse_config_file('a.gin')", "line 2: only config"),
        ("training", "from gin import parse_config", "only config and the commands parse"),
        ("config", "import gin\ngin.parse_config('', skip_unknown=True)", "hides misspelt"),
        ("zoo", "import pickle", "pickle is not used"),
    ],
)
def test_an_offender_is_found(module, source, wanted):
    (found,) = violations({f"{PACKAGE}.{module}": source})
    assert wanted in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.vae", "from vae_arbcond.models import base\nfrom . import schedules"),
        ("conditioners.base", "from vae_arbcond.models.base import LatentVariableModel"),
        ("training", "import gin\nfrom vae_arbcond import conditioners, data, zoo"),
        ("cli.train", "from absl import app, flags\nfrom vae_arbcond import training"),
        ("config", "import gin\ngin.parse_config('a.b = 1')"),
    ],
)
def test_what_follows_the_rules_is_let_pass(module, source):
    assert violations({f"{PACKAGE}.{module}": source}) == []


def test_a_circle_of_imports_is_found_and_one_inside_a_function_is_not():
    first, second = f"{PACKAGE}.runs", f"{PACKAGE}.training"
    circle = {first: f"import {second}", second: f"from {PACKAGE} import runs"}
    assert cycle(circle) == [first, second, first]
    assert cycle(circle | {second: f"def f():\n    from {PACKAGE} import runs"}) == []
