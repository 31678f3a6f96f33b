"""The shared loop: a resumed run equals one that never stopped, and many processes are one that adds up."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tests.training import toy
from thesis_lib.training import loop

ROOT = Path(__file__).parents[2]


def run_toy(folder, *options, processes=1):
    """tests/training/toy.py in processes of its own, through torchrun if there are several."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.training.toy", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process):
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    return output


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def assert_same(folder, other):
    """Bit for bit."""
    assert (folder / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    toy.train(folder)
    return folder


@pytest.mark.parametrize("save_every", [0.0, 1e9])  # checkpoints after every step, or after epochs alone
def test_a_run_killed_at_any_step_goes_on_bit_for_bit(whole, tmp_path, save_every):
    for micro_batch in range(28):
        folder = tmp_path / str(micro_batch)
        folder.mkdir()
        for die_at in (micro_batch, 1):  # the second time soon after it went on
            try:
                toy.train(folder, die_at=die_at, save_every=save_every)
            except toy.Killed:
                assert not (folder / "weights.pt").exists()
        toy.train(folder, save_every=save_every)
        assert_same(folder, whole)


def test_short_epochs_share_a_checkpoint(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "_save", lambda folder, *state: saved.append(len(state[4])))
    toy.train(tmp_path)
    assert saved == [1, 2, 3, 4]
    monkeypatch.setattr(loop, "SPARED", 30.0)
    toy.train(tmp_path)
    assert saved[4:] == [4], "after the last of the four epochs alone"


def test_a_plateau_schedule_survives_too(tmp_path):
    toy.train(tmp_path, scheduler="plateau")
    for folder in (resumed := tmp_path / "resumed",):
        folder.mkdir()
        with pytest.raises(toy.Killed):
            toy.train(folder, scheduler="plateau", die_at=13, save_every=0.0)
        toy.train(folder, scheduler="plateau")
    assert_same(resumed, tmp_path)


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.55])
def test_kill_minus_nine(whole, tmp_path, delay):
    """From outside, at whatever the process is doing; half of its time it writes checkpoints."""
    for _ in range(2):
        process = run_toy(tmp_path, "--save-every", "0", "--sleep", "0.02")
        while not list(tmp_path.glob("checkpoint-*.pt")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "weights.pt").exists(), "it ended before the kill: nothing was tested"
    assert "goes on after epoch" in finished(run_toy(tmp_path))
    assert_same(tmp_path, whole)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(whole, tmp_path):
    with pytest.raises(toy.Killed):
        toy.train(tmp_path, die_at=11, save_every=0.0)
    newest, older = sorted(tmp_path.glob("checkpoint-*.pt"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-200])
    (tmp_path / "checkpoint-000000099.pt.tmp").write_bytes(b"half")  # what a kill while saving leaves
    with pytest.warns(UserWarning, match=f"{newest.name}: damaged"):
        toy.train(tmp_path)
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob("*.tmp"))
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 2


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before_whole(whole, tmp_path, monkeypatch):
    real, calls = torch.save, iter(range(100))

    def full(state, file):
        if next(calls) == 2:
            file.write(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="the disk is full; of the checkpoints before, checkpoint-000000002.pt is whole"):
        toy.train(tmp_path, save_every=0.0)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.tmp"))
    toy.train(tmp_path)
    assert_same(tmp_path, whole)


def test_a_finished_run_is_not_repeated(whole, capsys):
    history = toy.train(whole, die_at=0)
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert "goes on after epoch 4/4" in capsys.readouterr().out


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_share_a_group_do_the_step_of_one(whole, tmp_path, processes):
    """Groups of 3 and of 1, so that some processes have nothing to do; dropout on; gradients clipped."""
    finished(run_toy(tmp_path, processes=processes))
    ours, theirs = pd.read_csv(tmp_path / "history.csv"), pd.read_csv(whole / "history.csv")
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
    assert ours["gradient_norm"].min() > 0.05  # so clipping at 0.05 did something
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(whole, tmp_path, before, after):
    process = run_toy(tmp_path, "--save-every", "0", "--die-at", "11", processes=before)
    assert process.communicate(timeout=120) and process.returncode
    assert "goes on" in finished(run_toy(tmp_path, processes=after))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_workers_load_the_same_batches(whole, tmp_path):
    toy.train(tmp_path, workers=2)
    assert_same(tmp_path, whole)


