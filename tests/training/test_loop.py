"""The shared loop: a resumed run equals one that never stopped, accumulation equals the mean of the gradients."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from thesis_lib.training import loop


class Killed(Exception):
    pass


def recipe(folder, *, num_epochs=6, die_in=None, scheduler="step", accumulate=2):
    """A noisy recipe that draws from all three global generators; raises in the middle of epoch `die_in`."""
    loop.seed_everything(3)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if scheduler == "step":
        schedule = loop.polynomial_decay(optimizer, num_steps=30, warmup=4)
    else:
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    memory = {"seen": 0}

    def batches(epoch):
        for index in range(5):
            if epoch == die_in and index == 3:
                raise Killed
            memory["seen"] += 1
            x = torch.randn(4, 5) + float(np.random.normal()) + random.random()
            yield x, x.sum(1, keepdim=True)

    history = loop.fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=schedule,
        batches=batches,
        loss=lambda batch: (model(batch[0]) - batch[1]).square().mean(),
        evaluate=lambda epoch: {"accuracy": epoch / 10, "training": model.training},
        num_epochs=num_epochs,
        accumulate=accumulate,
        clip_norm=1.0,
        memory=memory,
    )
    return history, model, memory


@pytest.mark.parametrize("scheduler", ["step", "plateau"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, scheduler):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    history, model, memory = recipe(tmp_path / "whole", scheduler=scheduler)
    for epoch in (3, 4):  # killed twice, the second time in the first epoch after the resume
        with pytest.raises(Killed):
            recipe(tmp_path / "killed", die_in=epoch, scheduler=scheduler)
        assert not (tmp_path / "killed" / "weights.pt").exists()
    resumed_history, resumed, resumed_memory = recipe(tmp_path / "killed", scheduler=scheduler)

    pd.testing.assert_frame_equal(history, resumed_history, check_exact=True)
    assert (tmp_path / "whole/history.csv").read_bytes() == (tmp_path / "killed/history.csv").read_bytes()
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert memory == resumed_memory == {"seen": 30}


def test_weights_are_those_of_the_model_and_a_finished_run_is_not_repeated(tmp_path, capsys):
    history, model, _ = recipe(tmp_path, num_epochs=2)
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    capsys.readouterr()
    again, _, memory = recipe(tmp_path, num_epochs=2, die_in=1)
    pd.testing.assert_frame_equal(again, history)
    assert memory["seen"] == 10
    assert "goes on after epoch 2/2" in capsys.readouterr().out


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
        batches=lambda epoch: batches,
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
    before, after, *_ = run_once(tmp_path, batches, accumulate=4, clip_norm=float(norm) / 2)
    for old, new, gradient in zip(before, after, gradients, strict=True):
        torch.testing.assert_close(new, old - 0.1 * gradient / 2, rtol=1e-5, atol=1e-9)


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
    cosine = [1 + np.cos(np.pi * step / 10) for step in range(10)] + [0.0, 0.0]
    expected = [value * min(1, (step + 1) / 4) for step, value in enumerate(cosine)]
    assert rates(loop.cosine_decay, num_steps=10, warmup=4) == pytest.approx(expected)


def test_evaluation_sees_eval_mode_every_so_often_and_at_the_end(tmp_path):
    model = nn.Linear(1, 1)
    seen = []
    history = loop.fit(
        tmp_path,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        batches=lambda epoch: [torch.ones(1, 1)],
        loss=lambda batch: model(batch).sum(),
        evaluate=lambda epoch: seen.append((epoch, model.training, torch.is_grad_enabled())) or {"accuracy": 0.5},
        evaluate_every=2,
        num_epochs=5,
    )
    assert seen == [(2, False, False), (4, False, False), (5, False, False)]
    assert history["accuracy"].notna().tolist() == [False, True, False, True, True]
    assert list(pd.read_csv(tmp_path / "history.csv")["epoch"]) == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = nn.Linear(1, 1)
    arguments = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "num_epochs": 1}
    with pytest.raises(FloatingPointError, match="loss of epoch 1 is nan"):
        loop.fit(tmp_path, batches=lambda e: [torch.ones(1, 1)], loss=lambda b: model(b).sum() * np.nan, **arguments)
    with pytest.raises(ValueError, match="no batches"):
        loop.fit(tmp_path, batches=lambda epoch: [], loss=lambda batch: model(batch).sum(), **arguments)
