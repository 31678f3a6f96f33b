"""Several processes, started by torchrun with gloo on the CPU, do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.training import team, test_alpro, test_s3d, test_svitt, test_videoclip, test_videomae
from thesis_lib.losses import mil_nce_loss
from thesis_lib.training import s3d, svitt, videoclip, videomae

ROOT = Path(__file__).parents[2]


def torchrun(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command += ["-m", "tests.training.team", *map(str, arguments)]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_gathered_negatives_give_the_gradient_of_the_whole_batch(tmp_path):
    torchrun(4, "mil_nce", tmp_path)
    loss, *gradients = torch.load(tmp_path / "gradients.pt")
    models = team.towers()
    whole = mil_nce_loss(*(model(x) for model, x in zip(models, team.clips_and_texts(), strict=True)))
    whole.backward()
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
    weights = [parameter for model in models for parameter in model.parameters()]
    for weight, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-10, atol=1e-14)


def test_shares_errors_and_values(tmp_path):
    torchrun(2, "helpers", tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["whole"] == (None if rank else [[row, row] for row in range(7)])
        assert found["said"] == "division by zero" and found["number"] == 5


def test_a_cached_stage_runs_once_alone_or_in_all_processes_together(tmp_path):
    torchrun(2, "cache", tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {"alone": ["0 of 1"], "together": ["0 of 2", "1 of 2"]}


@pytest.mark.parametrize("processes", [2, 4])
def test_videoclip_on_processes_is_videoclip_on_one(tmp_path, processes):
    """4 clusters a step and 2 in the last step of an epoch, dropout, clipping, chunks, retrieval by all processes."""
    root = tmp_path / "howto"
    test_videoclip.write_howto(root)
    settings = test_videoclip.SMALL | dict(num_steps=5, clusters_per_step=4, dropout=0.1, pairs_at_once=20, seed=3)
    settings |= dict(features=str(root / "features"), howto=str(root), vocab=str(root / "vocab.txt"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    team.train(alone, "videoclip", json.dumps(settings))
    printed = torchrun(processes, "train", together, "videoclip", json.dumps(settings))
    assert printed.count("epoch 1/3") == 1 and printed.count("videos left out") == 1
    histories = [pd.read_csv(folder / "history.csv") for folder in (alone, together)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)
    assert (alone / "clusters.json").read_text() == (together / "clusters.json").read_text()
    one, many = (videoclip.load(folder).state_dict() for folder in (alone, together))
    for name, value in one.items():
        # Adam moves a weight by about the learning rate whatever its gradient is; 1e-4 is a fortieth of one step.
        torch.testing.assert_close(many[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_s3d_learns_on_two_processes(tmp_path):
    """Batch norm sees the clips of its own process alone, as in the official code, so weights differ a little."""
    howto = tmp_path / "howto"
    test_s3d.write_howto(howto, num_videos=3)
    settings = test_s3d.SMALL | dict(num_steps=3, howto=str(howto), batch_size=8)
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run = torchrun if processes > 1 else lambda _, program, *arguments: getattr(team, program)(*arguments)
        run(processes, "train", folder, "s3d", json.dumps(settings))
        losses.append(pd.read_csv(folder / "history.csv")["loss"].to_numpy())
        assert s3d.load(folder)[1].words
    np.testing.assert_allclose(*losses, rtol=0.05)
    with pytest.raises(AssertionError, match="batch_size=15 cannot be shared by 2 processes"):
        torchrun(2, "train", tmp_path, "s3d", json.dumps(settings | dict(batch_size=15)))


def test_videomae_on_two_processes_is_videomae_on_one(tmp_path):
    """Three batches a step: one process has two of them, the other one."""
    howto = tmp_path / "howto"
    test_videomae.write_howto(howto, num_videos=3)
    settings = test_videomae.SMALL | dict(num_steps=3, howto=str(howto), batch_size=4, accumulate=3)
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    team.train(alone, "videomae", json.dumps(settings))
    torchrun(2, "train", together, "videomae", json.dumps(settings))
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "history.csv") for folder in (alone, together)), rtol=1e-5)
    one, two = (videomae.load(folder).state_dict() for folder in (alone, together))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_alpro_on_processes_contrasts_the_whole_batch(tmp_path):
    """The other losses are means over what a process holds, in the official code too."""
    howto = tmp_path / "howto"
    test_alpro.write_corpus(howto, num_videos=3)
    settings = test_alpro.TINY | dict(losses=["vtc"], start="random", batch_size=6)
    settings |= dict(howto=str(howto), vocab=str(howto / "vocab.txt"))
    runs = [tmp_path / "one", tmp_path / "two"]
    for folder, run in zip(runs, (lambda _, program, *rest: getattr(team, program)(*rest), torchrun), strict=True):
        folder.mkdir()
        run(2, "train", folder, "alpro", json.dumps(settings))
    one, two = (pd.read_csv(folder / "history.csv") for folder in runs)
    # Weights are not compared: a bias of keys has no gradient but rounding, and Adam makes whole steps of that.
    np.testing.assert_allclose(two[["loss", "vtc"]], one[["loss", "vtc"]], rtol=1e-4)


def test_svitt_on_two_processes_contrasts_the_same_batch(tmp_path):
    """Two stages. Matching and masked words draw within a process, in the official code too: losses are near then."""
    howto = tmp_path / "howto"
    test_svitt.write_corpus(howto, num_videos=4)
    settings = test_svitt.SMALL | dict(stage_frames=[2, 4], stage_keep=[0.7, 0.6], num_steps=3, batch_size=12, warmup=1)
    settings |= dict(matching_weight=0.0, words_weight=0.0, howto=str(howto), vocab=str(howto / "vocab.txt"))
    asked = [json.dumps(settings | dict(objective=objective)) for objective in svitt.OBJECTIVES]
    asked.append(json.dumps(settings | dict(matching_weight=1.0, words_weight=1.0)))
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    team.train_each(alone, "svitt", *asked)
    torchrun(2, "train_each", together, "svitt", *asked)
    for number, objective in enumerate(svitt.OBJECTIVES):
        folders = alone / str(number), together / str(number)
        pd.testing.assert_frame_equal(*(pd.read_csv(folder / "history.csv") for folder in folders), rtol=1e-4)
        one, two = (svitt.load(folder, howto / "vocab.txt").model.state_dict() for folder in folders)
        for name, value in one.items():
            if name.startswith(("itm_head.", "vision_layernorm.")):
                assert torch.equal(two[name], value), "what no loss has touched does not decay either"
            if not name.endswith(".key.bias"):  # no gradient but rounding, of which Adam makes whole steps
                torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=f"{objective}: {name}")
    losses = [pd.read_csv(folder / "2/history.csv")["loss"] for folder in (alone, together)]
    np.testing.assert_allclose(*losses, rtol=0.1)
