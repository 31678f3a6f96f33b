"""The graph through SLURM: Snakemake's own plugin, a fake SLURM behind it, the toy project as what is run."""

import importlib.util
import json
import os
import stat
import sys

import pytest

from tests import fake_slurm

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="snakemake-executor-plugin-slurm is not installed: pip install -e .[slurm]",
)
OPTIONS = "--executor slurm --slurm-init-seconds-before-status-checks 6 --default-resources slurm_account=thesis"


@pytest.fixture
def slurm(tmp_path):
    """The environment of a machine with SLURM, and a function that reads its calls by the name of the command."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun", "sacct", "sacctmgr", "squeue", "scancel", "scontrol", "sinfo"):
        script = commands / name
        script.write_text(f"#!{sys.executable}\n" + open(fake_slurm.__file__).read())
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    state = tmp_path / "slurm"
    state.mkdir()
    path = f"{commands}:{os.environ['PATH']}"

    def calls(name: str) -> list[list[str]]:
        every = [json.loads(line) for line in (state / "calls.jsonl").read_text().splitlines()]
        return [call[1:] for call in every if call[0] == name]

    return {"PATH": path, "FAKE_SLURM": str(state)}, calls


def asked(calls: list[list[str]]) -> dict[str, list[str]]:
    """What sbatch was asked for, by rule, without the command."""
    return {call[call.index("--comment") + 1]: [text for text in call if "--wrap" not in text] for call in calls}


def test_every_job_is_submitted_with_what_it_needs_and_a_lost_one_goes_on(project, slurm, tmp_path):
    environment, calls = slurm
    diary = tmp_path / "diary"
    about = {2: {"processes": 2, "resources": {"mem_mb": 16000, "runtime": 90}}}
    project.change("stages", "PROCESSES = {}", f"PROCESSES = {about}")
    project.add("training/__init__", "training/distributed")
    environment |= {"TOY_DIARY": str(diary), "TOY_STEP": "1", "FAKE_SLURM_LOSES": "rule_stage_train_1"}
    environment |= {"FAKE_SLURM_WHEN": f"{project.folder}/runs/mini/toy.train/*.partial/log.txt"}
    options = ["--jobs", "4", "--threads", "3", "--snakemake", f"{OPTIONS} --retries 1"]
    code, output = project.thesis("run", "train_1", "train_2", *options, **environment)
    assert code == 0, output + project.report("logs/graph.log").read_text()
    submitted = calls("sbatch")
    rules = [call[call.index("--comment") + 1] for call in submitted]
    assert sorted(rules) == ["rule_stage_corpus", "rule_stage_train_1", "rule_stage_train_1", "rule_stage_train_2"]
    assert rules[0] == "rule_stage_corpus"
    by_rule = asked(submitted)

    def options_of(rule):
        call = by_rule[rule]
        values = {name: call[call.index(name) + 1] for name in ("--mem", "-t")}
        return values | dict(text.split("=") for text in call if text.startswith(("--gpus", "--cpus", "--nodes")))

    one = {"--mem": "6000", "-t": "720", "--gpus": "1", "--cpus-per-task": "3", "--nodes": "1"}
    assert options_of("rule_stage_train_1") == one
    two = {"--mem": "16000", "-t": "90", "--gpus": "2", "--cpus-per-task": "6", "--nodes": "1"}
    assert options_of("rule_stage_train_2") == two

    seen = [line.split() for line in diary.read_text().splitlines()]
    gpus = {split: own.split(",") for split, _, own, *_ in seen}
    assert len(gpus["1"]) == 1 and len(gpus["2"]) == 2, "jobs see what SLURM gave them"
    assert "goes on" in project.report("logs/train_1.log").read_text()
    assert [log.read_text() for log in project.folder.glob("runs/mini/toy.train/*/log.txt")] == ["xxx", "xxx"]
