"""The command `thesis`: what it prints and how it ends."""

import json

import pytest

from thesis_lib import cli, params


def test_params_lists_name_type_help_and_the_value_in_each_profile(project):
    code, output = project.thesis("params", "04")
    assert code == 0
    assert "epochs: int = 2  # of training\n    mini: 3\n" in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["notebook", "12"], "thesis: no notebook '12' in "),
        (["run", "--profile", "mimi"], "thesis: no profile 'mimi': params/mimi/common.yaml is missing, did you mean"),
        (["notebook", "04", "-p", "epochs", "many"], "thesis: overrides: epochs: 'many': expected int, got str"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(project, arguments, message):
    code, output = project.thesis(*arguments)
    assert code == 2 and output.startswith(message) and output.count("\n") == 1


def test_only_errors_that_our_code_raised_are_taken_for_mistakes(monkeypatch, capsys):
    def mistaken(args):
        """Doc."""
        params.find("nowhere")

    def broken(args):
        """Doc."""
        torch_like = compile("int('seven')", "elsewhere.py", "exec")
        exec(torch_like)

    monkeypatch.setattr(cli, "report", mistaken)
    assert cli.main(["report"]) == 2 and capsys.readouterr().err.startswith("thesis: no notebook 'nowhere'")
    monkeypatch.setattr(cli, "report", broken)
    with pytest.raises(ValueError, match="seven"):
        cli.main(["report"])


def test_evaluate_scores_two_folders(tmp_path, capsys):
    for folder, labels in {"truth": "cut cut peel peel", "predicted": "cut cut cut peel"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rgb-01-1.txt").write_text("\n".join(labels.split()))
    folders = ["--predictions", str(tmp_path / "predicted"), "--ground-truth", str(tmp_path / "truth")]
    assert cli.main(["evaluate", *folders, "--json", str(tmp_path / "out.json")]) == 0
    assert "0.7500" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["accuracy"] == 0.75


def test_check_data_ends_with_1_for_an_empty_folder(tmp_path):
    assert cli.main(["check-data", "--root", str(tmp_path)]) == 1
