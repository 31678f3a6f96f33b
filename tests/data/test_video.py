"""Videos whose pictures carry their own number, read back through damage of every kind."""

import os
import re
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from thesis_lib.data.video import frame_count, frame_rate, header_count, probe, read_clip, read_frames, write_video

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "videos"
COUNT, HEIGHT, WIDTH = 50, 64, 128


def picture(number, height=HEIGHT, width=WIDTH):
    """Eight columns, black or white: the bits of the number; a noisy band below."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    frame[height // 2 :] = np.random.default_rng(number).integers(60, 200, (height - height // 2, width, 3))
    return frame


def number_of(frame):
    bits = frame[: len(frame) // 2].mean(axis=(0, 2))
    bits = bits[: len(bits) // 8 * 8].reshape(8, -1).mean(axis=1) > 128
    return int((bits << np.arange(8)).sum())


def read(path, **how):
    return [(index, number_of(frame)) for index, frame in read_frames(path, **how)]


def encode(path, codec, count=COUNT, rate=8, times=None, sound=None, container_options=None, **options):
    """Write with PyAV, which OpenCV's writer cannot replace for B-frames, h264, uneven times and sound.

    sound: the codec of a track that begins before the pictures and goes on two seconds longer.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        track = container.add_stream(sound, rate=16_000, layout="mono") if sound else None
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        played = 0
        for number in range(count + 2 * rate):
            while track and played < 16_000 * (number + 1) / rate:
                size = track.codec_context.frame_size or 1024
                noise = np.random.default_rng(played).integers(-9000, 9000, (1, size), dtype=np.int16)
                heard = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
                heard.sample_rate, heard.pts, played = 16_000, played, played + size
                container.mux(track.encode(heard))
            if number < count:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = times[number], Fraction(1, rate)
                container.mux(stream.encode(frame))
        for one in filter(None, (track, stream)):
            container.mux(one.encode())
    return path


@pytest.fixture
def make(tmp_path):
    def build(name="video.avi", codec="MJPG", count=COUNT):
        write_video(tmp_path / name, (picture(number) for number in range(count)), fps=8, codec=codec)
        return tmp_path / name

    return build


def overwrite(path, begin, end, fill=0xAA):
    """Overwrite bytes begin..end, given as shares of the file or as positions."""
    data = bytearray(path.read_bytes())
    begin, end = (int(place * len(data)) if isinstance(place, float) else place for place in (begin, end))
    data[begin:end] = bytes([fill]) * (end - begin)
    path.write_bytes(bytes(data))


def chunks(path, tag=b"00dc"):
    """Where the frames of an AVI begin; the same tags in the index at the end are left off."""
    data = path.read_bytes()
    return [match.start() for match in re.finditer(tag, data[: data.rindex(b"idx1")])][-COUNT:]


@pytest.mark.parametrize(
    "name, codec", [("a.avi", "MJPG"), ("a.avi", "XVID"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG"), ("a.mkv", "XVID")]
)
def test_a_whole_file_reads_whole(make, name, codec):
    path = make(name, codec)
    assert read(path) == [(number, number) for number in range(COUNT)]
    info = probe(path)
    assert (info.count, info.decoded_count, info.missing) == (COUNT, COUNT, ())
    assert (info.width, info.height, info.fps) == (WIDTH, HEIGHT, 8.0)
    assert info.header_count == (None if name.endswith("mkv") else COUNT)
    assert frame_count(path) == COUNT and frame_rate(path) == 8.0


def test_frames_are_rgb_of_the_colour_written(tmp_path):
    red = np.zeros((48, 48, 3), np.uint8)
    red[..., 0] = 220
    write_video(tmp_path / "red.avi", [red] * 3, fps=8)
    for _, frame in read_frames(tmp_path / "red.avi"):
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), (220, 0, 0), atol=8)


@pytest.mark.parametrize("name, codec", [("b.avi", "mpeg4"), ("b.avi", "libx264"), ("b.mp4", "libx264")])
def test_frames_stored_out_of_order_come_in_order(tmp_path, name, codec):
    """With B-frames AVI says nothing of the order of display."""
    path = encode(tmp_path / name, codec, bf="2")
    assert read(path) == [(number, number) for number in range(COUNT)]


@pytest.mark.parametrize(
    "name, codec", [("c.ts", "libx264"), ("c.mpg", "mpeg2video"), ("c.h264", "libx264"), ("c.webm", "libvpx-vp9"),
                    ("c.flv", "flv1"), ("c.wmv", "wmv2"), ("c.mkv", "libx264")]
)  # fmt: skip
def test_files_without_a_count_are_counted(tmp_path, name, codec):
    """Streams cut from television begin at any time; a raw one has no times at all; VP9 hides frames among others."""
    fast = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx-vp9" else {}
    path = encode(tmp_path / name, codec, rate=25, **fast)
    info = probe(path)
    assert read(path) == [(number, number) for number in range(COUNT)]
    assert (info.header_count, info.count, info.missing) == (header_count(path), COUNT, ()) and not info.header_count


