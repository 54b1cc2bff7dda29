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
    listed = {}
    for where, _, path in rows():
        if where.startswith("Eq."):
            listed.setdefault(path, set()).add(int(where.split()[1]))
    for path in sorted((ROOT / "vae_arbcond").rglob("*.py")):
        named = set().union(*(numbers(text) for text in docstrings(path).values()))
        missing = named - listed.get(path, set())
        assert not missing, f"{path}: Eq. {sorted(missing)} are not in docs/equations.md"


def test_numbers_reads_ranges_and_lists():
    assert numbers("Eq. 18-21, and Eq. 2 and 3; Eq. 5") == {18, 19, 20, 21, 2, 3, 5}
