"""The gin files and the zoo are found from a wheel, an editable install and a checkout."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]

PROBE = """
import json, pathlib, gin
from vae_arbcond import config
folders = {kind: config.resource_dir(kind) for kind in config.KINDS}
print(json.dumps({
    "config": config.__file__,
    "library": gin.__file__,
    "folders": {kind: str(folder) for kind, folder in folders.items()},
    "files": sorted(str(p.relative_to(folders["gin"])) for p in folders["gin"].rglob("*.gin")),
}))
"""


def run(*command, cwd, **environment) -> str:
    """The output of a command that sees no index and no package paths but those given."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=inherited | {"PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def probe(python, cwd, **environment) -> dict:
    return json.loads(run(python, "-c", PROBE, cwd=cwd, **environment))


def pip(*arguments, python=sys.executable):
    # Without --ignore-installed, pip would look at what this environment has of the package.
    quiet = ("--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    run(python, "-m", "pip", arguments[0], *quiet, *arguments[1:], cwd="/")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> pathlib.Path:
    """The files of this checkout that git tracks or would track, in a folder of their own."""
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout, to know which files belong to the project")
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=CHECKOUT).split("\0")
    folder = tmp_path_factory.mktemp("copy") / "vae arbcond"  # A blank, as users' paths have.
    for name in filter(None, listed):
        if (CHECKOUT / name).is_file():  # Deleted files stay listed until they are committed.
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(copy, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--wheel-dir", folder, copy)
    (path,) = folder.glob("*.whl")
    return path


def files_of(checkout: pathlib.Path, kind: str) -> list[str]:
    folder = checkout / kind
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def gin_files_of(checkout: pathlib.Path) -> list[str]:
    return [name for name in files_of(checkout, "gin") if name.endswith(".gin")]


def test_a_wheel_finds_its_gin_files_inside_the_package(wheel, copy, tmp_path):
    site = tmp_path / "site"
    pip("install", "--ignore-installed", "--target", site, wheel)
    assert not (site / "gin").exists(), (
        "a top-level gin folder would overwrite the gin library"
    )
    assert not (site / "zoo").exists()
    found = probe(sys.executable, cwd="/", PYTHONPATH=str(site))
    assert found["folders"] == {
        kind: str(site / "vae_arbcond" / "_resources" / kind) for kind in ("gin", "zoo")
    }
    assert found["config"].startswith(str(site))
    assert not found["library"].startswith(str(site))
    assert found["files"] == gin_files_of(copy) != []


def test_a_wheel_holds_every_module_gin_file_and_zoo_entry_once_and_nothing_else(wheel, copy):
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    modules = [f"vae_arbcond/{name}" for name in files_of(copy, "vae_arbcond")]
    resources = [
        f"vae_arbcond/_resources/{kind}/{name}"
        for kind in ("gin", "zoo")
        for name in files_of(copy, kind)
    ]
    assert sorted(names) == sorted(modules + resources)


def test_the_wheel_names_the_commands_the_licence_and_the_oldest_python(wheel):
    archive = zipfile.ZipFile(wheel)
    text = {pathlib.PurePath(n).name: n for n in archive.namelist() if ".dist-info/" in n}
    metadata = archive.read(text["METADATA"]).decode()
    commands = archive.read(text["entry_points.txt"]).decode()
    assert "License: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Apache License" in archive.read(text["LICENSE"]).decode()
    for name in ("train", "evaluate", "impute", "export"):
        assert f"arbcond-{name} = vae_arbcond.cli.{name}:run" in commands


def test_an_editable_install_finds_the_gin_files_of_its_checkout(copy, tmp_path):
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd="/")
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    # Borrows the installed dependencies. Lines of a .pth file are plain paths: an editable
    # install of this package over there is not borrowed with them.
    borrowed = pathlib.Path(pytest.__file__).resolve().parents[1]
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    pip("install", "--ignore-installed", "--editable", copy, python=python)
    found = probe(python, cwd=tmp_path)
    assert found["config"] == str(copy / "vae_arbcond" / "config.py")
    assert found["folders"] == {kind: str(copy / kind) for kind in ("gin", "zoo")}
    assert found["files"] == gin_files_of(copy) != []
    assert not found["library"].startswith(str(copy))


@pytest.mark.parametrize("cwd", ["/", CHECKOUT, CHECKOUT / "gin"])
def test_a_checkout_finds_its_gin_files_from_any_working_directory(cwd):
    found = probe(sys.executable, cwd=cwd, PYTHONPATH=str(CHECKOUT))
    assert found["folders"]["gin"] == str(CHECKOUT / "gin")
    assert found["files"] == gin_files_of(CHECKOUT) != []
    assert not found["library"].startswith(str(CHECKOUT / "gin"))


# One process each: the commands define flags of the same names.
@pytest.mark.parametrize("name", ["train", "evaluate", "impute", "export"])
def test_every_command_the_package_announces_exists(name):
    code = f"from vae_arbcond.cli import {name}; assert callable({name}.run)"
    run(sys.executable, "-c", code, cwd="/", PYTHONPATH=str(CHECKOUT))