@pytest.mark.parametrize(
    "name, codec, sound", [("s.avi", "mpeg4", "mp3"), ("s.mp4", "libx264", "aac"), ("s.mkv", "libx264", "aac")]
)
def test_sound_takes_no_place(tmp_path, name, codec, sound):
    path = encode(tmp_path / name, codec, sound=sound)
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
    assert read(path) == [(number, number) for number in range(COUNT)]
    assert probe(path).count == frame_count(path) == COUNT


def test_damage_in_a_file_with_sound_costs_its_frames_only(tmp_path):
    path = encode(tmp_path / "s.avi", "mpeg4", sound="mp3", g="10")
    starts = [place for place in chunks(path, b"01dc") if place]
    overwrite(path, starts[20], starts[23])
    assert probe(path).missing == (20, 21, 22)
    assert [pair for pair in read(path) if pair[0] != pair[1] and not 20 <= pair[0] < 30] == []


@pytest.mark.parametrize("codec", ["MJPG", "XVID"])
@pytest.mark.parametrize("fill", [0xAA, 0x00])
@pytest.mark.parametrize("first, last", [(0, 2), (1, 1), (17, 28), (40, 49), (49, 49)])
def test_lost_chunks_of_an_avi_cost_their_frames_only(make, codec, fill, first, last):
    """FFmpeg counts the chunks it finds, so that a reader that trusts it is late by all that were lost."""
    path = make(codec=codec)
    starts = chunks(path)
    end = starts[last + 1] if last + 1 < COUNT else starts[last] + 400
    overwrite(path, starts[first], end, fill)
    indices = [index for index, _ in read(path)]
    assert indices == [index for index in range(COUNT) if not first <= index <= last]
    assert probe(path).missing == tuple(range(first, last + 1))
    keyframes = range(COUNT) if codec == "MJPG" else range(0, COUNT, 12)  # a predicted frame may show a lost one
    smeared = range(first, next((key for key in keyframes if key > last), COUNT))
    assert all(index == number for index, number in read(path) if index not in smeared)


def test_damage_inside_a_jpeg_is_found(make):
    """Half a picture decodes to grey without a word, unless the decoder is told to be strict. Few bytes may pass."""
    path = make()
    overwrite(path, chunks(path)[30] + 700, chunks(path)[30] + 1700, fill=0xFF)
    assert [index for index, _ in read(path)] == [index for index in range(COUNT) if index != 30]


def test_damaged_places_can_be_repeated(make):
    path = make()
    starts = chunks(path)
    overwrite(path, starts[0], starts[2])
    overwrite(path, starts[20], starts[23])
    overwrite(path, starts[49], starts[49] + 400)
    expected = [2, 2, *range(2, 20), 19, 19, 19, *range(23, 49), 48]
    assert read(path, damaged="repeat") == list(enumerate(expected))
    with pytest.raises(ValueError, match="repeat"):
        read_frames(path, damaged="guess")


def test_mp4_with_a_damaged_middle_reads_on(make):
    path = make("a.mp4", "mp4v")
    overwrite(path, 0.4, 0.6)
    found = read(path)
    missing = probe(path).missing
    assert 5 < len(missing) < 20 and list(missing) == list(range(missing[0], missing[-1] + 1))
    assert all(index == number for index, number in found if index < missing[0] or index > missing[-1] + 12)
    assert found[-1] == (49, 49)


def test_truncated_avi_gives_what_is_there(make):
    path = make()
    path.write_bytes(path.read_bytes()[: chunks(path)[25] + 100])
    found = read(path)
    info = probe(path)
    assert found == [(number, number) for number in range(25)]
    assert info.header_count == COUNT and info.decoded_count == 25


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


@pytest.mark.parametrize(
    "name, options", [("t.mkv", {}), ("t.ts", {}), ("t.webm", {}), ("t.mp4", {"movflags": "faststart"}),
                      ("t.mp4", {"movflags": "frag_keyframe+empty_moov"})]
)  # fmt: skip
def test_a_file_cut_off_gives_what_is_there(tmp_path, name, options):
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = cut(encode(tmp_path / name, codec, rate=25, container_options=options))
    found = read(path)
    assert 20 < len(found) < 40 and found == [(number, number) for number in range(len(found))]
    info = probe(path)
    assert info.decoded_count == len(found) and info.count - len(found) <= 1  # the last one may be cut through
    assert info.header_count == (COUNT if options.get("movflags") == "faststart" else None)


