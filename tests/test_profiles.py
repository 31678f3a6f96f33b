"""The profiles in params/: every file belongs to a notebook, and the one for real data names what it misses."""

import inspect

import numpy as np
import pytest
import torch

from thesis_lib import graph, params, paths
from thesis_lib.seconds import clip_indices
from thesis_lib.training import clip_tuning
from thesis_lib.training.films import Film, around

REAL = "50salads"
FILES = {  # what README.md tells to put under data/
    "folders": ["data/50salads", "data/howto100m/s3d"],
    "files": ["I3D_8x8_R50.pyth", "s3d_howto100m.pth", "videoclip/checkpoint_best.pt", "bert-base-uncased/vocab.txt"],
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A project folder without data."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def put_data(root):
    for folder in FILES["folders"]:
        (root / folder).mkdir(parents=True)
    for name in FILES["files"]:
        file = root / "data" / "weights" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize("profile", params.profiles())
def test_every_file_of_a_profile_belongs_to_a_notebook(profile):
    names = {path.stem for path in (paths.PARAMS / profile).glob("*.yaml")}
    assert names <= {"common", *params.notebooks()}


def test_the_profile_as_published_is_the_corrected_one_but_for_what_the_thesis_did():
    different = {}
    for name in params.notebooks():
        corrected, published = (params.layered(name, profile)[0] for profile in (REAL, f"{REAL}-as-published"))
        assert corrected.keys() == published.keys()
        found = {key: value for key, value in published.items() if value != corrected[key] and key != "profile"}
        different |= {name[:2]: found} if found else {}
    rule = {"seconds_rule": "as_published"}
    assert different == {
        "02": {"color": "bgr", "head": "window", "last_frame": "unseen"},
        "04": rule | {"compared": []},
        "06": rule | {"prompts": "raw"},
        "07": rule
        | {"prompts": "raw", "heads_tuned": ["classifier"], "epoch_choice": "test_loss"}
        | {"compared": [], "smoothing_seconds": []},
        "A2": {"entity_rule": "released"},
        "A3": {"fusion_keep_rate": 1.0},
    }


@pytest.mark.parametrize("on_demand", [True, False])
def test_clips_of_videomae_hold_every_fourth_frame(on_demand):
    """As published for Kinetics; the salads, and most videos of HowTo100M, have 30 frames a second."""
    asked = params.layered("A1_videomae", REAL)[0]
    frames, lasts = asked["frames"], asked["seconds"]
    assert (np.diff(clip_indices(9000, 30.0, frames, lasts), axis=1) == 4).all()
    rate = frames / lasts if on_demand else 30.0
    film = Film(9000, rate, lambda start, count: torch.arange(start, start + count))
    seen = around(film, 20.0, frames, lasts).numpy() * 30 / rate
    assert np.diff(seen) == pytest.approx(4, abs=0.01) and len(seen) == 16 and abs(seen.mean() - 600) < 4


@pytest.mark.parametrize("name", params.notebooks())
def test_missing_real_data_is_one_line_that_names_it(name, elsewhere):
    with pytest.raises(ValueError) as error:
        params.load(name, REAL)
    assert str(error.value) == "params/50salads/common.yaml: data_root: 'data/50salads': expected an existing folder"


@pytest.mark.parametrize("profile", [REAL, f"{REAL}-as-published"])
def test_with_the_data_in_place_the_whole_graph_stands(elsewhere, profile):
    put_data(elsewhere)
    for name in params.notebooks():
        assert params.load(name, profile).data_root == str(elsewhere / "data/50salads")
    jobs = graph.jobs(profile)
    assert {f"baseline_split{split}" for split in range(1, 6)} <= set(jobs)
    readme = (paths.PARAMS.parent / "README.md").read_text("utf-8")
    for name in [*FILES["files"], *FILES["folders"]]:
        assert name.rpartition("/")[2] in readme, f"README.md does not say where {name} goes"


def test_a_missing_weight_is_named_too(elsewhere):
    put_data(elsewhere)
    (elsewhere / "data/weights/videoclip/checkpoint_best.pt").unlink()
    expected = (
        "05_pretraining.yaml: reference_path: 'data/weights/videoclip/checkpoint_best.pt': expected an existing file"
    )
    with pytest.raises(ValueError, match=expected):
        params.load("05_pretraining", REAL)


def test_the_recipes_of_the_real_profile_are_the_published_ones():
    values = {name: params.layered(name, REAL)[0] for name in params.notebooks()}
    asformer = {"num_epochs": 120, "lr": 5e-4, "sample_rate": 2, "num_layers": 10, "num_decoders": 3, "num_f_maps": 64}
    for name in ("03_cropping_experiment", "04_baseline"):
        assert asformer.items() <= values[name].items()
        assert values[name]["num_epochs"] % values[name]["evaluate_every"] == 0, "the last epoch is the one that counts"
    assert {"lr": 5e-5, "warmup": 122, "epochs": [8, 15], "stride_train": 8}.items() <= values["07_fine_tuning"].items()
    assert {"window": 21, "i3d_size": 256, "s3d_normalise": True}.items() <= values["02_feature_extraction"].items()
    videoclip = {"width": 768, "video_layers": 6, "text_layers": 12, "clusters_per_step": 8, "videos_per_cluster": 32}
    assert videoclip.items() <= values["05_pretraining"].items()
    videomae = {"crop_scales": [1.0, 0.875, 0.75, 0.66], "flip": False, "ratio": 0.9, "tuned_layer_decay": 0.75}
    videomae |= {"tuned_stochastic_depth": 0.1, "tuned_label_smoothing": 0.1, "tuned_mixup": 0.8, "tuned_cutmix": 1.0}
    videomae |= {"tuned_augment": True, "tuned_fc_norm": True}
    found = values["A1_videomae"]
    assert videomae.items() <= found.items()
    assert found["lr"] == pytest.approx(1.5e-4 * found["batch_size"] * found["accumulate"] / 256)
    assert found["tuned_lr"] == pytest.approx(
        1e-3 * inspect.signature(clip_tuning.train).parameters["batch_size"].default / 256
    )


@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_small_profiles_tune_all_systems_by_one_recipe(profile):
    tuned = [
        {name: value for name, value in params.layered(notebook, profile)[0].items() if name.startswith("tuned_")}
        for notebook in ("A1_videomae", "A2_alpro", "A3_svitt")
    ]
    assert tuned[0].pop("tuned_stochastic_depth") == 0.0
    assert tuned[0] == tuned[1] == tuned[2]


def test_pretraining_alone_is_a_graph_of_its_own(elsewhere):
    """params/howto100m: no stage of 50Salads, memory and hours for eight processes."""
    for folder in ("data/howto100m/s3d", "data/weights/bert-base-uncased"):
        (elsewhere / folder).mkdir(parents=True)
    (elsewhere / "data/weights/bert-base-uncased/vocab.txt").touch()
    jobs = graph.jobs("howto100m")
    assert set(jobs) == {"s3d_howto", "pretraining_reference", "pretraining_own"}
    job = jobs["pretraining_reference"]
    assert job["processes"] == 8 and job["needs"] == ["s3d_howto"] and not jobs["s3d_howto"]["needs"]
    assert job["resources"]["mem_mb"] >= 8 * 8000 and job["resources"]["runtime"] >= 3 * 24 * 60
