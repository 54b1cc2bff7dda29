import os
import pathlib
import subprocess
import sys
import textwrap

import gin
import pytest

from vae_arbcond import config, runs  # noqa: F401 a locked configuration takes no new names
from vae_arbcond.registry import register


@register
class Kettle:
    """Something to configure."""

    def __init__(self, water_volume, lid=None):
        self.water_volume = water_volume
        self.lid = lid


@gin.configurable(module="vae_arbcond")
def brew(kettle, num_minutes=3):
    return kettle, num_minutes


# Names are suggested from the library's own modules; these two stand in for them.
config.Kettle, config.brew = Kettle, brew


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A folder in the place of the library's gin folder, and an empty working directory."""
    folder = tmp_path / "library"
    write(folder / "data/tea.gin", "NUM_LEAVES = 7\n")
    write(
        folder / "experiments/tea.gin",
        "include 'data/tea.gin'\nbrew.kettle = @Kettle()\nKettle.water_volume = %NUM_LEAVES\n",
    )
    write(folder / "experiments/coffee.gin", "brew.num_minutes = 1\n")
    monkeypatch.setattr(config, "resource_dir", lambda kind: folder)
    monkeypatch.setattr(config, "import_configurables", lambda: None)  # Has a test of its own.
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def message(gin_files=(), gin_params=()) -> str:
    with pytest.raises(config.ConfigError) as caught:
        config.load(list(gin_files), list(gin_params))
    text = str(caught.value)
    assert "\n" not in text
    assert gin.config_str().strip() == "", "gin's state must be clean after a failure"
    assert not gin.config_is_locked()
    return text


class TestLoading:
    def test_an_experiment_of_the_library_is_found_from_anywhere(self, library):
        config.load(["experiments/tea.gin"], [])
        kettle, num_minutes = brew()
        assert (kettle.water_volume, num_minutes) == (7, 3)

    def test_parameters_override_files_and_later_files_override_earlier_ones(self, library):
        config.load(["experiments/tea.gin", "experiments/coffee.gin"], ["NUM_LEAVES = 9"])
        kettle, num_minutes = brew()
        assert (kettle.water_volume, num_minutes) == (9, 1)

    def test_a_users_file_includes_files_beside_it_in_the_working_directory_and_ours(
        self, library, tmp_path
    ):
        write(tmp_path / "elsewhere/beside.gin", "Kettle.lid = 'beside'\n")
        write(tmp_path / "work/data/here.gin", "brew.num_minutes = 8\n")
        mine = write(
            tmp_path / "elsewhere/mine.gin",
            """
            include 'experiments/tea.gin'
            include 'data/here.gin'  # A folder of this name exists in the library, too.
            include 'beside.gin'
            """,
        )
        config.load([str(mine)], [])
        kettle, num_minutes = brew()
        assert (kettle.water_volume, kettle.lid, num_minutes) == (7, "beside", 8)

    def test_the_working_directory_does_not_change_what_an_experiment_of_the_library_means(
        self, library, tmp_path
    ):
        write(tmp_path / "work/data/tea.gin", "NUM_LEAVES = 1\n")
        config.load(["experiments/tea.gin"], [])
        assert brew()[0].water_volume == 7

    def test_bindings_around_an_include_take_effect_in_the_order_of_the_lines(
        self, library, tmp_path
    ):
        write(
            tmp_path / "work/order.gin",
            """
            brew.num_minutes = 5
            include 'experiments/coffee.gin'
            Kettle.lid = 1
            include 'experiments/tea.gin'
            Kettle.lid = 2
            """,
        )
        config.load(["order.gin"], [])
        kettle, num_minutes = brew()
        assert (kettle.lid, num_minutes) == (2, 1)

    def test_loading_again_forgets_the_first_configuration(self, library):
        config.load(["experiments/tea.gin"], ["brew.num_minutes = 4"])
        config.load(["experiments/tea.gin"], [])
        assert brew()[1] == 3

    def test_a_loaded_configuration_cannot_be_changed(self, library):
        config.load(["experiments/tea.gin"], [])
        with pytest.raises(RuntimeError, match="locked"):
            gin.bind_parameter("brew.num_minutes", 1)

    def test_a_string_in_the_place_of_a_list_is_refused(self, library):
        with pytest.raises(TypeError, match=r"gin_files must be a list.*\['tea.gin'\]"):
            config.load("tea.gin", [])

    def test_a_block_a_scope_and_a_macro_from_a_parameter_are_understood(self, library):
        config.load(
            ["experiments/tea.gin"],
            [
                "MINUTES = 2",
                "brew:\n  num_minutes = %MINUTES",
                "brew.kettle = @big/Kettle()",
                "big/Kettle.lid = 'heavy'",
            ],
        )
        kettle, num_minutes = brew()
        assert (kettle.lid, num_minutes) == ("heavy", 2)


