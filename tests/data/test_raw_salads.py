"""Raw files of 50Salads to the layout of MS-TCN, held to the public files and to the embedded corpus."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thesis_lib import features, paths, stages
from thesis_lib.data import mini_corpus, raw_salads, salads, video
from thesis_lib.data.check import check

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "50salads"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/50salads")
SESSIONS = [(user, take) for users in raw_salads.TEST_USERS.values() for user in users[:1] for take in (1, 2)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Ten salads of the embedded corpus, published and raw, two of the videos damaged."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "videos").mkdir()
    for session, seeds in zip(SESSIONS, np.random.SeedSequence(5).spawn(len(SESSIONS)), strict=True):
        mini_corpus.write_salad(folder, session, seeds, nuisance=0.2, scale=0.03)
    mini_corpus.write_splits(folder, users_per_split=1)
    return folder


@pytest.fixture
def raw(corpus, tmp_path):
    """The raw files alone, lying as the archives of Dundee unpack: videos beside each other, text in folders."""
    root = tmp_path / "raw"
    shutil.copytree(corpus / "videos", root)
    shutil.copytree(corpus / "annotations", root / "ann-ts/activityAnnotations")
    shutil.copytree(corpus / "timestamps", root / "ann-ts/timestamps")
    return root


def texts(folder):
    files = sorted(folder.rglob("*.txt")) + sorted(folder.rglob("*.bundle"))
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def public(corpus):
    return {name: text for name, text in texts(corpus).items() if not name.startswith(("annotations", "timestamps"))}


def test_cut_by_eight_frames_the_files_are_those_published_beside_them(corpus, raw, tmp_path):
    assert raw_salads.is_raw(raw) and not raw_salads.is_raw(corpus)
    raw_salads.convert(tmp_path / "made", root=raw, drop_last=8)
    assert texts(tmp_path / "made") == public(corpus)


def test_labels_are_as_long_as_the_videos_and_videos_are_linked(corpus, raw, tmp_path):
    made = tmp_path / "made"
    raw_salads.convert(made, root=raw)
    for path in sorted((corpus / "groundTruth").glob("*.txt")):
        labels, link = salads.read_labels(made / "groundTruth" / path.name), made / f"videos/{path.stem}.avi"
        published = salads.read_labels(path)
        assert labels[: len(published)] == published and len(labels) - len(published) == 8
        assert link.is_symlink() and video.frame_count(link) == len(labels)
        np.save(tmp_path / f"{path.stem}.npy", np.ones((4, len(labels)), np.float32))
    first, second = salads.load_split(made, 3, "test", features=tmp_path)
    assert (first.name, second.name) == ("rgb-13-1", "rgb-13-2") and first.labels[0] == 17 and first.labels[-1] == 18


def test_a_second_conversion_into_the_same_folder_is_the_first(raw, tmp_path):
    """As after a kill."""
    for _ in range(2):
        raw_salads.convert(tmp_path / "made", root=raw)
    again = texts(tmp_path / "made")
    raw_salads.convert(tmp_path / "once", root=raw)
    assert again == texts(tmp_path / "once")


def test_files_in_linked_folders_are_found_and_circles_end(raw, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "ann-ts").symlink_to(raw / "ann-ts")
    (linked / "circle").symlink_to(linked)
    found = raw_salads.find(linked)
    assert (len(found.annotations), len(found.timestamps), len(found.videos)) == (10, 10, 0)
    assert sorted(found.annotations) == sorted("{:02d}-{}".format(*session) for session in SESSIONS)


def test_users_in_no_public_split_are_left_out_and_named(raw, tmp_path, capsys):
    """08 and 12 are annotated, but no split of the field has them."""
    text = raw / "ann-ts"
    shutil.copy(text / "activityAnnotations/01-1-activityAnnotation.txt", text / "08-1-activityAnnotation.txt")
    shutil.copy(raw / "rgb-01-1.avi", raw / "rgb-12-2.avi")
    raw_salads.convert(tmp_path / "made", root=raw)
    assert "10 sessions" in (said := capsys.readouterr().out) and said.endswith("left out: 08-1, 12-2\n")
    assert not list((tmp_path / "made").rglob("*08-1*")) and not list((tmp_path / "made").rglob("*12-2*"))


def test_more_time_stamps_than_frames_are_cut_at_the_end(raw, tmp_path):
    path = raw / "ann-ts/timestamps/timestamps-01-1.txt"
    path.write_text(path.read_text() + "99999999999 rgb/x.png\n" * 3)
    raw_salads.convert(tmp_path / "made", root=raw)
    labels = salads.read_labels(tmp_path / "made/groundTruth/rgb-01-1.txt")
    assert len(labels) == video.frame_count(raw / "rgb-01-1.avi")


def test_a_session_without_video_and_one_with_a_broken_video_keep_their_labels(corpus, raw, tmp_path):
    """Their features may come from elsewhere."""
    (raw / "rgb-01-1.avi").unlink()
    (raw / "rgb-01-2.avi").write_text("<html>")
    raw_salads.convert(tmp_path / "made", root=raw, drop_last=8)
    assert texts(tmp_path / "made") == public(corpus)
    assert not (tmp_path / "made/videos/rgb-01-1.avi").exists()


@pytest.mark.parametrize(
    "breakage, says",
    [
        (lambda text: (text / "timestamps/timestamps-06-1.txt").unlink(), "06-1: no timestamps-06-1.txt"),
        (
            lambda text: (text / "activityAnnotations/06-1-activityAnnotation.txt").write_text("1 2 fry_egg_core\n"),
            "06-1-activityAnnotation.txt: 'fry_egg' is none",
        ),
        (
            lambda text: (text / "activityAnnotations/06-1-activityAnnotation.txt").write_text("1 2 add_oil_core\n"),
            "no action within the time stamps",
        ),
        (lambda text: shutil.rmtree(text / "activityAnnotations"), "no XX-Y-activityAnnotation.txt"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(raw, tmp_path, breakage, says):
    breakage(raw / "ann-ts")
    with pytest.raises(ValueError, match=says) as error:
        raw_salads.convert(tmp_path / "made", root=raw)
    assert "\n" not in str(error.value)


def test_the_command(corpus, raw, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["raw_salads", str(raw), str(tmp_path / "made"), "--drop-last", "8"])
    raw_salads.main()
    assert texts(tmp_path / "made") == public(corpus)


def test_a_raw_folder_can_be_data_root(corpus, raw, tmp_path, monkeypatch, capsys):
    """The stage makes it once; a published folder stays what it is."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    found = SimpleNamespace(profile="smoke", data_root=str(raw))
    made = stages.salads(found)
    assert made.is_relative_to(tmp_path / "runs/smoke/raw_salads.convert") and "done" in capsys.readouterr().out
    assert stages.salads(found) == made and "starts" not in capsys.readouterr().out
    assert [path.name for path in features.videos_of(made)] == sorted(path.name for path in raw.glob("*.avi"))
    assert check(made).usable
    assert stages.salads(SimpleNamespace(profile="smoke", data_root=str(corpus))) == corpus


@real
def test_bundles_and_mapping_are_the_public_ones():
    names = [path.stem for path in (SHARED / "groundTruth").glob("*.txt")]
    made = raw_salads.bundles([*names, "rgb-08-1", "rgb-12-2"])
    assert sorted(made) == sorted(path.name for path in (SHARED / "splits").glob("*.bundle"))
    for name, listed in made.items():
        assert sorted(listed) == sorted(salads.read_bundle(SHARED / "splits" / name))
    assert raw_salads.CLASSES == tuple(salads.class_names(SHARED)) == tuple(mini_corpus.CLASSES)
