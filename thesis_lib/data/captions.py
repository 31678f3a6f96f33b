"""What is said in a video and when; raw_caption.json of HowTo100M, read a video at a time.

The file of 1.2 million videos has several GB, and ten times that as Python objects: `caption_store` keeps it on disk.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PIECE = 2**24  # characters read at a time; four times that is more than any video says


@dataclass(frozen=True)
class Captions:
    """What is said in a video: starts [N] and ends [N] in seconds, by start, and N texts.

    tokens: word piece ids of each caption, where it is stored as such; texts are empty then.
    """

    starts: np.ndarray
    ends: np.ndarray
    texts: Sequence[str] = ()
    tokens: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def within(self, seconds: float) -> "Captions":
        """Those that start before `seconds`, none of which ends later."""
        count = int(np.searchsorted(self.starts, seconds))
        tokens = None if self.tokens is None else self.tokens[:count]
        return Captions(self.starts[:count], np.minimum(self.ends[:count], seconds), self.texts[:count], tokens)


def read_captions(path: str | Path) -> dict[str, Captions]:
    """raw_caption.json -> captions of each video, sorted by start.

    Captions without text (the real file holds NaN for some) and those that end before they start are left out.
    """
    return dict(iterate_captions(path))


def iterate_captions(path: str | Path, piece: int = PIECE) -> Iterator[tuple[str, Captions]]:
    """(video, captions) of raw_caption.json one by one, as `read_captions`; `piece` characters are read at once."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file (raw_caption.json comes with the HowTo100M captions)")
    try:
        for video, entry in _entries(path, piece):
            yield video, _captions(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: expected {{video: {{"start": [], "end": [], "text": []}}}} ({error!r})') from None


def _entries(path: str | Path, piece: int) -> Iterator[tuple[str, Mapping]]:
    """Members of the JSON object in a file, which is never parsed as a whole."""
    parse, separator = json.JSONDecoder().raw_decode, re.compile(r"[\s,]*")
    with open(path, encoding="utf-8") as file:
        text, at = file.read(piece).lstrip(), 1
        if not text.startswith("{"):
            raise ValueError("no JSON object")
        while True:
            at = separator.match(text, at).end()
            if text.startswith("}", at):
                return
            try:
                key, end = parse(text, at)
                colon = re.compile(r"\s*:\s*").match(text, end)
                if not colon:
                    raise json.JSONDecodeError("':' missing", text, end)
                value, end = parse(text, colon.end())
            except json.JSONDecodeError as error:  # the piece ends within a member, or it is none
                more = file.read(piece)
                if not more or len(text) - at > 4 * piece:
                    raise ValueError(f"{error.msg} after {text[at : at + 40]!r}") from None
                text, at = text[at:] + more, 0
                continue
            at = end
            yield key, value


def _captions(entry: Mapping[str, Sequence]) -> Captions:
    rows = zip(entry["start"], entry["end"], entry["text"], strict=True)
    kept = sorted((float(a), float(b), t.strip()) for a, b, t in rows if isinstance(t, str) and t.strip() and b >= a)
    starts, ends, texts = zip(*kept, strict=True) if kept else ((), (), ())
    return Captions(np.array(starts, dtype=np.float64), np.array(ends, dtype=np.float64), list(texts))
