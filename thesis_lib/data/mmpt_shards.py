"""Features and tokenised captions as fairseq examples/MMPT shards them, 4096 videos to a file, memory-mapped.

<folder>/<split>_meta.pkl                       {shard: [video, ...]}; split is train or val
<folder>/<split>_<shard>_{data,starts}.npy      features, see `ragged`
<prefix><split>_<shard>.caps_ids_*.npy          int32 [captions, 32] word piece ids, -1 after the last
<prefix><split>_<shard>.startends_*.npy         float32 [captions, 2] seconds

Sources: scripts/video_feature_extractor/shard_feature.py, scripts/text_token_extractor/pretokenization.py,
mmpt/processors/how2processor.py (ShardedVideoProcessor, ShardedTextProcessor). The prefix of captions is a folder and
the beginning of a name: data/feat/feat_how2_s3d_shard_small/raw_caption_dedup.bert-base-uncased.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .captions import Captions
from .name_index import NameIndex
from .ragged import Ragged


class Shards:
    """Which shard and which of its rows hold a video: names [V] in the order of the shards."""

    def __init__(self, folder: str | Path, split: str):
        self.folder, self.split = Path(folder), split
        meta = read_meta(self.folder / f"{split}_meta.pkl")
        self.shards = list(meta)
        self._firsts = np.cumsum([0, *map(len, meta.values())])
        self._index = NameIndex([name for names in meta.values() for name in names])

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._index.names)

    def place(self, name: str) -> tuple[int, int]:
        """(position of the shard in `shards`, row). Raises KeyError for a video that is in none."""
        position = self._index[name]
        shard = int(np.searchsorted(self._firsts, position, side="right")) - 1
        return shard, position - int(self._firsts[shard])


class FeatureShards(Shards):
    """Features of the videos of a split: a source of `narrated.load_videos`. Lengths are in memory, 8 bytes a video.

    Videos of a shard that is missing or broken raise ValueError when they are asked for; it is raised here if all are.
    """

    def __init__(self, folder: str | Path, split: str):
        super().__init__(folder, split)
        self._starts, self._dims = [], []
        broken = []
        for number, shard in enumerate(self.shards):
            try:
                vectors = self._checked(number, shard)
            except ValueError as error:
                broken.append(error)
                self._starts.append(None)
                self._dims.append(0)
            else:
                self._starts.append(np.array(vectors.starts))
                self._dims.append(vectors.data.shape[1])
        if len(broken) == len(self.shards) > 0:
            raise broken[0]

    def __str__(self) -> str:
        return f"{self.folder}, {self.split}"

    def shape(self, name: str) -> tuple[int, int]:
        """(seconds, D) of a video. Raises KeyError if it is in no shard."""
        shard, row = self.place(name)
        if self._starts[shard] is None:
            raise ValueError(f"{self._path(self.shards[shard])}: missing or broken")
        return int(self._starts[shard][row + 1] - self._starts[shard][row]), self._dims[shard]

    def open(self, name: str) -> np.ndarray:
        """Memory-mapped [seconds, D]. Raises KeyError if the video is in no shard."""
        shard, row = self.place(name)
        return self._open(self.shards[shard])[row]

    def _checked(self, number: int, shard: int) -> Ragged:
        vectors, expected = self._open(shard), self._firsts[number + 1] - self._firsts[number]
        if vectors.data.ndim != 2 or len(vectors) != expected:
            raise ValueError(
                f"{self._path(shard)}: {len(vectors)} rows of {list(vectors.data.shape)}, the meta file "
                f"says {expected} videos of [seconds, D]"
            )
        return vectors

    def _open(self, shard: int) -> Ragged:
        return Ragged.open(self._path(shard))

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.split}_{shard}"


class CaptionShards(Mapping[str, Captions]):
    """Captions of the videos of a split as word pieces, in the same shards: video -> captions with tokens, by start."""

    def __init__(self, shards: Shards, prefix: str | Path):
        self._shards, self._prefix = shards, str(prefix)

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __getitem__(self, name: str) -> Captions:
        shard, row = self._shards.place(name)
        path = f"{self._prefix}{self._shards.split}_{self._shards.shards[shard]}"
        times, pieces = Ragged.open(f"{path}.startends"), Ragged.open(f"{path}.caps_ids")
        if not row < len(times) == len(pieces):
            raise ValueError(
                f"{path}: {len(times)} videos with times, {len(pieces)} with texts; {name} is number {row}"
            )
        spans = np.array(times[row], np.float64).reshape(-1, 2)
        ids = pieces[row]
        if len(ids) != len(spans):
            raise ValueError(f"{path}: {name} has {len(ids)} texts and {len(spans)} times")
        order = np.argsort(spans[:, 0], kind="stable")
        return Captions(spans[order, 0], spans[order, 1], tokens=[ids[i][ids[i] != -1] for i in order])


def sharded(folder: str | Path) -> bool:
    """Whether a folder holds shards."""
    return (Path(folder) / "train_meta.pkl").is_file()


def caption_prefix(folder: str | Path, split: str) -> str:
    """The prefix of the only captions in a folder of features. Raises ValueError for none, and for several kinds."""
    found = {path.name for path in Path(folder).glob(f"*{split}_*.startends_data.npy")}
    prefixes = {re.match(rf"(.*){split}_\d+\.startends_data\.npy", name)[1] for name in found}
    if len(prefixes) != 1:
        seen = f"{len(prefixes)} kinds ({', '.join(sorted(prefixes))})" if prefixes else "none"
        raise ValueError(
            f"{folder}: captions of {split}: expected one kind, <kind>{split}_0.startends_data.npy; {seen}"
        )
    return str(Path(folder) / prefixes.pop())


def read_meta(path: str | Path) -> dict[int, list[str]]:
    """{shard: [video, ...]} of a meta file.

    A pickle can run code when it is read. This reader refuses all but dicts, lists, strings and numbers. Raises
    ValueError for a missing file and for any other content.
    """
    try:
        with open(path, "rb") as file:
            meta = _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file (MMPT's shard_feature.py writes it beside the shards)") from None
    except Exception as error:  # damaged pickles raise nearly anything
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(meta, dict) or not all(
        type(shard) is int and isinstance(names, list) and all(type(name) is str for name in names)
        for shard, names in meta.items()
    ):
        raise ValueError(f"{path}: expected {{shard: [video, ...]}}")
    return meta


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise ValueError(f"names {module}.{name}, which could run code; a meta file holds text and numbers alone")