def test_workers_see_what_each_epoch_plans():
    """Items travel to workers that live on; what the dataset holds itself stays as it was when they began."""
    held = {"plan": [1, 2]}
    order, dataset = loop._Order(), loop.Loading(lambda item: (item, list(held["plan"])))
    loader = torch.utils.data.DataLoader(
        dataset, sampler=order, batch_size=None, num_workers=2, persistent_workers=True
    )
    for plan in ([1, 2], [3, 4]):
        order.items = held["plan"] = plan
        loaded = list(loader)
        assert [item for item, _ in loaded] == plan
        assert all(kept == [1, 2] for _, kept in loaded)


def run_once(folder, batches, *, accumulate, clip_norm=None, lr=0.1):
    """One epoch of plain gradient descent on a fixed linear model; returns its parameters before and after."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    schedule = loop.polynomial_decay(optimizer, num_steps=100)
    history = loop.fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=schedule,
        batches=lambda epoch: range(len(batches)),
        load=batches.__getitem__,
        loss=lambda batch: model(batch).square().mean(),
        num_epochs=1,
        accumulate=accumulate,
        clip_norm=clip_norm,
    )
    return before, [parameter.detach() for parameter in model.parameters()], schedule, history


def mean_gradient(batches):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for batch in batches:
        gradients = torch.autograd.grad(model(batch).square().mean(), model.parameters())
        total = [one + other for one, other in zip(total, gradients, strict=True)]
    return [gradient / len(batches) for gradient in total]


def unequal_batches(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2 + index, 3, generator=generator, dtype=torch.double) for index in range(count)]


@pytest.mark.parametrize("accumulate", [3, 8])  # 8: a group shorter than asked for is divided by its real count
def test_accumulation_is_the_mean_gradient_whatever_the_size_of_a_batch(tmp_path, accumulate):
    batches = unequal_batches(3)
    before, after, *_ = run_once(tmp_path, batches, accumulate=accumulate)
    for old, new, gradient in zip(before, after, mean_gradient(batches), strict=True):
        torch.testing.assert_close(new, old - 0.1 * gradient, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_clipped_once_a_group_after_the_mean(tmp_path):
    batches = unequal_batches(4)
    gradients = mean_gradient(batches)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    before, after, _, history = run_once(tmp_path, batches, accumulate=4, clip_norm=float(norm) / 2)
    for old, new, gradient in zip(before, after, gradients, strict=True):
        torch.testing.assert_close(new, old - 0.1 * gradient / 2, rtol=1e-5, atol=1e-9)
    assert history["gradient_norm"].tolist() == pytest.approx([float(norm)])


def test_the_schedule_counts_optimizer_steps(tmp_path):
    *_, schedule, history = run_once(tmp_path, unequal_batches(7), accumulate=3)
    assert schedule.last_epoch == 3
    assert history["lr"].tolist() == pytest.approx([0.097])


def rates(schedule_of, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = schedule_of(optimizer, **arguments)
    found = []
    for _ in range(12):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_polynomial_decay():
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 2 * 5 / 6, 2 * 4 / 6, 1.0, 2 * 2 / 6, 2 / 6, 0.0, 0.0]
    assert rates(loop.polynomial_decay, num_steps=10, warmup=4) == pytest.approx(expected)


def test_cosine_decay():
    falls = [1 + np.cos(np.pi * step / 6) for step in range(6)] + [0.0, 0.0]
    assert rates(loop.cosine_decay, num_steps=10, warmup=4) == pytest.approx([0.5, 1.0, 1.5, 2.0, *falls])


def test_cosine_decay_ends_where_it_is_told_to():
    """Without warm-up it is torch's own, up to its end."""

    def torchs(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=11, eta_min=0.02)

    found = rates(loop.cosine_decay, num_steps=11, last_lr=0.02)
    assert found == pytest.approx(rates(torchs)) and found[-1] == pytest.approx(0.02)


