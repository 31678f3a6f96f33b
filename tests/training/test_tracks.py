"""The same narrated videos from every layout: files a video, the caption store, MMPT's shards."""

import pickle

import numpy as np
import pytest

from tests.training.test_videoclip import DIM, write_howto
from thesis_lib.data.caption_store import write_store
from thesis_lib.data.captions import read_captions
from thesis_lib.data.ragged import RaggedWriter
from thesis_lib.data.text import Vocabulary
from thesis_lib.training import tracks
from thesis_lib.training.pairs import Pair


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto100m"
    write_howto(root, num_videos=20)
    return root


def as_shards(root, folder, names, part, vocabulary):
    """The features and captions of some videos as MMPT shards them, 6 videos a shard."""
    said = read_captions(root / "raw_caption.json")
    shards = {number: names[start : start + 6] for number, start in enumerate(range(0, len(names), 6))}
    (folder / f"{part}_meta.pkl").write_bytes(pickle.dumps(shards))
    for number, videos in shards.items():
        with (
            RaggedWriter(folder / f"{part}_{number}", np.float16, (DIM,)) as features,
            RaggedWriter(folder / f"bert.{part}_{number}.caps_ids", np.int32, (32,)) as ids,
            RaggedWriter(folder / f"bert.{part}_{number}.startends", np.float32, (2,)) as spans,
        ):
            for name in videos:
                vectors = np.load(root / "features" / f"{name}.npy")
                features.append(vectors, [len(vectors)])
                rows = np.full((len(said[name]), 32), -1)
                for row, pieces in zip(rows, vocabulary.pieces_of(said[name].texts), strict=True):
                    row[: len(pieces)] = pieces
                ids.append(rows, [len(rows)])
                spans.append(np.stack([said[name].starts, said[name].ends], 1), [len(rows)])


def same(one, other, atol=0.0):
    assert one.name == other.name and one.tokens == other.tokens and one.lengths == other.lengths
    np.testing.assert_allclose(one.features, other.features, rtol=0, atol=atol)
    np.testing.assert_allclose(one.captions.starts, other.captions.starts, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.captions.ends, other.captions.ends, rtol=0, atol=1e-5)


def test_the_caption_store_is_taken_where_there_is_one(howto, tmp_path):
    vocabulary = Vocabulary(howto / "vocab.txt")
    whole = tracks.read_tracks(howto / "features", howto, vocabulary)
    write_store(howto / "raw_caption.json", tmp_path / "captions")  # no raw_caption.json beside it
    stored = tracks.read_tracks(howto / "features", tmp_path, vocabulary)
    assert len(stored) == len(whole) == 20
    for index in range(20):
        same(stored[index], whole[index])


def test_shards_are_read_with_their_own_held_out_part(howto, tmp_path):
    vocabulary = Vocabulary(howto / "vocab.txt")
    names = [f"v{number:02d}" for number in range(20)]
    as_shards(howto, tmp_path, names[:15], "train", vocabulary)
    as_shards(howto, tmp_path, names[15:], "val", vocabulary)
    training, held_out = tracks.read_parts(tmp_path, tmp_path, vocabulary, val_videos=3, seed=0)
    assert [track.name for track in training] == names[:15] and [track.name for track in held_out] == names[15:18]
    whole = tracks.read_tracks(howto / "features", howto, vocabulary)
    for index in range(15):
        same(training[index], whole[index], atol=2e-3)  # half precision
    permuted = tracks.read_tracks(tmp_path, tmp_path, vocabulary, permute_seed=1)
    before, after = ([sum(track.tokens, []) for track in one] for one in (training, permuted))
    assert sum(a == b for a, b in zip(before, after, strict=True)) < 3  # of 15: the control of shards is one
    assert sorted(sum(before, [])) == sorted(sum(after, []))
    (tmp_path / "train_1_data.npy").write_bytes(b"damaged")  # six videos
    (tmp_path / "bert.train_0.caps_ids_data.npy").unlink()  # six others
    left = tracks.read_tracks(tmp_path, tmp_path, vocabulary)
    assert [track.name for track in left] == names[12:15]
    permuted = tracks.read_tracks(tmp_path, tmp_path, vocabulary, permute_seed=1)
    assert [track.name for track in permuted] == names[12:15]
    with RaggedWriter(tmp_path / "bert.train_0.caps_ids", np.int32, (32,)) as ids:
        ids.append(np.full((2, 32), 7), [2])  # one video where the meta file has six
    assert [track.name for track in tracks.read_tracks(tmp_path, tmp_path, vocabulary)] == names[12:15]
    (tmp_path / "other.train_0.startends_data.npy").touch()
    with pytest.raises(ValueError, match=r"captions of train: expected one kind.*2 kinds \(bert\., other\.\)"):
        tracks.read_tracks(tmp_path, tmp_path, vocabulary)


def test_parts_share_no_video_and_what_is_kept_is_read_once(howto):
    vocabulary = Vocabulary(howto / "vocab.txt")
    training, held_out = tracks.read_parts(howto / "features", howto, vocabulary, val_videos=6, seed=0)
    names = [track.name for track in training], [track.name for track in held_out]
    assert len(names[1]) == 6 and not set(names[0]) & set(names[1]) and len(set(names[0] + names[1])) == 20
    assert training[3] is training[3]
    lean = tracks.Tracks(training.videos, vocabulary, keep=False)
    assert lean[3] is not lean[3]
    same(lean[3], training[3])
    assert len(tracks.read_parts(howto / "features", howto, vocabulary, val_videos=0, seed=0)[1]) == 0


def test_numbers_that_are_not_finite_are_named_when_they_are_met(howto):
    vocabulary = Vocabulary(howto / "vocab.txt")
    track = tracks.read_tracks(howto / "features", howto, vocabulary)[4]
    track.features[7, 3] = np.nan
    collate = tracks.Collate(vocabulary, 32)
    assert len(collate([(track, Pair(0, 1, 0, 7))])) == 4
    with pytest.raises(ValueError, match=f"features of {track.name}: not finite"):
        collate([(track, Pair(0, 1, 0, 7)), (track, Pair(0, 1, 5, 9))])
