"""What fairseq examples/MMPT does with captions before it trains on them; none of it is done unless asked for.

Captions by speech recognition scroll: one repeats the end of the one before it.
"""

import numpy as np

from .captions import Captions


def merge_overlaps(captions: Captions, rng: np.random.Generator) -> Captions:
    """Say once what neighbouring captions both say (mmpt/processors/dedupprocessor.py).

    A caption that is the end of the one before, or the other way round its continuation from the first letter, becomes
    one with it. Where just an end and a beginning agree, the shared part stays with either of the two at random, and
    the earlier one ends where the later one starts; the shortest such part counts, be it one letter, as released.
    """
    starts, ends, texts = [], [], []
    for start, end, text in zip(captions.starts, captions.ends, captions.texts, strict=True):
        text = text.replace("\n", " ").strip()
        if not text:
            continue
        before = texts[-1] if texts else ""
        start = max([start, *starts[-1:]])  # one that was put off holds up the next
        shared = next((n for n in range(1, len(text) + 1) if before.endswith(text[:n])), 0)
        if before and (before.endswith(text) or text.startswith(before)):
            texts[-1] = max(before, text, key=len)
            ends[-1] = max(ends[-1], end)
            continue
        if shared and rng.random() > 0.5:  # it stays with the earlier one
            ends[-1] = max(ends[-1], start)
            start, text = ends[-1], text[shared:].strip()
        elif shared:
            texts[-1] = before[:-shared].strip()
            ends[-1] = min(ends[-1], start)
            if not texts[-1]:
                del starts[-1], ends[-1], texts[-1]
        if text:
            starts.append(start)
            ends.append(max(end, start))
            texts.append(text)
    return Captions(np.array(starts, np.float64), np.array(ends, np.float64), texts)


def cut(captions: Captions, characters: int = 96) -> Captions:
    """Each text to so many characters (mmpt/processors/how2processor.py, PKLJSONStrTextProcessor)."""
    return Captions(captions.starts, captions.ends, [text[:characters] for text in captions.texts])