def test_random_batches_are_numbered_in_epochs_of_25_steps():
    assert loop.num_epochs_of(60) == 3
    assert [item for epoch in (1, 2, 3) for item in loop.numbered(epoch, 60)] == [
        (1 + step // 25, step % 25) for step in range(60)
    ]


def one_step(folder, loss, **arguments):
    model = nn.Linear(1, 1)
    arguments = {"num_epochs": 1, "batches": lambda epoch: [0]} | arguments
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    load = lambda item: torch.ones(1, 1)  # noqa: E731
    return loop.fit(folder, model=model, optimizer=optimizer, load=load, loss=lambda b: loss(model(b)), **arguments)


def test_evaluation_sees_eval_mode_every_so_often_and_at_the_end(tmp_path):
    seen, modes = [], []

    def evaluate(epoch):
        seen.append((epoch, torch.is_grad_enabled()))
        return {"accuracy": 0.5}

    history = one_step(
        tmp_path,
        lambda out: modes.append(out.requires_grad) or out.sum(),
        evaluate=evaluate,
        evaluate_every=2,
        num_epochs=5,
    )
    assert seen == [(2, False), (4, False), (5, False)] and modes == [True] * 5
    assert history["accuracy"].notna().tolist() == [False, True, False, True, True]
    assert list(pd.read_csv(tmp_path / "history.csv")["epoch"]) == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="loss of epoch 1 is nan"):
        one_step(tmp_path, lambda out: out.sum() * np.nan)
    with pytest.raises(FloatingPointError, match="loss of epoch 1 is nan"):  # nor is it kept in a checkpoint
        one_step(tmp_path, lambda out: out.sum() * np.nan, batches=lambda epoch: [0] * 3, save_every=0.0)
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(ValueError, match="no batches"):
        one_step(tmp_path, lambda out: out.sum(), batches=lambda epoch: [])


def descend(folder, losses, **changed):
    """One epoch a loss that evaluate() gives; the only weight counts the epochs."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    given = dict(zip(range(1, len(losses) + 1), losses, strict=True))
    arguments = dict(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        batches=lambda epoch: [0],
        load=lambda item: torch.ones(1, 1),
        loss=lambda x: -model(x).sum(),
        evaluate=lambda epoch: {"test_loss": given[epoch]},
        num_epochs=len(losses),
    )
    loop.fit(folder, **arguments | changed)
    return weights(folder)["weight"].item()


def test_the_weights_are_those_of_the_chosen_epoch(tmp_path):
    losses = [0.9, 0.4, 0.6, 0.4, 0.8]
    for column, expected in (("", 5), ("test_loss", 2)):
        folder = tmp_path / f"all {column}"
        folder.mkdir()
        assert descend(folder, losses, choose=column) == expected
    (tmp_path / "second").mkdir()
    assert descend(tmp_path / "second", losses, choose="test_loss", evaluate_every=3) == 3


def test_a_run_that_goes_on_still_knows_its_best_epoch(tmp_path):
    descend(tmp_path, [0.9, 0.4, 0.6], choose="test_loss")
    assert descend(tmp_path, [0.9, 0.4, 0.6, 0.5], choose="test_loss") == 2
    assert descend(tmp_path, [0.9, 0.4, 0.6, 0.5, 0.3], choose="test_loss") == 5


def test_an_epoch_cannot_be_chosen_by_a_loss_that_is_none(tmp_path):
    with pytest.raises(FloatingPointError, match="the test_loss of epoch 2 is nan"):
        descend(tmp_path, [0.9, float("nan")], choose="test_loss")


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="precision='fp16': choose one of fp32, bf16"):
        descend(tmp_path, [1.0], precision="fp16")
