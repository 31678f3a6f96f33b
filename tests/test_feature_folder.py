"""A folder of features: filled once, by one process or several, killed or not, and what is said of it."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.test_extraction import Probe, pictures
from thesis_lib import extraction, feature_folder
from thesis_lib.data.video import write_video

FORK, SPAWN = (multiprocessing.get_context(how) for how in ("fork", "spawn"))


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    paths = [tmp_path / f"videos/{name}.avi" for name in "abcdef"]
    for seed, path in enumerate(paths):
        write_video(path, pictures(20 + seed, seed=seed), fps=8)
    return paths


def extractor(path, checkpoint):
    return extraction.i3d_features(Probe(), path, window=3, batch=4, checkpoint=checkpoint)


def filled(folder, videos, **more):
    lines = []
    feature_folder.extract_folder(folder, extractor=extractor, videos=videos, log=lines.append, **more)
    return lines


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_folder_is_filled_once_and_resumed(tmp_path, videos):
    broken, folder, calls, lines = tmp_path / "z.avi", tmp_path / "features", [], []
    broken.write_text("no video")

    def counting(path, checkpoint):
        calls.append(path.stem)
        return extractor(path, checkpoint)

    given = dict(extractor=counting, videos=[broken, *videos[:2]], log=lines.append)
    with pytest.raises(ValueError, match=r"1 of 3 videos cannot be read: z\.avi"):
        feature_folder.extract_folder(folder, **given)
    assert files(folder) == ["a.npy", "b.npy"] and np.load(folder / "b.npy").shape == (5, 21)
    (folder / "b.npy").unlink()
    calls.clear()
    assert feature_folder.extract_folder(folder, skip_unreadable=True, **given) == [broken]
    assert calls == ["z", "b"] and any("left out, " in line for line in lines)


def test_a_folder_of_nothing_is_an_error(tmp_path, videos):
    """A setting that no video can be read with must not end as an empty folder."""

    def refusing(path, checkpoint):
        checkpoint.offer(4, lambda: {})
        raise ValueError("needs 8 frames")

    given = dict(extractor=refusing, videos=videos, skip_unreadable=True, save_every=0, log=lambda line: None)
    with pytest.raises(ValueError, match=r"6 of 6 videos cannot be read: a\.avi, .*\(needs 8 frames\)"):
        feature_folder.extract_folder(tmp_path / "features", **given)
    assert files(tmp_path / "features") == []


def test_a_line_a_video_with_pace_and_time_left(tmp_path, videos):
    lines = filled(tmp_path / "features", videos)
    assert len(lines) == 6 and lines[0].startswith("features 1/6 a [5, 20]: ")
    assert all("frames/s" in line and "min left" in line for line in lines) and lines[-1].endswith(" 0.0 min left")
    (tmp_path / "features/c.npy").unlink()
    again = filled(tmp_path / "features", videos, save_every=0)
    assert again[0] == "features: 5 of 6 videos done before"
    assert again[1].startswith("features 6/6 c 4 of 22 frames: ") and len(again) == 1 + 6 + 1


def test_time_left_follows_the_bytes_that_are_left(videos, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(feature_folder.time, "perf_counter", lambda: clock[0])
    lines = []
    told = feature_folder._Lines(lines.append, 6, videos)
    sizes = [video.stat().st_size for video in videos]
    told.reached(videos[0])
    clock[0] = 60.0
    told.within(videos[0], 10, 8.0)
    left = sum(sizes) - sizes[0] / 2
    assert f"10 of 20 frames: 8 frames/s, {(left / (sizes[0] / 2)):.1f} min left" in lines[0]
    told.done(videos[0], (5, 20), 60.0, True)
    assert f"{(sum(sizes[1:]) / sizes[0]):.1f} min left" in lines[1]


def test_a_break_while_writing_leaves_no_file_of_that_name(tmp_path, videos, monkeypatch):
    def half(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "save", half)
        filled(tmp_path / "features", videos[:1])
    assert not list(tmp_path.glob("features/*.npy")) and not list(tmp_path.glob("features/*.tmp"))
    filled(tmp_path / "features", videos[:1])
    assert files(tmp_path / "features") == ["a.npy"], "neither lock nor state is left"


class Slow(Probe):
    def forward(self, clip):
        time.sleep(0.1)
        return super().forward(clip)


def wait_for(condition):
    end = time.time() + 240
    while not condition():
        assert time.time() < end, "it takes too long"
        time.sleep(0.01)


def slowly(count, folder, videos, calls):
    """One process of `count`, which begin together: says which videos it works on."""
    (calls.parent / f"{os.getpid()}.ready").touch()
    wait_for(lambda: len(list(calls.parent.glob("*.ready"))) == count)

    def counting(path, checkpoint):
        with open(calls, "a") as file:
            file.write(f"{path.stem} {os.getpid()}\n")
        return extraction.i3d_features(Slow(), path, window=3, batch=1, checkpoint=checkpoint)

    feature_folder.extract_folder(folder, extractor=counting, videos=videos, about={"model": "probe"}, save_every=0)


def processes(count, *arguments):
    started = [SPAWN.Process(target=slowly, args=(count, *arguments), daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    return started


def expected_in(folder, videos):
    for video in videos:
        expected = extraction.i3d_features(Probe(), video, window=3, batch=1)
        np.testing.assert_array_equal(np.load(folder / f"{video.stem}.npy"), expected)


def test_several_processes_share_the_videos(tmp_path, videos):
    folder, calls = tmp_path / "features", tmp_path / "calls"
    for process in processes(2, folder, videos, calls):
        process.join()
        assert process.exitcode == 0
    worked = [line.split() for line in calls.read_text().splitlines()]
    assert sorted(name for name, _ in worked) == list("abcdef"), "each video once"
    assert len({process for _, process in worked}) == 2
    assert files(folder) == sorted([*(f"{name}.npy" for name in "abcdef"), "features.json"])
    expected_in(folder, videos)


def test_the_video_of_a_killed_process_is_taken_over_where_it_was(tmp_path, videos):
    """The second process waits for the one that the first one had, and goes on from its state."""
    folder, calls = tmp_path / "features", tmp_path / "calls"
    first, second = processes(2, folder, videos[:2], calls)
    wait_for(lambda: len(list(folder.glob("*.state"))) == 2)
    os.kill(first.pid, signal.SIGKILL)
    second.join()
    assert second.exitcode == 0
    names = [line.split()[0] for line in calls.read_text().splitlines()]
    assert sorted(names[:2]) == ["a", "b"] and len(names) == 3, "the one of the killed process again"
    assert files(folder) == ["a.npy", "b.npy", "features.json"]
    expected_in(folder, videos[:2])


def test_a_claim_is_of_the_file_that_has_the_name(tmp_path):
    """Who waited for a lock that was removed meanwhile must not go on beside the one that has the new one."""
    path, order = tmp_path / "x.lock", tmp_path / "order"

    def say(*words):
        with open(order, "a") as file:  # at once: a queue between processes would deliver later, in any order
            file.write(" ".join(map(str, words)) + "\n")

    def hold(name, seconds):
        with feature_folder.claim(path) as mine:
            say(name, "in", mine)
            time.sleep(seconds)
            say(name, "out", mine)

    started = [FORK.Process(target=hold, args=(name, 0.05)) for name in range(6)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    seen = [line.split() for line in order.read_text().splitlines()]
    assert len(seen) == 12 and all(mine == "True" for *_, mine in seen)
    assert all(one[:2] == [two[0], "in"] and two[1] == "out" for one, two in zip(seen[::2], seen[1::2], strict=True))
    assert not path.exists()


def test_a_claim_that_does_not_wait_says_no_and_one_that_fails_keeps_the_file(tmp_path):
    path = tmp_path / "x.lock"
    with feature_folder.claim(path) as mine, feature_folder.claim(path, wait=False) as also_mine:
        assert mine and not also_mine
    with pytest.raises(RuntimeError), feature_folder.claim(path):
        raise RuntimeError
    with feature_folder.claim(path, wait=False) as mine:
        assert mine, "the lock went with the block"


def test_a_folder_says_what_was_done_and_refuses_another(tmp_path, videos):
    folder, about = tmp_path / "features", {"model": "probe", "color": "rgb", "window": 3, "fps": 8.0}
    filled(folder, videos[:1], about=about)
    held = json.loads((folder / "features.json").read_text())
    assert held == about | {"version": held["version"]} and held["version"].startswith("thesis_lib ")
    feature_folder.check(folder, about | {"fps": 30.0, "color": None, "new": 1})
    message = (
        r"features/features\.json: color is 'rgb', 'bgr' is asked; window is 3, 21 is asked: "
        r"change the parameters, or take or extract other features$"
    )
    with pytest.raises(ValueError, match=message):
        feature_folder.check(folder, about | {"color": "bgr", "window": 21})
    with pytest.raises(ValueError, match="color is 'rgb', 'bgr' is asked"):
        filled(folder, videos[1:2], about=about | {"color": "bgr"})
    assert files(folder) == ["a.npy", "features.json"]


def test_a_folder_without_a_word_is_taken_and_a_broken_one_is_named(tmp_path):
    feature_folder.check(tmp_path, {"color": "rgb"})
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"features\.json: not JSON: "):
        feature_folder.check(tmp_path, {"color": "rgb"})
