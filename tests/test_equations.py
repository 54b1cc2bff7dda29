"""docs/equations.md leads to functions that name their equations, and misses none."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(
    r"^\| (?:(?P<where>(?:Eq\.|Sec\.|App\.) [^|]+?) \| )?[^|]+ \| \[`(?P<name>[^`]+)`\]"
)
LINK = re.compile(r"\]\((?P<path>[^)]+)\) \|$")


def rows():
    """(equation or '', qualified name, file) of each line of the tables."""
    found = []
    for line in (ROOT / "docs" / "equations.md").read_text().splitlines():
        if row := ROW.match(line):
            path = (ROOT / "docs" / LINK.search(line)["path"]).resolve()
            found.append((row["where"] or "", row["name"], path))
    return found


def docstrings(path):
    """Qualified name -> docstring of every class, function and method of a file."""
    found = {}

    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                name = f"{prefix}{child.name}"
                found[name] = ast.get_docstring(child) or ""
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{name}.")

    tree = ast.parse(path.read_text())
    visit(tree, "")
    found["module"] = ast.get_docstring(tree) or ""
    return found


def numbers(text):
    """Equation numbers that a text names: "Eq. 18-21", "Eq. 19 and 21", "Eq. 5"."""
    found = set()
    for match in re.finditer(r"Eq\. (\d+)(?:(-|, | and )(\d+))?", text):
        first, sign, last = match.groups()
        found |= {int(first)} | ({int(last)} if last else set())
        if sign == "-":
            found |= set(range(int(first), int(last) + 1))
    return found


def test_the_page_has_rows():
    assert len(rows()) > 15


@pytest.mark.parametrize(("where", "name", "path"), rows())
def test_every_row_leads_to_a_function_that_names_its_equation(where, name, path):
    known = docstrings(path)
    assert name in known, f"{path} defines no {name}"
    text = known[name] + known["module"]
    if where.startswith("Eq."):
        assert int(where.split()[1]) in numbers(text), f"{name} does not name {where}"
    elif where:
        assert where.split()[1] in text, f"{name} does not name {where}"


def test_every_equation_that_a_docstring_names_is_on_the_page():
    listed = {
        (path, name, int(where.split()[1]))
        for where, name, path in rows()
        if where.startswith("Eq.")
    }
    on_page = {(path, number) for path, _, number in listed}
    for path in sorted((ROOT / "vae_arbcond").rglob("*.py")):
        for name, text in docstrings(path).items():
            for number in numbers(text):
                elsewhere = {n for _, _, n in listed}
                assert (path, number) in on_page or number in elsewhere, (
                    f"{path.name}: {name} names Eq. {number}, docs/equations.md does not"
                )


def test_numbers_reads_ranges_and_lists():
    assert numbers("Eq. 18-21, and Eq. 2 and 3; Eq. 5") == {18, 19, 20, 21, 2, 3, 5}
