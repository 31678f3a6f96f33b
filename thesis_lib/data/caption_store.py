"""Captions of a million videos on disk, memory-mapped: made once from raw_caption.json, opened in seconds.

    python -m thesis_lib.data.caption_store data/howto100m/raw_caption.json data/howto100m/captions

folder/names.npy      [V] video ids
folder/spans_*.npy    start and end of each caption, float32, a row of `Ragged` a video
folder/items_*.npy    a row a caption: UTF-8 bytes of its text, or int32 word piece ids with --vocab
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from .caption_cleanup import cut, merge_overlaps
from .captions import Captions, iterate_captions
from .name_index import NameIndex
from .ragged import Ragged, RaggedWriter


class CaptionStore(Mapping[str, Captions]):
    """A folder written by `write_store`: video -> captions, whose texts or tokens are read when they are asked for.

    56 bytes of memory a video (for ids of 11 letters), whatever is said. Raises ValueError if a file is missing.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "names.npy").is_file():
            raise ValueError(f"{folder}: no names.npy: make the folder with `python -m thesis_lib.data.caption_store`")
        self._index = NameIndex(np.load(folder / "names.npy"))
        self._spans, self._items = Ragged.open(folder / "spans"), Ragged.open(folder / "items")
        if (len(self._spans), len(self._items)) != (len(self._index), len(self._spans.data)):
            raise ValueError(f"{folder}: names, spans and items do not belong together: make the folder again")

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._index.names)

    def __contains__(self, name: object) -> bool:
        try:
            return self._index[name] >= 0
        except KeyError:
            return False

    def __getitem__(self, name: str) -> Captions:
        row = self._index[name]
        spans = self._spans[row].astype(np.float64)
        first = int(self._spans.starts[row])
        items = _Rows(self._items, range(first, first + len(spans)))
        if self._items.data.dtype == np.uint8:
            return Captions(spans[:, 0], spans[:, 1], texts=items)
        return Captions(spans[:, 0], spans[:, 1], tokens=items)


class _Rows(Sequence):
    """Some rows of a `Ragged`, bytes decoded to text."""

    def __init__(self, items: Ragged, rows: range):
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return _Rows(self.items, self.rows[index])
        item = np.asarray(self.items[self.rows[index]])
        return item.tobytes().decode() if item.dtype == np.uint8 else item


def write_store(
    path: str | Path,
    folder: str | Path,
    clean: Sequence[Callable[[Captions], Captions]] = (),
    encode: Callable[[Sequence[str]], Sequence[Sequence[int]]] | None = None,
) -> int:
    """raw_caption.json -> folder; returns the number of videos, a few of which are in memory at a time.

    clean: steps of `caption_cleanup`, in order. encode: texts -> word piece ids of each, which are stored instead.
    Raises ValueError for a file that is none, or names a video twice; the folder is then of no use.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names.npy").unlink(missing_ok=True)  # written last: without it the folder does not open
    names = []
    kind = np.uint8 if encode is None else np.int32
    with RaggedWriter(folder / "spans", np.float32, (2,)) as spans, RaggedWriter(folder / "items", kind) as items:
        for name, said in iterate_captions(path):
            for step in clean:
                said = step(said)
            names.append(name)
            spans.append(np.stack([said.starts, said.ends], axis=1), [len(said)])
            rows = [text.encode() for text in said.texts] if encode is None else encode(said.texts)
            data = np.frombuffer(b"".join(rows), np.uint8) if encode is None else list(chain.from_iterable(rows))
            items.append(data, [len(row) for row in rows])
    NameIndex(names)
    np.save(folder / "names.npy", np.array(names, np.str_))
    return len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("raw_caption", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--merge-overlaps", action="store_true", help="say once what captions repeat, as MMPT does")
    parser.add_argument("--characters", type=int, help="cut each caption to so many (MMPT: 96)")
    parser.add_argument("--vocab", type=Path, help="vocab.txt: store word pieces instead of text")
    parser.add_argument("--tokens", type=int, default=32, help="cut each caption to so many word pieces (MMPT: 32)")
    arguments = parser.parse_args()
    clean = [partial(merge_overlaps, rng=np.random.default_rng(0))] if arguments.merge_overlaps else []
    clean += [partial(cut, characters=arguments.characters)] if arguments.characters else []
    encode = None
    if arguments.vocab:
        from .text import Vocabulary

        encode = partial(Vocabulary(arguments.vocab).pieces_of, max_tokens=arguments.tokens)
    count = write_store(arguments.raw_caption, arguments.folder, clean, encode)
    print(f"{count:,} videos in {arguments.folder}")


if __name__ == "__main__":
    main()
