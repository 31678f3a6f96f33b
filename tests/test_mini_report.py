"""What the report of the profile mini must reach, as a mean over five splits at the final epoch. Computes nothing."""

import pytest

from thesis_lib import params, paths, protocol, results

NEEDED = ("04_baseline", "06_zero_shot", "07_fine_tuning")
absent = [name for name in NEEDED if not (paths.report("mini") / f"results/{name}.json").exists()]
if absent:
    pytest.skip(f"the mini report has no results of {', '.join(absent)}: run `make report`", allow_module_level=True)


@pytest.fixture(scope="module")
def rows():
    return results.load("mini")


@pytest.fixture(scope="module")
def accuracy(rows):
    """A function (notebook, method, protocol, **more columns) -> accuracy on each of the five splits."""

    def of(notebook, method, grid, **more):
        chosen = {"notebook": notebook, "method": method, "protocol": grid, "metric": "accuracy"} | more
        found = rows
        for column, value in chosen.items():
            found = found[found[column] == value]
        values = found.set_index("split")["value"]
        assert sorted(values.index) == [1, 2, 3, 4, 5], f"{method} on '{grid}': splits {sorted(values.index)}"
        return values

    return of


def test_the_baseline_learns(accuracy):
    last = params.load("04_baseline", "mini").num_epochs
    found = accuracy("04_baseline", "ASFormer, own features", protocol.FRAMES, epoch=last)
    assert found.mean() >= 0.75


@pytest.mark.parametrize("grid", [protocol.FRAMES, protocol.SECONDS])
def test_zero_shot_knows_three_times_what_the_constant_class_does(accuracy, grid):
    found = accuracy("06_zero_shot", "VideoCLIP zero-shot, public weights", grid)
    assert found.mean() >= 3 * accuracy("06_zero_shot", "constant class", grid).mean()


def test_permuted_captions_teach_nothing(rows, accuracy):
    """Each split tests each seed, so the mean over all rows is the mean of seeds."""
    p = params.load("06_zero_shot", "mini")
    control = rows[rows["method"] == "VideoCLIP zero-shot, small scale, permuted captions"]
    assert set(control["seed"]) == set(p.control_seeds) and len(control) == 5 * len(p.control_seeds) >= 15
    assert control["value"].mean() <= accuracy("06_zero_shot", "constant class", protocol.SECONDS).mean()
    true = accuracy("06_zero_shot", "VideoCLIP zero-shot, small scale, true captions", protocol.SECONDS)
    assert true.mean() > control["value"].mean(), "at the same scale, or the control proves nothing"


def test_fine_tuning_comes_near_the_baseline(accuracy):
    p = params.load("07_fine_tuning", "mini")
    last = max(p.epochs)
    method = "VideoCLIP 15 epochs, public weights"
    tuned = accuracy("07_fine_tuning", method, protocol.SECONDS, epoch=last, head="classifier", weights="reference")
    baseline = accuracy("04_baseline", "ASFormer, own features", protocol.SECONDS)
    assert last == 15 and tuned.mean() >= 0.80 * baseline.mean()


def test_the_embedded_corpus_is_not_solved(rows):
    """Where everything is perfect nothing can be compared: no method is, on any split."""
    found = rows[rows["notebook"].isin(NEEDED) & (rows["metric"] == "accuracy")]
    assert found["value"].between(0, 1).all() and (found["value"] < 1).all()