class TestMessages:
    def test_a_misspelt_parameter_is_named_with_its_line_and_the_nearest_ones(self, library):
        path = write(
            library / "experiments/bad.gin", "\n# A comment\nKettle.water_volum = 1\n"
        )
        text = message(["experiments/bad.gin"])
        assert text == (
            f"{path}, line 3 (Kettle.water_volum = 1): Kettle has no parameter 'water_volum'. "
            f"Did you mean 'water_volume'? It has: water_volume, lid."
        )

    def test_the_line_number_counts_from_the_top_of_the_file_also_after_an_include(
        self, library
    ):
        write(library / "bad.gin", "include 'experiments/tea.gin'\n\nKettle.lit = 1\n")
        assert "bad.gin, line 3 (Kettle.lit = 1)" in message(["bad.gin"])

    def test_the_file_that_is_wrong_is_named_and_not_the_one_that_includes_it(self, library):
        write(library / "data/tea.gin", "Kettle.lit = 1\n")
        assert f"{library}/data/tea.gin, line 1" in message(["experiments/tea.gin"])

    def test_a_misspelt_parameter_on_the_command_line_is_named(self, library):
        text = message([], ["brew.num_minute = 2"])
        assert text.startswith("parameter 'brew.num_minute = 2': brew has no parameter")
        assert "Did you mean 'num_minutes'?" in text

    @pytest.mark.parametrize(
        "line", ["Ketle.lid = 1", "brew.kettle = @kettle()", "ketle.lid=1"]
    )
    def test_a_misspelt_configurable_is_named_with_the_nearest_one(self, library, line):
        text = message([], [line])
        assert "nothing configurable is called" in text
        assert "'Kettle'" in text

    def test_a_name_that_resembles_nothing_gets_the_list_of_names(self, library):
        text = message([], ["xyzzyxyzzy.lid = 1"])
        assert "Known names:" in text
        assert "Kettle" in text and "brew" in text

    def test_a_missing_file_is_answered_with_where_it_was_looked_for_and_what_there_is(
        self, library, tmp_path
    ):
        text = message(["teas.gin"])
        assert "There is no gin file 'teas.gin'" in text
        assert f"Looked in {tmp_path}/work, {library}." in text
        assert "Did you mean 'data/tea.gin' or 'experiments/tea.gin'?" in text
        assert text.endswith("experiments/coffee.gin, experiments/tea.gin.")

    def test_a_missing_absolute_path_is_not_looked_for_elsewhere(self, library, tmp_path):
        text = message([f"{tmp_path}/none.gin"])
        assert "absolute" in text and "Looked in" not in text

    def test_a_missing_include_names_the_line_that_asked_for_it(self, library):
        write(library / "experiments/bad.gin", "# Title\ninclude 'data/coffee.gin'\n")
        text = message(["experiments/bad.gin"])
        assert "bad.gin, line 2: there is no file 'data/coffee.gin' to include." in text
        assert "'experiments/coffee.gin'" in text

    def test_files_that_include_each_other_are_named_in_a_circle(self, library):
        write(library / "a.gin", "include 'b.gin'\n")
        write(library / "b.gin", "include 'a.gin'\n")
        assert f"{library}/a.gin -> {library}/b.gin -> {library}/a.gin" in message(["a.gin"])

    def test_a_file_that_is_no_text_is_named(self, library):
        (library / "bad.gin").write_bytes(b"\xff\xfe\x00")
        assert f"Cannot read the gin file {library}/bad.gin" in message(["bad.gin"])

    @pytest.mark.parametrize(
        ("line", "wanted"),
        [
            ("brew.num_minutes", "A line reads owner.parameter = value."),
            ("brew.num_minutes = lots", "Text needs quotes"),
            ("brew.num_minutes = (1,", "bracket or a quote left open"),
            ("brew.num_minutes = 1 2", "A line reads owner.parameter = value."),
            ("import no_such_module_of_tea", "Is the module installed?"),
            ("brew.num_minutes = %MINUTES", "%MINUTES is used but never set."),
            ("brew.num_minutes = %gin.REQUIRED", "not subsequently overridden"),
        ],
    )
    def test_what_cannot_be_read_is_answered_with_what_to_write(self, library, line, wanted):
        assert wanted in message([], [line])
        path = write(library / "bad.gin", f"\n{line}\n")
        text = message(["bad.gin"])
        assert wanted in text
        if "%" not in line:
            assert str(path) in text

    def test_a_parameter_without_its_owner_is_refused_instead_of_doing_nothing(self, library):
        # To gin this sets a macro called num_minutes, and nothing would use it.
        text = message(["experiments/tea.gin"], ["num_minutes = 10"])
        assert "name its owner: brew.num_minutes." in text

    def test_a_misspelt_macro_on_the_command_line_is_refused(self, library):
        text = message(["experiments/tea.gin"], ["NUM_LEAFES = 10"])
        assert "Did you mean 'NUM_LEAVES'?" in text

    def test_a_macro_that_a_file_offers_may_go_unused(self, library):
        config.load(["data/tea.gin"], [])


