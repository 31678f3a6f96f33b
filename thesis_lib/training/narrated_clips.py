"""Clips of narrated videos with what is said around them: the batches of systems that learn from frames and words.

A caption is drawn, then a clip around it. What is said and what is shown hardly ever start together, so the clip is
moved by a random time of up to half its length.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.captions import Captions, iterate_captions
from thesis_lib.training.crops import crop, size_to_read
from thesis_lib.training.films import MOST_UNREADABLE, around, read_films
from thesis_lib.training.pairs import permute_texts


def captions_here(howto: str | Path) -> dict[str, Captions]:
    """The captions of those videos that howto/videos holds; raw_caption.json has those of far more."""
    folder = Path(howto) / "videos"
    here = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
    captions = iterate_captions(Path(howto) / "raw_caption.json") if here else ()
    return {name: said for name, said in captions if name in here}


class NarratedClips:
    """howto/videos and howto/raw_caption.json as pairs of a clip and a caption.

    frames: of a clip, at even times within `seconds` · size: pixels of the short side · num_videos: 0 for all ·
    on_demand: False = small videos, decoded whole, or by `films.decode` into the folder `films` · crop_scales: see
    `crops`; [1.0] leaves clips as they are · flip: half of the clips are mirrored · captions="permuted" exchanges the
    texts of all captions with each other, which leaves nothing to learn of them: the control. `names`: the videos with
    captions that can be read and are long enough. Raises ValueError where there is none.
    """

    def __init__(
        self,
        howto: str | Path,
        *,
        frames: int,
        seconds: float,
        size: int,
        num_videos: int = 0,
        on_demand: bool = False,
        films: str | Path = "",
        crop_scales: Sequence[float] = (1.0,),
        flip: bool = False,
        captions: str = "true",
        seed: int = 0,
    ):
        said = captions_here(howto)
        self.said = permute_texts(said, seed) if captions == "permuted" else said
        names = [name for name in sorted(self.said) if len(self.said[name])][: num_videos or None]
        ends = {name: self.said[name].ends.max() for name in names}
        self.frames, self.seconds, self.size, self.scales, self.flip = frames, seconds, size, tuple(crop_scales), flip
        read, fps = size_to_read(size, self.scales), frames / seconds if on_demand else 0.0
        self.films = read_films(howto, names, read, fps, ends, frames, self.scales == (1.0,), films)
        self.names = list(self.films)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
        """`count` clips [B, frames, 3, size, size] uint8 and a caption for each."""
        pairs = [self._pair(rng) for _ in range(count)]
        return torch.stack([clip for clip, _ in pairs]), [text for _, text in pairs]

    def _pair(self, rng: np.random.Generator) -> tuple[torch.Tensor, str]:
        for _ in range(MOST_UNREADABLE):
            name = self.names[rng.integers(len(self.names))]
            said = self.said[name]
            number = rng.integers(len(said))
            centre = (said.starts[number] + said.ends[number]) / 2 + self.seconds * rng.uniform(-0.5, 0.5)
            if (clip := around(self.films[name], centre, self.frames, self.seconds)) is not None:
                return self._cropped(clip, rng), said.texts[number]
        raise ValueError(f"{MOST_UNREADABLE} videos in a row cannot be read")

    def _cropped(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if self.scales != (1.0,):
            clip = crop(clip, self.size, self.scales, rng)
        return clip.flip(3) if self.flip and rng.random() < 0.5 else clip
