"""Folders of predictions: both formats, resampling, and one clear line for every mistake."""

import json

import pytest

from thesis_lib import cli, evaluate, metrics

A = ["cut"] * 30 + ["peel"] * 45 + ["mix"] * 15
B = ["cut"] * 20 + ["peel"] * 40 + ["cut"] * 30
FOLDERS = ("results", "groundTruth")


@pytest.fixture
def folders(tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in FOLDERS]


def lines(path, labels):
    path.write_text("\n".join(labels) + "\n")


def official(path, labels):
    path.write_text(evaluate.HEADER + "\n" + " ".join(labels))


def test_both_formats_give_the_same_numbers(folders):
    predictions, truth = folders
    lines(truth / "rgb-01-1.txt", A)
    lines(truth / "rgb-01-2.txt", B)
    lines(predictions / "rgb-01-1.txt", B)
    official(predictions / "rgb-01-2", B + ["cut"])  # one longer, as ASFormer writes at half the frame rate
    (predictions / "curve.png").write_bytes(b"\x89PNG")
    (predictions / ".DS_Store").write_bytes(b"\x00")
    record = evaluate.folders(*folders)
    assert record["metrics"] == metrics.evaluate([B, B], [A, B])
    assert record["per_video"]["rgb-01-2"]["accuracy"] == 1
    assert record["constant_class_accuracy"] == pytest.approx(85 / 180)
    assert record["without_prediction"] == []


def test_no_label_is_lost_at_the_end_of_a_file(folders):
    file = folders[0] / "video.txt"
    file.write_text("cut\npeel")  # no newline at the end: the official reader drops the last label
    assert evaluate.read_labels(file) == ["cut", "peel"]
    file.write_bytes(b"cut\r\npeel\r\n\r\n")
    assert evaluate.read_labels(file) == ["cut", "peel"]


def test_table_and_json(folders, tmp_path, capsys):
    predictions, truth = folders
    lines(predictions / "a.txt", B)
    for name in ("a", "b", "c"):
        lines(truth / f"{name}.txt", A)
    record = evaluate.main_table(predictions, truth, json_path=tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads(json.dumps(record))
    printed = capsys.readouterr().out
    assert f"{record['metrics']['accuracy']:.4f}" in printed and "all 1" in printed
    assert "not scored, no prediction: 2 of 3 videos (b ...)" in printed


def test_another_frame_rate(folders):
    predictions, truth = folders
    lines(predictions / "a.txt", B)
    lines(truth / "a.txt", A)
    record = evaluate.folders(*folders, fps_out=1)
    expected = metrics.evaluate([["cut", "peel", "cut"]], [["cut", "peel", "mix"]])
    assert record["metrics"] == expected and record["fps"] == 1
    finer = evaluate.folders(*folders, fps_out=60)["metrics"]
    same = evaluate.folders(*folders)["metrics"]
    assert finer.pop("frame_levenshtein") == 2 * same.pop("frame_levenshtein")
    assert finer == pytest.approx(same)
    with pytest.raises(ValueError, match="must be positive"):
        evaluate.folders(*folders, fps_out=0)


def test_a_bundle_chooses_the_videos(folders, tmp_path):
    predictions, truth = folders
    for name in ("a", "b"):
        lines(predictions / f"{name}.txt", B)
        lines(truth / f"{name}.txt", A)
    bundle = tmp_path / "test.split1.bundle"
    bundle.write_text("#bundle.txt\na.txt\n")
    assert list(evaluate.folders(*folders, bundle=bundle)["per_video"]) == ["a"]
    bundle.write_text("\n")
    with pytest.raises(ValueError, match="lists no video"):
        evaluate.folders(*folders, bundle=bundle)
    bundle.write_text("a.txt\nc.txt")
    lines(truth / "c.txt", A)
    with pytest.raises(ValueError, match="no prediction of c in .*results, though .*bundle lists it"):
        evaluate.folders(*folders, bundle=bundle)


def test_options_reach_the_metrics(folders):
    predictions, truth = folders
    lines(predictions / "a.txt", ["bg", "cut", "peel"])
    lines(truth / "a.txt", ["bg", "cut", "peel"])
    plain = evaluate.folders(*folders, segment_end="asformer")["metrics"]
    assert plain["f1@50"] == metrics.evaluate([["bg", "cut", "peel"]], [["bg", "cut", "peel"]], "asformer")["f1@50"] < 1
    assert evaluate.folders(*folders, background=["bg"])["metrics"]["f1@50"] == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("cut\n12 13 14\n", r"line 2: '12 13 14' is not one label"),
        ("### Segment level: ###\ncut cut", "line 1"),
        (evaluate.HEADER, "0 lines after"),
        (evaluate.HEADER + "\ncut\npeel", "2 lines after"),
        ("cut\n\npeel", "line 2"),
    ],
)
def test_unknown_formats(folders, text, message):
    file = folders[0] / "a.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        evaluate.read_labels(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_not_text(folders):
    (folders[0] / "a").write_bytes(b"\x93NUMPY\x01\x00\xff\xfe")
    with pytest.raises(ValueError, match="not a text file"):
        evaluate.read_labels(folders[0] / "a")


def test_mistakes_name_the_file(folders, tmp_path):
    predictions, truth = folders
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        evaluate.folders(tmp_path / "nowhere", truth)
    with pytest.raises(FileNotFoundError, match="results holds no"):
        evaluate.folders(predictions, truth)
    lines(predictions / "a.txt", A[:-1])
    lines(truth / "b.txt", A)
    with pytest.raises(ValueError, match="no ground truth for .*a.txt: .*groundTruth has no a.txt"):
        evaluate.folders(predictions, truth)
    lines(truth / "a.txt", A)
    with pytest.raises(ValueError, match="a.txt: 89 frames, but .*a.txt has 90"):
        evaluate.folders(predictions, truth)
    lines(predictions / "a.txt", ["0"] * 90)
    with pytest.raises(ValueError, match="no label in common: '0' is predicted, 'cut' is true"):
        evaluate.folders(predictions, truth)
    lines(predictions / "a", A)
    with pytest.raises(ValueError, match="both about a; keep one"):
        evaluate.folders(predictions, truth)


def test_the_command_hands_over_every_option(folders, tmp_path, capsys):
    predictions, truth = folders
    for name, labels in {"a": A, "b": B}.items():
        lines(predictions / f"{name}.txt", labels[5:] + ["mix"] * 5)
        lines(truth / f"{name}.txt", labels)
    (tmp_path / "some.bundle").write_text("a.txt\n")
    options = ["--bundle", str(tmp_path / "some.bundle"), "--segment-end", "asformer", "--background", "mix"]
    options += ["--fps", "15", "--fps-out", "5", "--json", str(tmp_path / "out.json")]
    assert cli.main(["evaluate", "--predictions", str(predictions), "--ground-truth", str(truth), *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    arguments = dict(bundle=tmp_path / "some.bundle", segment_end="asformer", background=["mix"], fps=15, fps_out=5)
    assert found == json.loads(json.dumps(evaluate.folders(predictions, truth, **arguments)))
    assert list(found["per_video"]) == ["a"] and found["metrics"] != evaluate.folders(predictions, truth)["metrics"]
