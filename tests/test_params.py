"""Parameters: what a notebook declares, what a profile sets, and the one line that a mistake ends with."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from thesis_lib import params, paths

CELL = """profile: str = "smoke"  # which parameters
seed: int = 0  # of everything drawn
data_root: str = ""  # folder of 50Salads, "" for the embedded corpus
lr: float = 1e-3  # learning rate
shuffle: bool = False  # permute the captions
splits: list[int] = [1, 2]  # splits # to run
"""


def write_notebook(name, cell):
    cells = [new_code_cell(cell, metadata={"tags": ["parameters"]})]
    cells.append(new_code_cell("from thesis_lib import params\np = params.from_cell(globals())\nprint(vars(p))"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), paths.NOTEBOOKS / f"{name}.ipynb")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    for name in ("NOTEBOOKS", "PARAMS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "params" / "mini").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    write_notebook("04_baseline", CELL)
    write_notebook("05_pretraining", 'profile: str = "smoke"  # which\nclusters: int = 8  # a step\n')
    set_values("common", "profile: mini\nseed: 7")
    set_values("04_baseline", "lr: 2.0e-4")
    return tmp_path


def set_values(name, text, profile="mini"):
    (paths.PARAMS / profile / f"{name}.yaml").write_text(text, "utf-8")


def mistake(notebook="04_baseline", profile="mini", **overrides):
    with pytest.raises(ValueError) as error:
        params.load(notebook, profile, overrides)
    (line,) = str(error.value).splitlines()
    return line


def test_declared_reads_name_type_default_help():
    splits = params.declared("04_baseline")["splits"]
    assert (splits.type, splits.default, splits.help) == (list[int], [1, 2], "splits # to run")
    assert params.declared("04_baseline")["data_root"].help == 'folder of 50Salads, "" for the embedded corpus'


def test_each_layer_overrides_the_one_before():
    record = params.load("04_baseline", "mini")
    assert (record.profile, record.seed, record.lr, record.splits) == ("mini", 7, 2e-4, [1, 2])
    assert params.load("04_baseline", "mini", {"seed": 9, "lr": "1e-5", "splits": "[3]"}).splits == [3]


@pytest.mark.parametrize("text, value", [("1", 1.0), ("1.0e-4", 1e-4), ("-0.5", -0.5), ("0.5", 0.5)])
def test_floats_as_yaml_gives_them(text, value):
    set_values("04_baseline", f"lr: {text}")
    loaded = params.load("04_baseline", "mini").lr
    assert loaded == value and type(loaded) is float


@pytest.mark.parametrize(
    "line, expected",
    [
        ("lr: fast", "params/mini/04_baseline.yaml: lr: 'fast': expected float, got str"),
        (
            "lr: 1e-4",
            "params/mini/04_baseline.yaml: lr: '1e-4': expected float (YAML reads 1e-4 as text: write 1.0e-04)",
        ),
        ('lr: "0.5"', "params/mini/04_baseline.yaml: lr: '0.5': expected float without quotes, got str"),
        ('seed: "7"', "params/mini/04_baseline.yaml: seed: '7': expected int without quotes, got str"),
        ("seed: 7.0", "params/mini/04_baseline.yaml: seed: 7.0: expected int, got float"),
        ("seed: true", "params/mini/04_baseline.yaml: seed: True: expected int, got bool"),
        ("seed:", "params/mini/04_baseline.yaml: seed: None: expected int, got NoneType"),
        ("shuffle: 1", "params/mini/04_baseline.yaml: shuffle: 1: expected bool, got int"),
        ("splits: 1", "params/mini/04_baseline.yaml: splits: 1: expected list[int], got int"),
        ("splits: [1, a]", "params/mini/04_baseline.yaml: splits: 'a': expected int, got str"),
        ("data_root: 5", "params/mini/04_baseline.yaml: data_root: 5: expected str in quotes, got int"),
        ("sede: 7", "params/mini/04_baseline.yaml: sede: 7: no such parameter, did you mean 'seed'?"),
        ("clusters: 7", "params/mini/04_baseline.yaml: clusters: 7: no such parameter; there are profile, seed"),
        ("data_root: nowhere", "params/mini/04_baseline.yaml: data_root: 'nowhere': expected an existing folder"),
    ],
)
def test_a_mistake_names_file_key_value_and_what_was_expected(line, expected):
    set_values("04_baseline", line)
    assert mistake().startswith(expected)


def test_yaml_traps_are_named():
    set_values("04_baseline", "on: 3")
    assert mistake() == (
        "params/mini/04_baseline.yaml: True: 3: expected a parameter's name "
        "(YAML reads on, off, yes, no as true and false: quote the name)"
    )
    set_values("04_baseline", "data_root: no")
    assert "expected str in quotes (YAML reads yes, no, on, off as true and false)" in mistake()
    set_values("04_baseline", "lr: [1")
    assert mistake().startswith("params/mini/04_baseline.yaml: not YAML: ")
    set_values("04_baseline", "- lr")
    assert mistake().startswith("params/mini/04_baseline.yaml: ['lr']: expected lines")


def test_common_values_must_be_known_to_some_notebook():
    set_values("common", "profile: mini\nclusters: 3")
    assert not hasattr(params.load("04_baseline", "mini"), "clusters")
    set_values("common", "profile: mini\ncluster: 3")
    assert mistake().startswith("params/mini/common.yaml: cluster: 3: no such parameter, did you mean 'clusters'?")
    set_values("common", "clusters: many")
    assert mistake() == "params/mini/common.yaml: clusters: 'many': expected int, got str"
    set_values("common", "profile: smoke")
    assert mistake() == "params/mini/common.yaml: profile: 'smoke': expected 'mini', the folder's name"


def test_missing_files(project):
    assert mistake(profile="mimi").endswith("params/mimi/common.yaml is missing, did you mean 'mini'?")
    assert mistake("05_pretraining") == "params/mini/05_pretraining.yaml is missing: expected values of clusters"
    assert mistake("04_basline").endswith("did you mean '04_baseline'?")
    set_values("common", "profile: mini\nclusters: 2")
    assert params.load("05_pretraining", "mini").clusters == 2, "nothing of its own left to set"


def test_folders_are_found_from_the_project(project):
    (project / "data").mkdir()
    assert params.load("04_baseline", "mini", {"data_root": "data"}).data_root == str(project / "data")
    assert mistake(data_root="nowhere").startswith("overrides: data_root: 'nowhere'")


@pytest.mark.parametrize(
    "line", ["x = 1  # help", "x: int = 1", "x: dict = {}  # d", "x: int = f()  # h", "x: int = 'a'  #"]
)
def test_only_typed_literals_with_help_are_parameters(line):
    write_notebook("04_baseline", line)
    assert mistake().startswith("04_baseline.ipynb: parameters cell, line 1")


def test_find_takes_numbers_names_and_paths():
    assert {params.find(text) for text in ("04", "4", "04_baseline", "notebooks/04_baseline.ipynb")} == {"04_baseline"}
    with pytest.raises(ValueError, match="no notebook '9'"):
        params.find("9")


def test_plain_papermill_gives_the_same_record(project):
    set_values("04_baseline", "lr: 1.0e-4\nsplits: [3]")
    set_values("05_pretraining", "clusters: 1")
    command = [sys.executable, "-m", "papermill", "notebooks/04_baseline.ipynb", "out.ipynb", "--no-progress-bar"]
    for file in ("common", "04_baseline"):
        command += ["-f", f"params/mini/{file}.yaml"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    printed = nbformat.read(project / "out.ipynb", 4).cells[-1].outputs[0].text
    assert printed.strip() == str(vars(params.load("04_baseline", "mini")))


def test_from_cell_checks_what_papermill_injected():
    namespace = {"__annotations__": {"lr": float, "seed": int}, "lr": 1e-4, "seed": "7"}
    with pytest.raises(ValueError, match="parameters cell: seed: '7': expected int without quotes"):
        params.from_cell(namespace)
    assert vars(params.from_cell(namespace | {"seed": 7})) == {"lr": 1e-4, "seed": 7}
    with pytest.raises(ValueError, match="run the parameters cell first"):
        params.from_cell({})