def test_the_full_configuration_is_one_file_that_loads_alone_to_the_same(library, tmp_path):
    config.load(["experiments/tea.gin"], ["big/Kettle.lid = 'heavy'", "NUM_LEAVES = 9"])
    full = config.full_config()
    assert "include" not in full
    config.load([str(write(tmp_path / "full.gin", full))], [])
    assert config.full_config() == full
    assert brew()[0].water_volume == 9


class TestOperativeConfig:
    def test_it_holds_what_was_used_and_loads_again_to_the_same(self, library, tmp_path):
        config.load(["experiments/tea.gin"], ["brew.num_minutes = 4"])
        assert config.operative_config().strip() == ""
        brew()
        used = config.operative_config()
        assert "brew.num_minutes = 4" in used
        assert "NUM_LEAVES = 7" in used

        path = tmp_path / "operative_config.gin"
        config.save_operative_config(path)
        assert os.listdir(path.parent / "work") == []
        config.load([str(path)], [])
        brew()
        assert config.operative_config() == used

    def test_a_write_that_fails_leaves_the_old_file_and_no_debris(
        self, library, tmp_path, monkeypatch
    ):
        path = write(tmp_path / "run/operative_config.gin", "old")

        def fail(*args):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            config.save_operative_config(path)
        assert [p.name for p in path.parent.iterdir()] == ["operative_config.gin"]
        assert path.read_text() == "old"


def test_resource_dir_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match=r"one of \['gin', 'zoo'\]; got 'gym'"):
        config.resource_dir("gym")


def test_resource_dir_never_answers_with_the_gin_library(tmp_path, monkeypatch):
    # As in site-packages: a folder called gin lies beside the package, but no setup.py.
    package = tmp_path / "site-packages" / "vae_arbcond"
    write(package / "config.py", "")
    write(tmp_path / "site-packages/gin/__init__.py", "")
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    with pytest.raises(config.ConfigError, match="install the package again"):
        config.resource_dir("gin")


def test_every_module_but_the_commands_is_imported_before_parsing():
    code = textwrap.dedent(
        """
        import sys
        from vae_arbcond import config
        config.import_configurables()
        print(*(n for n in sys.modules if n.startswith("vae_arbcond.")))
        """
    )
    imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    package = pathlib.Path(config.__file__).parent
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(("vae_arbcond", *parts)).removesuffix(".__init__")
        left_out = name == "vae_arbcond.demo" or parts[0] == "cli"
        if name != "vae_arbcond":
            assert (name in imported) != left_out, name
