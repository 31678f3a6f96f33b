"""SViTT and SViTT-Ego learn from narrated videos: which clip and which words belong together, and which words are hid.

Three losses of equal weight, as in JerryYLi/svitt models/model_pretrain.py: contrast of clips and texts (ITC), matching
of pairs by the fusion layers with negatives that look alike (ITM), words masked with probability 0.5 (MLM). SViTT-Ego
replaces the first by EgoNCE, with a second clip of the same scene for each as a negative. Training goes in stages of
more frames and fewer kept patches (temporal sparse expansion).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.data.egoclip import KITCHEN, Scenes, Tags, Taxonomy
from thesis_lib.data.salads import read_mapping
from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import ego_nce_loss, products
from thesis_lib.models.beit_start import start_beit
from thesis_lib.models.official import load_official
from thesis_lib.models.starts import start_bert
from thesis_lib.models.svitt import MEAN, STD, SViTT, SViTTConfig, expand
from thesis_lib.runs import atomic_save
from thesis_lib.training import distributed
from thesis_lib.training.films import MOST_UNREADABLE, around, even
from thesis_lib.training.loop import choose_device, cosine_decay, fit, num_epochs_of, numbered, seed_everything
from thesis_lib.training.narrated_clips import NarratedClips

OBJECTIVES = "itc", "egonce"
MASKED = 0.5  # share of words
MAX_WORDS = 30  # with [CLS] and [SEP] the 32 of the official recipe


class Encoder(nn.Module):
    """A trained SViTT: clips [B, 3, T, S, S] of RGB in 0..1 and texts as vectors."""

    has_text = True

    def __init__(self, model: SViTT, vocabulary: Vocabulary, seconds: float):
        super().__init__()
        if len(vocabulary) > model.config.vocab_size:
            raise ValueError(f"a vocabulary of {len(vocabulary)} pieces, the model knows {model.config.vocab_size}")
        self.model, self.vocabulary, self.seconds = model, vocabulary, seconds
        self.frames, self.size, self.dim = model.config.frames, model.config.image_size, model.config.hidden_size

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """[B, dim]: the mean of the patches that were kept, normalised."""
        return self.model.encode_video(normalised(clips))[1]

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        """[B, E], unit length."""
        return self.model.project_video(self.features(clips))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """[K, E], unit length."""
        return self.model.project_text(self._read(texts)[0])

    def kept(self, clips: torch.Tensor) -> list[torch.Tensor]:
        """Which patches are left after each pruned layer: [B, n] numbers, frame by frame and row by row."""
        return self.model.vision_encoder(normalised(clips))[2]

    def kept_for(self, clips: torch.Tensor, texts: Sequence[str]) -> list[torch.Tensor]:
        """As `kept`, after each pruned layer of fusion: the patches that the text of each clip looks at most."""
        states, left = self.model.vision_encoder(normalised(clips))[::2]
        numbers = left[-1] if left else torch.arange(states.shape[1] - 1, device=states.device).expand(len(states), -1)
        read = self._read(texts)
        kept = self.model.text_encoder.fuse(*read, self.model.vision_layernorm(states))[1]
        return [numbers.gather(1, places) for places in kept]

    def _read(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """States of texts [K, L, D] and their mask [K, L]."""
        ids, mask = (torch.from_numpy(a).to(self.model.temp.device) for a in self.vocabulary.encode(texts, MAX_WORDS))
        return self.model.encode_text(ids, mask), mask


def normalised(clips: torch.Tensor) -> torch.Tensor:
    """RGB in 0..1 as the model wants it."""
    mean, std = (torch.tensor(values, device=clips.device).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (clips - mean) / std


def train(
    folder: Path,
    *,
    howto: Path,
    vocab: Path,
    objective: str,
    stage_frames: Sequence[int],
    stage_keep: Sequence[float],
    num_steps: int,
    batch_size: int,
    lr: float,
    warmup: int,
    seconds: float,
    size: int,
    patch: int,
    width: int,
    heads: int,
    video_layers: int,
    text_layers: int,
    fusion_layer: int,
    embed_dim: int,
    block: int,
    sparse_edges: Sequence[int] = (1, 3),
    drop_after: Sequence[int] = (3, 6, 9),
    fusion_keep_rate: float = 0.1,
    fusion_drop_after: Sequence[int] = (10,),
    layer_scale: float = 0.1,
    stochastic_depth: float = 0.1,
    dropout: float = 0.1,
    last_lr: float = 0.0,
    weight_decay: float = 0.02,
    matching_weight: float = 1.0,
    words_weight: float = 1.0,
    mask_probability: float = MASKED,
    classes: Path | str = "",
    initial: Path | None = None,
    vision: Path | str = "",
    bert: Path | str = "",
    num_videos: int = 0,
    on_demand: bool = False,
    films: Path | str = "",
    captions: str = "true",
    loading_workers: int = 0,
    precision: str = "fp32",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains SViTT (objective="itc") or SViTT-Ego ("egonce") on howto/videos/ and howto/raw_caption.json.

    stage_frames, stage_keep: frames and keep rate of each stage, as [4, 8] and [0.7, 0.6]; each begins with the weights
    of the one before, its position biases stretched in time · num_steps: optimizer steps of each stage, over which lr
    rises for `warmup` of them and falls as a cosine to last_lr (published: 1 %) · seconds: how long a clip is, in all
    stages · size: pixels · patch: pixels of a patch's side · sparse_edges: (local, random) blocks of `block` patches
    that a block attends to, (): dense · drop_after: video layers, counted from 0, after which patches are dropped ·
    fusion_keep_rate and fusion_drop_after: the same in the fusion layers, counted as text layers · matching_weight,
    words_weight: of the losses beside the contrast, official 1; what weighs 0 is not computed · classes: a mapping.txt
    whose verbs and nouns, besides those of kitchens, make two captions the same action (egonce), unless howto/tags.json
    of EgoClip says it · initial: an official checkpoint to begin with · vision, bert: file of a BEiT and folder of a
    BERT (`beit_start`, `starts`) to begin with instead, as published; their sizes must be those given · the rest as in
    `NarratedClips` and `loop.fit`.

    Equal captions of a batch are positives of each other (the official `idx`). Processes that torchrun starts share a
    batch, the same as one alone has; in ITC and EgoNCE each clip has the texts of the whole batch beside it, in ITM
    those of its own process.
    Writes weights.pt, config.json and history.csv; `load` gives it back.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: expected one of {', '.join(OBJECTIVES)}")
    if len(stage_frames) != len(stage_keep) or not len(stage_frames):
        raise ValueError(f"{len(stage_keep)} keep rates for {len(stage_frames)} stages: one for each")
    share, together = distributed.world_size(), {"itc": 1, "egonce": 2}[objective]  # clips that are drawn together
    if batch_size % (share * together) or batch_size // share < 2:
        wanted = f"{share} processes, two or more in each" + ", an even number" * (together > 1)
        raise ValueError(f"batch_size={batch_size} must be a multiple of {wanted}")
    if initial is not None and (vision or bert):
        raise ValueError(f"initial={initial} is a whole model: give it, or a BEiT and a BERT, not both")
    folder, device = Path(folder), choose_device(device)
    taxonomy = KITCHEN | Taxonomy.of_names(read_mapping(classes)) if classes else KITCHEN
    if (tags := Path(howto) / "tags.json").is_file():
        taxonomy = Tags(tags)
    vocabulary = Vocabulary(vocab)
    most = max(stage_frames)
    corpus = NarratedClips(
        howto,
        frames=most,
        seconds=seconds,
        size=size,
        num_videos=num_videos,
        on_demand=on_demand,
        films=films,
        captions=captions,
        seed=seed,
    )
    draw = corpus.draw if objective == "itc" else SceneClips(corpus).draw
    config = SViTTConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        video_layers=video_layers,
        layer_scale=layer_scale,
        stochastic_depth=stochastic_depth,
        sparse_edges=tuple(sparse_edges) or None,
        block=block,
        pattern_seed=seed,
        drop_after=tuple(drop_after),
        vocab_size=len(vocabulary),
        text_layers=text_layers,
        fusion_layer=fusion_layer,
        fusion_keep_rate=fusion_keep_rate,
        fusion_drop_after=tuple(fusion_drop_after),
        max_position_embeddings=512,
        dropout=dropout,
        embed_dim=embed_dim,
    )

    weights, trained_frames, rows = None, 0, []
    if initial is not None:
        start = load_official("svitt", initial)[0]
        weights, trained_frames = start.state_dict(), start.config.frames
    for number, (frames, keep_rate) in enumerate(zip(stage_frames, stage_keep, strict=True), 1):
        config = replace(config, frames=frames, keep_rate=float(keep_rate))
        seed_everything(seed)
        model = SViTT(config).to(device)
        if weights is not None:
            model.load_state_dict(expand(weights, trained_frames, frames))
        elif vision or bert:
            reports = [start_beit(model.vision_encoder, vision)] if vision else []
            reports += [start_bert(model.text_encoder, bert, vocab, config, text_layers)] if bert else []
            if distributed.rank() == 0:
                print(*reports, sep="\n", flush=True)
        else:
            clips, texts = draw(np.random.default_rng(seed), max(64, batch_size))
            ids, mask = (torch.from_numpy(values).to(device) for values in vocabulary.encode(texts, MAX_WORDS))
            whiten(model, clips[:, even(most, frames)].to(device), ids, mask)

        def batches(epoch: int) -> list[tuple[int, int, int]]:
            return [(*step, part) for step in numbered(epoch, num_steps) for part in range(share)]

        def load(item: tuple[int, int, int], frames=frames, number=number):
            *step, part = item
            each = batch_size // together // share
            places = range(part * each, (part + 1) * each)
            drawn = [draw(np.random.default_rng([seed, number, *step, place]), together) for place in places]
            clips, texts = torch.cat([clips for clips, _ in drawn]), [text for _, said in drawn for text in said]
            ids, mask = map(torch.from_numpy, vocabulary.encode(texts, MAX_WORDS))
            words = tuple(map(torch.from_numpy, taxonomy.tags(texts))) if objective == "egonce" else ()
            return clips[:, even(most, frames)], ids, mask, words

        def loss(batch, model=model) -> torch.Tensor:
            return pair_losses(model, *batch, vocabulary, mask_probability, matching_weight, words_weight)

        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        stage = folder / f"stage-{number}"
        if distributed.rank() == 0:
            stage.mkdir(exist_ok=True)
        distributed.wait()
        name = "svitt" if objective == "itc" else "svitt-ego"
        history = fit(
            stage,
            model=model,
            optimizer=optimizer,
            scheduler=cosine_decay(optimizer, num_steps, warmup, last_lr),
            batches=batches,
            load=load,
            loss=loss,
            accumulate=share,
            num_epochs=num_epochs_of(num_steps),
            precision=precision,
            seed=seed,
            workers=loading_workers,
            name=f"{name}, {frames} frames" + f", captions {captions}" * (captions != "true"),
        )
        rows.append(history.assign(stage=number, frames=frames))
        weights, trained_frames = model.state_dict(), frames

    if distributed.rank() == 0:
        saved = {key: value.cpu() for key, value in weights.items()}
        (folder / "config.json").write_text(json.dumps({"model": asdict(config), "seconds": seconds}))
        atomic_save(folder / "history.csv", lambda file: pd.concat(rows).to_csv(file, index=False))
        atomic_save(folder / "weights.pt", lambda file: torch.save(saved, file))
    distributed.wait()


def load(path: Path, vocab: Path, seconds: float = 4.0, **changed) -> Encoder:
    """The encoder, in eval mode, from a folder of train() or an official checkpoint file.

    seconds: of a clip, for an official file, which does not tell and whose words drop no patches, as the released code
    reads fusion_keep_rate nowhere. changed: fields of SViTTConfig that need no other
    weights: sparse_edges=None (dense), keep_rate=1.0, as for accuracy against sparsity.
    """
    path = Path(path)
    if path.is_dir():
        saved = json.loads((path / "config.json").read_text())
        lists = {key: tuple(value) for key, value in saved["model"].items() if isinstance(value, list)}
        model = SViTT(SViTTConfig(**saved["model"] | lists | changed))
        model.load_state_dict(torch.load(path / "weights.pt", weights_only=True))
        seconds = saved["seconds"]
    else:
        model = load_official("svitt", path, **{"fusion_keep_rate": 1.0} | changed)[0]
    return Encoder(model, Vocabulary(vocab), seconds).eval()


class SceneClips:
    """Batches for EgoNCE: half of the clips drawn, then for each another clip of the same video and minute."""

    def __init__(self, corpus: NarratedClips):
        self.corpus = corpus
        self.rows = [(name, number) for name in corpus.names for number in range(len(corpus.said[name]))]
        self.first = dict(zip(corpus.names, np.cumsum([0, *(len(corpus.said[n]) for n in corpus.names)]), strict=False))
        times = [self._middle(*row) for row in self.rows]
        self.scenes = Scenes([name for name, _ in self.rows], times)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
        """`count` clips [B, frames, 3, size, size] uint8 and a caption for each: pairs, then their negatives."""
        pairs = []
        for _ in range(-(-count // 2)):
            for _ in range(MOST_UNREADABLE):
                name = self.corpus.names[rng.integers(len(self.corpus.names))]
                row = int(self.first[name] + rng.integers(len(self.corpus.said[name])))
                both = [self._clip(chosen, rng) for chosen in (row, self.scenes.partner(row, rng))]
                if all(clip is not None for clip, _ in both):
                    break
            else:
                raise ValueError(f"{MOST_UNREADABLE} videos in a row cannot be read")
            pairs.append(both)
        chosen = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        return torch.stack([clip for clip, _ in chosen[:count]]), [text for _, text in chosen[:count]]

    def _clip(self, row: int, rng: np.random.Generator) -> tuple[torch.Tensor | None, str]:
        name, number = self.rows[row]
        centre = self._middle(name, number) + self.corpus.seconds * rng.uniform(-0.5, 0.5)
        clip = around(self.corpus.films[name], centre, self.corpus.frames, self.corpus.seconds)
        return clip, self.corpus.said[name].texts[number]

    def _middle(self, name: str, number: int) -> float:
        said = self.corpus.said[name]
        return (said.starts[number] + said.ends[number]) / 2


def whiten(model: SViTT, clips, ids, mask, noise: float = 0.1) -> None:
    """Sets both projections of a fresh model so that the vectors of these pairs are centred and even.

    Untrained vectors are nearly the same for all clips, and contrast would take long to find where they differ.
    clips [B, T, 3, H, W] uint8; noise: share of the mean variance that is added to each direction.
    """
    with torch.no_grad():
        pooled = model.encode_video(normalised(clips.transpose(1, 2).float() / 255))[1]
        for vectors, layer in ((pooled, model.vision_proj), (model.encode_text(ids, mask)[:, 0], model.text_proj)):
            centred = (vectors - vectors.mean(dim=0)).double()
            variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
            largest = torch.arange(len(variance)).flip(0)[: len(layer.weight)].to(axes.device)
            scales = (variance[largest] + noise * variance.mean()).rsqrt()
            layer.weight[: len(largest)] = (axes[:, largest] * scales).T.to(layer.weight.dtype)
            layer.bias[:] = -layer.weight @ vectors.mean(dim=0)


# -- losses ------------------------------------------------------------------------------------------------------------


def pair_losses(
    model: SViTT,
    clips,
    ids,
    mask,
    words,
    vocabulary: Vocabulary,
    mask_probability: float = MASKED,
    matching_weight: float = 1.0,
    words_weight: float = 1.0,
):
    """The weighted sum of contrast, matching and masked words of B pairs.

    clips [B, T, 3, H, W] uint8, ids and mask [B, L], words: () for ITC, (nouns [B, N], verbs [B, V]) for EgoNCE.
    """
    states, pooled = model.encode_video(normalised(clips.transpose(1, 2).float() / 255))
    text = model.encode_text(ids, mask)
    video_vectors, text_vectors = model.project_video(pooled), model.project_text(text)
    temperature, same = model.temperature(), equal_rows(ids)
    if words:
        nouns, verbs = words
        same = same | ((nouns @ nouns.T > 0) & (verbs @ verbs.T > 0))
        similarities = products(distributed.gather(text_vectors), distributed.gather(video_vectors))
        contrast = ego_nce_loss(similarities, *map(distributed.gather, (nouns, verbs)))
    else:
        similarities = products(distributed.gather(text_vectors), distributed.gather(video_vectors))
        alike = equal_rows(distributed.gather(F.pad(ids, (0, MAX_WORDS + 2 - ids.shape[1]), value=vocabulary.pad)))
        contrast = itc_loss(similarities / temperature, alike)
    loss = contrast
    if matching_weight:
        with torch.no_grad():
            near = products(text_vectors, video_vectors) / temperature
        loss = loss + matching_weight * itm_loss(model, text, mask, states, near, same)
    if words_weight:
        loss = loss + words_weight * mlm_loss(model, ids, mask, states, vocabulary, mask_probability)
    return loss


def equal_rows(ids: torch.Tensor) -> torch.Tensor:
    """Which of the texts ids [B, L] are the same: [B, B] bool."""
    return (ids[:, None] == ids).all(dim=2)


def itc_loss(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scores [B, B] with the positives of each row sharing its target, mean over both directions."""
    targets = positive / positive.sum(dim=1, keepdim=True)  # symmetric
    return (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2


def itm_loss(model: SViTT, text, mask, video, scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Is this pair one? B pairs that are, B texts with another's video and B videos with another's text.

    The other is drawn by the softmax of scores [B texts, B videos], never a positive; rows that have no other are left
    out.
    """
    own = torch.arange(len(text), device=text.device)
    rows = own[~positive.all(dim=1)]
    others = [
        torch.multinomial(table.softmax(dim=1).masked_fill(positive, 0)[rows].clamp(min=1e-12) * ~positive[rows], 1)
        for table in (scores, scores.T)
    ]
    videos, texts = (chosen[:, 0] for chosen in others)
    of_text, of_video = torch.cat([own, rows, texts]), torch.cat([own, videos, rows])
    fused = model.fuse(text[of_text], mask[of_text], video[of_video])
    labels = (torch.arange(len(of_text), device=text.device) < len(own)).long()
    return F.cross_entropy(model.itm_head(fused[:, 0]).float(), labels)


def mlm_loss(model: SViTT, ids, mask, video, vocabulary: Vocabulary, probability: float) -> torch.Tensor:
    """Mean cross-entropy of the masked words, read beside the video; 0 where none is masked."""
    masked, targets = mask_words(ids, mask, vocabulary, probability)
    fused = model.fuse(model.encode_text(masked, mask), mask, video)
    chosen = targets >= 0
    logits = model.text_encoder.word_logits(fused[chosen]).float()
    return F.cross_entropy(logits, targets[chosen], reduction="sum") / chosen.sum().clamp(min=1)


def mask_words(ids, mask, vocabulary: Vocabulary, probability: float):
    """(ids with words hidden, targets: the true id there and -1 elsewhere), as BERT: of those chosen 80 % become
    [MASK], 10 % a random piece, 10 % stay. [CLS] and padding never are chosen; [SEP] may be, as in the official code.
    """
    chosen = (torch.rand(ids.shape, device=ids.device) < probability) & mask & (ids != vocabulary.cls)
    fate = torch.rand(ids.shape, device=ids.device)
    hidden = torch.where(chosen & (fate < 0.8), vocabulary.mask, ids)
    pieces = torch.randint_like(ids, len(vocabulary))
    hidden = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), pieces, hidden)
    return hidden, torch.where(chosen, ids, -1)
