"""The embedded corpora have the layouts, flaws and statistics that they promise, and the same pixels each time."""

import hashlib
import json

import numpy as np
import pytest

from thesis_lib.data import howto100m, mini_corpus, salads, video
from thesis_lib.data.raw_salads import TEST_USERS

SMALL = dict(users_per_split=2, narrated=6, clips=26, nuisance=0.35, scale=0.1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    mini_corpus.draw(folder, seed=3, **SMALL)
    return folder


def fingerprints(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_files_other_seed_other_pixels(corpus, tmp_path):
    mini_corpus.draw(tmp_path / "again", seed=3, **SMALL)
    assert fingerprints(tmp_path / "again") == fingerprints(corpus)
    mini_corpus.draw(tmp_path / "other", seed=4, **SMALL)
    name = "50salads/videos/rgb-01-1.avi"
    assert fingerprints(tmp_path / "other")[name] != fingerprints(corpus)[name]


def test_labels_are_eight_frames_shorter_than_every_video(corpus):
    videos = sorted((corpus / "50salads/videos").glob("*.avi"))
    assert len(videos) == 20
    for path in videos:
        labels = salads.read_labels(corpus / f"50salads/groundTruth/{path.stem}.txt")
        assert video.frame_count(path) - len(labels) == mini_corpus.SURPLUS


def test_two_files_are_damaged_and_can_be_read_around_the_damage(corpus):
    damaged = {path.stem for path in (corpus / "50salads/videos").glob("*.avi") if video.probe(path).missing}
    assert damaged == set(mini_corpus.DAMAGED)
    for name in damaged:
        info = video.probe(corpus / f"50salads/videos/{name}.avi")
        assert 0 < len(info.missing) < 0.2 * info.count
        assert info.missing[-1] < info.count - 1, "good frames follow the damage"


def test_raw_annotations_give_back_the_labels(corpus):
    for path in (corpus / "50salads/groundTruth").glob("*.txt"):
        name = path.stem.removeprefix("rgb-")
        labels = salads.frame_labels(
            corpus / f"50salads/annotations/{name}-activityAnnotation.txt",
            corpus / f"50salads/timestamps/timestamps-{name}.txt",
        )
        assert labels[: -mini_corpus.SURPLUS] == salads.read_labels(path)


def test_splits_cover_all_videos_and_no_actor_is_on_both_sides(corpus):
    root, tested = corpus / "50salads", []
    for split in TEST_USERS:
        train, test = (salads.read_bundle(root / f"splits/{part}.split{split}.bundle") for part in ("train", "test"))
        assert not salads.actors(train) & salads.actors(test)
        assert len(train) + len(test) == 20
        tested += test
    assert len(set(tested)) == len(tested) == 20


def test_captions_lie_near_what_they_name_but_not_on_it(corpus):
    captions = howto100m.read_captions(corpus / "howto100m/raw_caption.json")
    actions = json.loads((corpus / "howto100m/actions.json").read_text())
    found = howto100m.audit(captions, actions)
    assert found["lags"]["lag_s"].abs().median() < 5
    assert found["lags"]["lag_s"].std() > 0.5
    assert 0.1 < found["chatter"]["share"].mean() < 0.6


def test_mini_kinetics_shows_nothing_of_the_19_classes(corpus):
    shown = {line.split(",")[1] for line in (corpus / "kinetics/labels.csv").read_text().split("\n")[1:] if line}
    wanted = {" ".join(motion[:2]) for motion in mini_corpus.CLASSES.values()}
    assert len(shown) == len(mini_corpus.OTHER) and not shown & wanted


def test_scripts_follow_the_statistics_of_the_real_labels():
    """Counted in the 50 real label files: 15 to 26 segments, 19.98 on average, half begin with the dressing."""
    rng = np.random.default_rng(0)
    scripts = [mini_corpus.salad_script(rng) for _ in range(2000)]
    lengths = np.array([len(script) for script in scripts])
    assert abs(lengths.mean() - 19.98) < 1.0
    assert lengths.min() >= 13 and lengths.max() <= 27
    assert all(script[0] == "action_start" and script[-1] == "action_end" for script in scripts)
    assert 0.45 < np.mean([script[1].startswith("add") for script in scripts]) < 0.55
    seconds = [mini_corpus.duration(rng, "cut_tomato", 1.0) / mini_corpus.FPS for _ in range(4000)]
    assert abs(np.mean(seconds) - 34.7) < 2.0
