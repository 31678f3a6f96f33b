"""What every notebook keeps to: short cells, declared parameters, no stored images, a library that does the work."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from thesis_lib import params, paths

NAMES = params.notebooks()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_parameters_are_typed_explained_and_complete(name):
    declared = params.declared(name)
    assert [parameter.name for parameter in declared.values() if len(parameter.help) < 5] == []
    assert {name: declared[name].type for name in params.COMMON} == {name: str for name in params.COMMON} | {
        "seed": int
    }


def test_defaults_are_the_smoke_profile(name):
    defaults = {parameter.name: parameter.default for parameter in params.declared(name).values()}
    assert defaults == params.layered(name, "smoke")[0], "nbval runs the defaults"


def test_every_profile_sets_valid_values(name):
    known = params.profiles(name)
    assert {"smoke", "mini", "50salads"} <= set(known)
    for profile in known:
        params.layered(name, profile)


def test_the_record_follows_the_parameters(notebook):
    cells = code(notebook)
    (at,) = [number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert "params.from_cell(globals())" in cells[at + 1].source


def test_cells_are_short_and_call_the_library(notebook):
    for cell in code(notebook):
        assert cell.source.count("\n") < 25 or "parameters" in cell.metadata.get("tags", []), cell.source
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), "no magics, no shell"
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), cell.source
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            assert called not in ("backward", "zero_grad"), "training belongs to the library"


def test_it_reads_as_a_text(notebook):
    words = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(words) >= len(code(notebook)) / 2 and notebook.cells[0].source.startswith("# ")


def test_kernel_and_cell_ids(notebook):
    nbformat.validate(notebook)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert dict(notebook.metadata.kernelspec) == kernel
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_stored_outputs_are_small_text(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            kinds = set(output.get("data", {"text/plain": ""}))
            assert output.output_type != "error" and kinds == {"text/plain"}, cell.source
    assert len(nbformat.writes(notebook)) < 150_000


def test_they_are_stripped_as_the_commit_hook_strips():
    hooks = yaml.safe_load((paths.ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (arguments,) = [hook["args"] for hook in hooks if hook["id"] == "nbstripout"]
    files = [str(paths.NOTEBOOKS / f"{name}.ipynb") for name in NAMES]
    command = [sys.executable, "-m", "nbstripout", "--verify", *arguments, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run .venv/bin/pre-commit run --all-files"
