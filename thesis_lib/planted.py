"""Drawn videos with one known thing at a known place: whether boxes that hold it are told from boxes that do not.

Each video of the drawn kitchen cuts four things in random order and says their names, nothing else. The thing lies on
the board, which is always at the same place.
"""

import json
from pathlib import Path

import numpy as np

from thesis_lib.data.kitchen import FPS, Kitchen
from thesis_lib.data.text import write_vocab
from thesis_lib.data.video import write_video
from thesis_lib.pseudo_labels import PseudoLabels
from thesis_lib.training import alpro
from thesis_lib.training.entities import TEMPLATES

THINGS = ("tomato", "cheese", "lettuce", "cucumber")
PHRASES = ("{}", "now the {}", "take a {}", "this {} is one of my very good", "and you have a {} here")
SECONDS = 2  # of each thing
SIDE, PATCH = 24, 6  # pixels of a frame and of a patch of the model
ROW, COLUMNS = 2, 2  # patches where the thing lies: of the third row, the first two
SETTINGS = dict(num_steps=1, batch_size=32, lr=2e-3, warmup=10, frames=2, seconds=0.5, size=SIDE, patch_size=PATCH)
SETTINGS |= dict(hidden_size=32, num_attention_heads=2, video_layers=1, text_layers=1, fusion_layers=1, embed_dim=16)
SETTINGS |= dict(num_entities=len(THINGS), dropout=0.0, stochastic_depth=0.0, prompter_boxes=True)


def write_corpus(root: Path, num_videos: int = 12, seed: int = 0) -> None:
    """root/videos, root/raw_caption.json and root/vocab.txt, which has all words of the templates."""
    rng = np.random.default_rng(seed)
    (root / "videos").mkdir(parents=True)
    said = {}
    for number in range(num_videos):
        kitchen, order = Kitchen(rng, 0.0), rng.permutation(THINGS)
        frames = [frame for thing in order for frame in kitchen.act("cut", thing, SECONDS * FPS)]
        write_video(root / f"videos/v{number:02d}.avi", frames, FPS)
        starts = [SECONDS * k + 0.75 for k in range(len(THINGS))]
        texts = [str(rng.choice(PHRASES)).format(thing) for thing in order]
        said[f"v{number:02d}"] = {"start": starts, "end": [t + 0.5 for t in starts], "text": texts}
    (root / "raw_caption.json").write_text(json.dumps(said))
    write_vocab(root / "vocab.txt", [*THINGS, *PHRASES, *TEMPLATES])


def train(folder: Path, *, prompter_steps: int, seed: int = 0, device: str = "auto") -> None:
    """An ALPRO whose prompter learned from folder/seen; folder/unseen has other videos to ask it about."""
    for number, name in enumerate(("seen", "unseen")):
        if not (folder / name / "vocab.txt").is_file():
            write_corpus(folder / name, seed=2 * seed + number)
    seen = folder / "seen"
    asked = dict(howto=seen, vocab=seen / "vocab.txt", prompter_steps=prompter_steps, seed=seed, device=device)
    alpro.train(folder, **asked, **SETTINGS)


def right(found: PseudoLabels) -> dict[str, np.ndarray]:
    """Whether the likeliest entity is the thing that is there, for each box that "holds it" and that "leaves it out".

    Boxes that show a part of its row are left aside: some pieces of a thing reach far.
    """
    left, top, width, height = (found.boxes // PATCH).T
    rows = (top <= ROW) & (ROW < top + height)
    held = rows & (left == 0) & (width >= COLUMNS)
    named = [entity in text.split() for ((entity, _),), text in zip(found.top(1), found.captions, strict=True)]
    return {"holds it": np.array(named)[held], "leaves it out": np.array(named)[~rows]}