def test_an_mp4_cut_off_before_its_directory_says_so(tmp_path):
    """Cameras write it last: without it nobody can find a frame."""
    path = cut(encode(tmp_path / "t.mp4", "libx264"), 0.9)
    with pytest.raises(ValueError, match=r"t\.mp4: not a readable video"):
        next(read_frames(path))


@pytest.mark.parametrize("name, codec", [("d.mkv", "libx264"), ("d.ts", "libx264"), ("d.flv", "flv1")])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_reading_goes_on_after_damage_in_other_containers(tmp_path, name, codec, place):
    """A damaged .flv claims streams that its header does not have."""
    path = encode(tmp_path / name, codec, count=250, rate=25, g="20")
    overwrite(path, place, place + 0.08)
    found = read(path)
    assert 200 < len(found) < 250 and found[-1] == (249, 249)
    indices = [index for index, _ in found]
    lost = probe(path).missing
    assert sorted([*indices, *lost]) == list(range(250))
    first, last = lost[0] - 20, lost[-1] + 40  # B-frames before, predicted frames after
    assert all(index == number for index, number in found if not first < index < last)


def test_lost_index_falls_back_to_counting(make):
    path = make()
    overwrite(path, path.read_bytes().rindex(b"idx1"), 1.0)
    assert [pair for pair in read(path) if pair[0] < 49] == [(number, number) for number in range(49)]


@pytest.mark.parametrize("lie", [0, 7, 1000])
def test_a_header_that_lies_about_the_count_is_not_believed(make, lie):
    path = make()
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, lie)  # dwTotalFrames
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, lie)  # dwLength
    path.write_bytes(bytes(data))
    info = probe(path)
    assert read(path) == [(number, number) for number in range(COUNT)]
    assert info.header_count == (lie or None) and info.count == info.decoded_count == COUNT


def test_lost_riff_header_still_reads_every_frame(make):
    path = make()
    overwrite(path, 0, 64)
    assert read(path) == [(number, number) for number in range(COUNT)]
    assert probe(path).header_count is None


def test_uneven_times_are_counted(tmp_path):
    """Phones record at a varying rate; the frames have ranks, not places on a grid."""
    gaps = np.random.default_rng(0).integers(1, 6, COUNT)
    path = encode(tmp_path / "phone.mp4", "libx264", rate=60, times=np.cumsum(gaps).tolist())
    assert read(path) == [(number, number) for number in range(COUNT)]


