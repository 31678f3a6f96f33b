"""Extraction against plain re-computation: each window cut by hand from all frames at once."""

import re
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib import extraction
from thesis_lib.data.flow import optical_flow
from thesis_lib.data.video import frame_count, read_frames, write_video
from thesis_lib.models.i3d import I3DR50


class Probe(nn.Module):
    """A network that tells what it was shown: weighted sums that depend on time, place and channel."""

    def __init__(self, dim=5):
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout(0.9)  # shows if eval mode is forgotten

    def forward(self, clip):
        clip = F.adaptive_avg_pool3d(clip, (clip.shape[2], 4, 4)).flatten(1)
        weights = torch.cos(torch.arange(clip.shape[1] * self.dim, dtype=clip.dtype) * 0.7)
        return self.dropout(clip @ weights.reshape(-1, self.dim) / 10)

    encode_video = forward

    def mixed_5c(self, clip):
        return torch.cat([self(clip), self(clip)], dim=1)


def pictures(count, height=16, width=20, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (count, 4, 4, 3)).astype(np.uint8)
    return [np.kron(block, np.ones((height // 4, width // 4, 1), dtype=np.uint8)) for block in blocks]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "rgb-01-1.avi"
    write_video(path, pictures(45), fps=8)
    return path


def break_chunk(path, first, last):
    """Overwrite frames first..last of an AVI, chunk headers included."""
    data = bytearray(path.read_bytes())
    count = frame_count(path)
    starts = [match.start() for match in re.finditer(b"00dc", data)][-2 * count : -count]  # the index comes last
    data[starts[first] : starts[last + 1]] = b"\xaa" * (starts[last + 1] - starts[first])
    path.write_bytes(bytes(data))


def by_hand(path, window, mean=0.45, std=0.225, flip=False, padding="grey", unseen=0):
    """Padded as the sources do it: black before normalisation, grey after it, edges by their frames."""
    frames = torch.from_numpy(np.stack([frame for _, frame in read_frames(path)])).permute(3, 0, 1, 2) / 255
    count, half = frames.shape[1], window // 2
    frames = (frames.flip(0) if flip else frames)[:, : count - unseen]
    around, pad = (half, window - 1 - half + unseen), (0, 0, 0, 0, half, window - 1 - half + unseen)
    if padding == "black":
        padded = F.pad(frames, pad).sub(mean).div(std)
    elif padding == "edge":
        places = np.clip(np.arange(-around[0], frames.shape[1] + around[1]), 0, frames.shape[1] - 1)
        padded = frames[:, places].sub(mean).div(std)
    else:
        padded = F.pad(frames.sub(mean).div(std), pad)
    return torch.cat([Probe().eval()(padded[None, :, t : t + window]) for t in range(count)]).T.numpy()


@pytest.mark.parametrize("window, batch", [(21, 32), (21, 7), (5, 2), (1, 4), (61, 8), (4, 45), (21, 1)])
def test_i3d_windows_are_centred_and_padded_with_zeros(video, window, batch):
    got = extraction.i3d_features(Probe(), video, window=window, batch=batch)
    assert got.shape == (5, 45) and got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(video, window), atol=2e-5)


def test_i3d_colours_and_normalisation_are_switches(video):
    got = extraction.i3d_features(Probe(), video, window=3, color="bgr", mean=0.5, std=0.5)
    np.testing.assert_allclose(got, by_hand(video, 3, 0.5, 0.5, flip=True), atol=2e-5)
    with pytest.raises(ValueError, match="bgr"):
        extraction.i3d_features(Probe(), video, color="grb")


@pytest.mark.parametrize("window, batch", [(21, 32), (5, 2), (61, 8)])
@pytest.mark.parametrize("unseen", [0, 1])
@pytest.mark.parametrize("padding", extraction.PADDINGS)
def test_i3d_ends_are_padded_as_asked(video, window, batch, padding, unseen):
    last_frame = extraction.LAST_FRAMES[unseen]
    got = extraction.i3d_features(Probe(), video, window=window, batch=batch, padding=padding, last_frame=last_frame)
    expected = by_hand(video, window, padding=padding, unseen=unseen)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    default = by_hand(video, window)
    assert got.shape == default.shape and (padding == "grey" and not unseen) == np.allclose(got, default, atol=1e-3)


def test_an_unseen_last_frame_changes_nothing_where_it_is_painted_over(video, tmp_path):
    *frames, last = pictures(45)
    painted = tmp_path / "painted.avi"
    write_video(painted, [*frames, 255 - last], fps=8)
    same = {}
    for how in extraction.LAST_FRAMES:
        pair = [extraction.i3d_features(Probe(), path, window=5, last_frame=how) for path in (video, painted)]
        same[how] = (pair[0] == pair[1]).all(axis=0)
    assert same["unseen"].all()
    assert same["seen"].tolist() == [True] * 42 + [False] * 3, "the last frame is in the windows of the last three"


def test_a_video_of_one_unseen_frame_has_no_window(tmp_path):
    write_video(tmp_path / "still.avi", pictures(1), fps=8)
    with pytest.raises(ValueError, match="no window sees a frame"):
        extraction.i3d_features(Probe(), tmp_path / "still.avi", last_frame="unseen")


def test_choices_are_named(video):
    for name in ("padding", "last_frame", "precision"):
        with pytest.raises(ValueError, match=f"{name}='zeros': choose one of "):
            extraction.i3d_features(Probe(), video, **{name: "zeros"})


def test_i3d_repeats_the_last_good_vector_at_damaged_frames(video):
    break_chunk(video, 20, 24)
    good = [index for index, _ in read_frames(video)]
    assert good == [*range(20), *range(25, 45)]
    got = extraction.i3d_features(Probe(), video, window=7, batch=6)
    decoded = by_hand(video, 7)
    assert got.shape == (5, 45)
    np.testing.assert_allclose(got[:, good], decoded, atol=2e-5)
    np.testing.assert_array_equal(got[:, 20:25], np.repeat(got[:, 19:20], 5, axis=1))


def test_i3d_takes_the_first_good_vector_before_it(video):
    break_chunk(video, 0, 2)
    got = extraction.i3d_features(Probe(), video, window=3)
    assert got.shape == (5, 45)
    np.testing.assert_array_equal(got[:, :3], np.repeat(got[:, 3:4], 3, axis=1))


def test_s3d_gives_a_vector_a_second_and_fills_the_last_with_black(video):
    got = extraction.s3d_features(Probe(), video, frames_per_clip=8, batch=2)
    frames = torch.from_numpy(np.stack([frame for _, frame in read_frames(video)])).permute(3, 0, 1, 2) / 255
    clips = F.pad(frames, (0, 0, 0, 0, 0, 3)).unflatten(1, (6, 8)).transpose(0, 1)
    assert got.shape == (6, 5)
    np.testing.assert_allclose(got, Probe().eval()(clips).numpy(), atol=2e-5)
    unit = extraction.s3d_features(Probe(), video, frames_per_clip=8, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    assert extraction.s3d_features(Probe(), video, frames_per_clip=8, output="mixed_5c").shape == (6, 10)
    with pytest.raises(ValueError, match="mixed_5c"):
        extraction.s3d_features(Probe(), video, output="mixed_4f")


def test_a_model_is_moved_once_for_all_videos(video, monkeypatch):
    model, moves = I3DR50(stem_dim=8).double(), []
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda self, *a, **k: moves.append(self is model) or move(self, *a, **k))
    for device in ("cpu", "cpu", torch.device("cpu"), "meta", "meta"):
        extraction._put(model, device)
    assert moves == [True, True] and not model.training
    weights = [weight for weight in model.parameters() if weight.ndim == 5]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)
    extraction._put(model.train(), "meta")
    assert not model.training


def test_s3d_keeps_seconds_through_damage(video):
    whole = extraction.s3d_features(Probe(), video, frames_per_clip=8)
    break_chunk(video, 17, 18)
    broken = extraction.s3d_features(Probe(), video, frames_per_clip=8)
    changed = np.abs(whole - broken).max(axis=1) > 1e-6
    assert changed.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("fps, rate", [(8, 8), (30, 30), (25, 30), (30, 8), (29.97, 30), (60, 30), (12.5, 5)])
def test_resampling_follows_the_fps_filter_of_ffmpeg(fps, rate):
    """Brute force: frame i begins at round(i * rate / fps); a time shows the last frame that has begun."""
    count = 200
    begins = np.floor(np.arange(count) * rate / fps + 0.5)
    expected = [int(np.flatnonzero(begins <= k)[-1]) for k in range(int(begins[-1]))]
    got = list(extraction.resample(((i, i) for i in range(count)), fps, rate))
    assert abs(len(got) - count * rate / fps) <= 1
    assert got[: len(expected)] == expected


@pytest.mark.parametrize(
    "shape, size, expected",
    [((48, 48), 256, (48, 48)), ((480, 640), 256, (256, 256)), ((640, 480), 224, (224, 224)),
     ((256, 340), 256, (256, 256)), ((100, 300), 256, (100, 256)), ((5, 7), None, (5, 7))],
)  # fmt: skip
def test_prepare_scales_only_what_is_larger(shape, size, expected):
    frames = torch.randint(0, 255, (2, *shape, 3), dtype=torch.uint8)
    assert extraction.prepare(frames, size).shape == (2, 3, *expected)


def test_prepare_cuts_the_centre_and_keeps_values():
    frames = torch.zeros(1, 6, 10, 3, dtype=torch.uint8)
    frames[:, :, 2:8] = 255
    assert extraction.prepare(frames, 6).min() == 1.0


def test_i3d_windows_that_share_the_stem_equal_windows_alone():
    """Every window has zeros around it: what is shared between windows must not see a neighbour's frames."""
    model = lively_r50().double()
    frames = torch.randn(27, 3, 40, 40).double()
    with torch.inference_mode():
        for window in (8, 21):
            alone = torch.cat([model(frames[s : s + window].transpose(0, 1)[None]) for s in range(28 - window)])
            torch.testing.assert_close(model.windows(frames, window), alone)


def lively_r50():
    """A small network whose every layer counts: built anew, each residual block ends in a norm of 0."""
    torch.manual_seed(0)
    model = I3DR50(stem_dim=2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "rgb-02-1.avi"
    write_video(path, pictures(130, 32, 32), fps=8)
    return path


def test_dense_is_one_pass_over_the_video_between_grey_frames(long_video):
    model = lively_r50()
    got = extraction.i3d_features(model, long_video, mode="dense", batch=100)  # 2100 frames at once: all
    frames = torch.from_numpy(np.stack([frame for _, frame in read_frames(long_video)]))
    frames = F.pad((extraction.prepare(frames) - 0.45) / 0.225, (0, 0, 0, 0, 0, 0, 10, 10))
    with torch.inference_mode():
        whole = model.dense(frames)
    np.testing.assert_allclose(got, whole.T.numpy(), rtol=1e-4, atol=1e-5)
    exact = extraction.i3d_features(model, long_video)
    assert exact.shape == got.shape and 1e-3 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < 0.3


@pytest.mark.parametrize("window, batch", [(21, 1), (21, 2), (21, 3), (20, 2), (9, 3)])
def test_dense_does_not_depend_on_the_stretch(long_video, window, batch):
    model = lively_r50()
    whole = extraction.i3d_features(model, long_video, mode="dense", window=window, batch=100)
    got = extraction.i3d_features(model, long_video, mode="dense", window=window, batch=batch)
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)


def test_dense_keeps_places_through_damage(tmp_path):
    path = tmp_path / "rgb-03-1.avi"
    write_video(path, pictures(45, 32, 32), fps=8)
    break_chunk(path, 20, 24)
    got = extraction.i3d_features(lively_r50(), path, mode="dense", batch=1)
    assert got.shape == (64, 45)
    np.testing.assert_array_equal(got[:, 20:25], np.repeat(got[:, 19:20], 5, axis=1))
    assert np.abs(got[:, 25] - got[:, 19]).max() > 1e-3


def test_modes_are_checked(video):
    with pytest.raises(ValueError, match="mode='fast': choose one of exact, dense"):
        extraction.i3d_features(Probe(), video, mode="fast")
    with pytest.raises(ValueError, match="Probe has no dense mode"):
        extraction.i3d_features(Probe(), video, mode="dense")


def streams_by_hand(path, window):
    """Colours and flow of the good frames as whole clips, cut into windows one by one."""
    frames = np.stack([frame for _, frame in read_frames(path)])
    colors = torch.from_numpy(frames).permute(3, 0, 1, 2) / 255 * 2 - 1
    flow = torch.from_numpy(optical_flow(frames, "dis")).permute(3, 0, 1, 2)
    half, count = window // 2, len(frames)
    colors = F.pad(colors, (0, 0, 0, 0, half, window - 1 - half))
    flow = F.pad(flow, (0, 0, 0, 0, half, window - half))  # one more: nothing follows the last frame
    assert colors.shape[1] == flow.shape[1] == count + window - 1
    return [
        torch.cat([Probe(dim).eval()(clip[None, :, t : t + window]) for t in range(count)])
        for dim, clip in ((3, colors), (4, flow))
    ]


@pytest.mark.parametrize("window, batch", [(21, 32), (21, 7), (4, 1), (1, 45)])
def test_two_streams_show_the_same_moments_colours_first(video, window, batch):
    got = extraction.two_stream_features(Probe(3), Probe(4), video, flow="dis", window=window, batch=batch, size=None)
    assert got.shape == (7, 45) and got.dtype == np.float32
    np.testing.assert_allclose(got, torch.cat(streams_by_hand(video, window), dim=1).T.numpy(), atol=2e-5)


def test_two_streams_keep_places_through_damage(video):
    break_chunk(video, 20, 24)
    good = [*range(20), *range(25, 45)]
    got = extraction.two_stream_features(Probe(3), Probe(4), video, flow="dis", window=5, batch=6, size=None)
    assert got.shape == (7, 45)
    np.testing.assert_allclose(got[:, good], torch.cat(streams_by_hand(video, 5), dim=1).T.numpy(), atol=2e-5)
    np.testing.assert_array_equal(got[:, 20:25], np.repeat(got[:, 19:20], 5, axis=1))


def test_two_streams_of_one_frame(tmp_path):
    write_video(tmp_path / "still.avi", pictures(1), fps=8)
    got = extraction.two_stream_features(Probe(3), Probe(4), tmp_path / "still.avi", window=3)
    assert got.shape == (7, 1) and np.abs(got[:3]).max() > 0
    np.testing.assert_array_equal(got[3:], 0)  # no motion


def test_two_streams_say_which_flows_there_are(video):
    with pytest.raises(ValueError, match="flow='brox': choose one of tvl1, dis"):
        extraction.two_stream_features(Probe(), Probe(), video, flow="brox")


class Killed(Exception):
    pass


def killed_after(network, calls):
    """The network, until it has been called so often."""

    def call(*arguments):
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Killed
        return network(*arguments)

    return call


def r50(in_channels=3):
    torch.manual_seed(in_channels)
    return I3DR50(stem_dim=2, in_channels=in_channels)


def extractor_of(kind, path):
    """A network, its method that is called, and a function of a checkpoint."""
    if kind == "s3d":
        model = Probe()
        return model, "encode_video", partial(extraction.s3d_features, model, path, frames_per_clip=8, batch=1)
    model, more = r50(), dict(window=9, padding="edge", last_frame="unseen")
    if kind == "two_stream":
        more |= dict(batch=4, flow="dis", size=None)
        return model, "windows", partial(extraction.two_stream_features, model, r50(2), path, **more)
    method, batch = ("dense", 1) if kind == "dense" else ("windows", 4)
    return model, method, partial(extraction.i3d_features, model, path, mode=kind, batch=batch, **more)


@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("kind", ["exact", "dense", "two_stream", "s3d"])
def test_a_killed_extraction_goes_on_in_the_video_with_the_same_bits(kind, calls, video, tmp_path, monkeypatch):
    break_chunk(video, 20, 22)
    model, method, extract = extractor_of(kind, video)
    network, counted, told = getattr(model, method), [], []
    monkeypatch.setattr(model, method, lambda *clip: (counted.append(1), network(*clip))[1])
    whole, needed = extract(), len(counted)

    kept = extraction.Checkpoint(tmp_path / "video.state", every=0, told=lambda *pace: told.append(pace))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(model, method, killed_after(network, calls))
        extract(checkpoint=kept)
    assert (tmp_path / "video.state").exists() == bool(told) and (told or not calls)
    assert all(0 < frames <= 45 and rate >= 0 for frames, rate in told)

    counted.clear()
    again = extraction.Checkpoint(tmp_path / "video.state", every=1e9)
    np.testing.assert_array_equal(extract(checkpoint=again), whole)
    assert len(counted) == needed - calls, "what was done is not done again"


def test_what_is_kept_is_the_border_and_the_vectors_alone(video, tmp_path):
    """A state holds no stretch of frames: a view of one would be saved with all of it."""
    write_video(tmp_path / "long.avi", pictures(300, 32, 32), fps=8)
    kept = extraction.Checkpoint(tmp_path / "long.state", every=0)
    extraction.i3d_features(Probe(), tmp_path / "long.avi", window=3, batch=100, checkpoint=kept)
    assert (tmp_path / "long.state").stat().st_size < 10 * 3 * 32 * 32 * 4 + 300 * 5 * 4 + 10_000
    kept.remove()
    assert not (tmp_path / "long.state").exists() and kept.read() == {}


def test_checkpoints_are_kept_when_it_is_time(tmp_path):
    kept = extraction.Checkpoint(tmp_path / "a", every=1e9)
    kept.offer(1, lambda: pytest.fail("not yet"))
    extraction.Checkpoint(None, every=0).offer(1, lambda: pytest.fail("nowhere"))


def test_ahead_gives_the_same_items_and_errors_and_is_one_ahead():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number
        raise ValueError("the file breaks off")

    got = extraction.ahead(items())
    assert [next(got), next(got)] == [0, 1]
    deadline = time.time() + 5
    while len(made) < 3 and time.time() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2], "the next one while this one is used, and no more"
    assert [next(got), next(got)] == [2, 3]
    with pytest.raises(ValueError, match="breaks off"):
        next(got)


def test_frames_are_decoded_while_the_network_works(video, monkeypatch):
    """Decoding and a network of 50 ms a batch each: both at once take little longer than one."""

    def slow_frames(path):
        for number, frame in enumerate(pictures(20)):
            time.sleep(0.02)
            yield number, frame

    class Slow(Probe):
        def forward(self, clip):
            time.sleep(0.08)
            return super().forward(clip)

    monkeypatch.setattr(extraction, "read_frames", slow_frames)
    start = time.perf_counter()
    extraction.i3d_features(Slow(), video, window=1, batch=4)
    assert time.perf_counter() - start < 0.65, "0.4 s of decoding, 0.4 s of network"


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def test_half_precision_on_the_cpu_stays_near_single(long_video):
    """I3D R50 of 50 layers: 2^-8 is the rounding of one bf16 number, and it stays below 4 of these."""
    exact = extraction.i3d_features(lively_r50(), long_video)
    half = extraction.i3d_features(lively_r50(), long_video, precision="bf16")
    assert half.dtype == np.float32 and 1e-4 < relative(half, exact) < 4 / 256


def test_half_precision_of_seconds_and_streams(video):
    seconds = [extraction.s3d_features(Probe(), video, frames_per_clip=8, precision=p) for p in ("fp32", "bf16")]
    assert 1e-4 < relative(*seconds[::-1]) < 0.02
    settings = dict(flow="dis", window=3, size=None)
    pair = [extraction.two_stream_features(Probe(), Probe(), video, precision=p, **settings) for p in ("fp32", "bf16")]
    assert 1e-4 < relative(*pair[::-1]) < 0.02


def test_values_beyond_the_range_of_a_precision_are_an_error(video):
    class Large(Probe):
        def forward(self, clip):
            return super().forward(clip) * 1e38 * 1e38

    with pytest.raises(FloatingPointError, match=r"rgb-01-1.avi: features are not finite in fp32$"):
        extraction.i3d_features(Large(), video, window=3)


@pytest.mark.parametrize("padding", extraction.PADDINGS)
def test_two_streams_have_the_same_switches(video, padding):
    """Colours as those of i3d_features in -1..1; no motion around the video with any padding."""
    settings = dict(window=5, batch=6, size=None, color="bgr", padding=padding, last_frame="unseen")
    got = extraction.two_stream_features(Probe(), Probe(4), video, flow="dis", **settings)
    colors = extraction.i3d_features(Probe(), video, mean=0.5, std=0.5, **settings)
    np.testing.assert_allclose(got[:5], colors, atol=2e-5)
    frames = np.stack([frame for _, frame in read_frames(video)])
    flow = F.pad(torch.from_numpy(optical_flow(frames[:-1], "dis")).permute(3, 0, 1, 2), (0, 0, 0, 0, 2, 4))
    motion = torch.cat([Probe(4).eval()(flow[None, :, t : t + 5]) for t in range(45)]).T.numpy()
    np.testing.assert_allclose(got[5:], motion, atol=2e-5)