@pytest.mark.parametrize("turn", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotation_in_the_header_is_applied(make, turn):
    """Quarter, half and three quarter turns in the track header of an mp4, as phones write it; OpenCV turns so too."""
    path = make("a.mp4", "mp4v", count=5)
    data = bytearray(path.read_bytes())
    a, b, c, d = (part << 16 for part in turn)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 4 + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
    _, frame = next(read_frames(path))
    ok, reference = cv2.VideoCapture(str(path)).read()
    assert ok and frame.shape == reference.shape
    assert np.abs(frame.astype(int) - reference[..., ::-1].astype(int)).mean() < 8
    info = probe(path)
    assert (info.height, info.width) == frame.shape[:2] == ((WIDTH, HEIGHT) if turn[0] == 0 else (HEIGHT, WIDTH))


@pytest.mark.parametrize("height, width", [(33, 47), (2, 2), (17, 64)])
def test_odd_sizes(tmp_path, height, width):
    frames = [np.full((height, width, 3), value, np.uint8) for value in (20, 120, 220)]
    with av.open(str(tmp_path / "odd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    found = [frame for _, frame in read_frames(tmp_path / "odd.mp4")]
    assert [frame.shape for frame in found] == [(height, width, 3)] * 3
    assert np.abs(np.array(found, int) - np.array(frames, int)).max() < 12


def test_what_is_no_video_is_a_value_error(tmp_path):
    for name, content in [
        ("text.avi", b"no video"),
        ("page.mp4", b"<!DOCTYPE html><html></html>"),
        ("empty.mp4", b""),
        ("noise.avi", bytes(range(256)) * 20),
    ]:
        (tmp_path / name).write_bytes(content)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    (tmp_path / "folder.avi").mkdir()
    for name in ("text.avi", "page.mp4", "folder.avi", "empty.mp4", "noise.avi", "sound.wav", "nowhere.avi"):
        for reader in (lambda path: next(read_frames(path)), probe):
            with pytest.raises(ValueError, match=name):
                reader(tmp_path / name)


def test_an_avi_without_frames_is_a_value_error(make):
    path = make()
    path.write_bytes(path.read_bytes()[: chunks(path)[0]])
    with pytest.raises(ValueError, match=r"video\.avi"):
        list(read_frames(path))


@pytest.mark.parametrize("name", ["none.avi", "none.mp4", "none.mkv"])
def test_a_video_that_was_never_filled_is_a_value_error(tmp_path, name):
    """A recording stopped before its first frame."""
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    for reader in (lambda path: list(read_frames(path)), probe):
        with pytest.raises(ValueError, match=name):
            reader(tmp_path / name)
    try:
        assert frame_count(tmp_path / name) == 0
    except ValueError as error:  # without a frame some containers do not open
        assert name in str(error)


def test_writing_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.avi", [], fps=8)
    with pytest.raises(ValueError, match="expected frames"):
        write_video(tmp_path / "a.avi", [picture(0), picture(1, 32)], fps=8)
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "a.avi", [np.zeros((33, 48, 3), np.uint8)], fps=8)
    with pytest.raises(ValueError, match="cannot write"):
        write_video(tmp_path / "a.avi", [picture(0)], fps=8, codec="????")


def test_the_same_frames_give_the_same_file(make):
    assert make("a.avi").read_bytes() == make("b.avi").read_bytes()


MEASURE = """
import re, sys
from pathlib import Path
from thesis_lib.data import video

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, seen = peak(), 0
for index, frame in video.read_frames(sys.argv[1], damaged=sys.argv[2]):
    seen += 1
    if seen == 300:
        early = peak()
print(seen, early - before, peak() - early)
"""


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Ten minutes, 330 MB decoded: FFmpeg's memory counts, so that of the process is measured, not Python's."""
    count, path = 18_000, tmp_path / "long.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        (packet,) = stream.encode(av.VideoFrame.from_ndarray(picture(0, 64, 96), format="rgb24"))
        for number in range(count):
            packet.pts = packet.dts = number
            container.mux(packet)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, str(path), "repeat"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    seen, opened, grown = map(int, done.stdout.split())
    assert seen == count and grown < 4 * 1024, f"{grown} KiB more after the first ten seconds"
    assert opened < 48 * 1024, f"{opened} KiB for the index and the first frames"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/videos")
@pytest.mark.parametrize(
    "name, header, count, missing",
    [
        ("flipping_a_pancake.mkv", None, 310, ()),
        ("corrupted.mp4", 50, 50, (30,)),
        ("mmaction2_test.avi", 164, 164, ()),
        ("mmaction2_demo.mp4", 280, 280, ()),
    ],
)
def test_real_files(name, header, count, missing):
    info = probe(SHARED / name)
    assert (info.header_count, info.count, info.missing) == (header, count, missing)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/videos")
def test_the_damaged_frame_of_a_real_file_is_skipped_or_repeated_by_choice():
    """corrupted.mp4 of decord's tests, where other readers end at frame 28."""
    skipped = dict(read_frames(SHARED / "corrupted.mp4"))
    repeated = dict(read_frames(SHARED / "corrupted.mp4", damaged="repeat"))
    assert list(skipped) == [*range(30), *range(31, 50)] and list(repeated) == list(range(50))
    np.testing.assert_array_equal(repeated[30], skipped[29])
    assert all(np.array_equal(repeated[index], frame) for index, frame in skipped.items())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/videos")
def test_real_frames_are_those_of_opencv():
    """An independent reader, on a file with B-frames in an AVI and a sound track."""
    capture = cv2.VideoCapture(str(SHARED / "mmaction2_test.avi"))
    for index, frame in read_frames(SHARED / "mmaction2_test.avi"):
        ok, reference = capture.read()
        assert ok and np.abs(frame.astype(int) - reference[..., ::-1].astype(int)).mean() < 3, index


@pytest.mark.parametrize(
    "name, codec", [("c.avi", "MJPG"), ("c.avi", "XVID"), ("c.mp4", "libx264"), ("c.avi", "mpeg4")]
)
@pytest.mark.parametrize("fps", [8, 5, 16])
def test_a_clip_is_what_reading_the_whole_file_shows_at_its_times(make, tmp_path, name, codec, fps):
    """8 frames a second: at time t the frame floor(8 t) is on the screen."""
    path = make(name, codec) if codec in ("MJPG", "XVID") else encode(tmp_path / name, codec)
    for start in (0.0, 0.4, 2.5, 3.3, 5.9):
        numbers = [number_of(frame) for frame in read_clip(path, start, 6, fps)]
        assert numbers == [min(int(8 * (start + step / fps) + 1e-4), COUNT - 1) for step in range(6)], start


def test_a_clip_past_the_end_repeats_the_last_frame_and_what_is_no_video_says_so(make, tmp_path):
    assert [number_of(frame) for frame in read_clip(make("c.avi", "MJPG"), 6.0, 4, 8)] == [48, 49, 49, 49]
    (tmp_path / "text.avi").write_text("not a video")
    with pytest.raises(ValueError, match="not a readable video"):
        read_clip(tmp_path / "text.avi", 0, 2, 8)
