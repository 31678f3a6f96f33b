"""ALPRO learns from narrated videos: clip and caption must meet, match, fill each other's gaps and name a region.

First a prompter is trained to bring clips and captions together, nothing else. Then it teaches: which entities it sees
in a random box of a clip is what the model must tell of that box from the whole clip and its caption. Li et al., Align
and Prompt, CVPR 2022; salesforce/ALPRO src/pretrain/run_pretrain_sparse.py and src/modeling/alpro_models.py.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import ENTITY_RULES, IGNORED, entity_loss, vtc_loss
from thesis_lib.models.alpro import MEAN, STD, Alpro, AlproConfig, TwoTowers
from thesis_lib.models.starts import start_bert
from thesis_lib.models.vit_start import start_timesformer
from thesis_lib.training import distributed
from thesis_lib.training.entities import frequent_words, prompt_texts, random_region
from thesis_lib.training.loop import (
    STEPS_PER_EPOCH,
    choose_device,
    fit,
    num_epochs_of,
    numbered,
    polynomial_decay,
    seed_everything,
)
from thesis_lib.training.narrated_clips import NarratedClips

LOSSES = ("vtc", "vtm", "mlm", "pem")
MAX_TOKENS = 28  # of a caption, besides [CLS] and [SEP]
MASKED = 0.15  # of its words
MODEL, PROMPTER = 0, 1  # what is trained, for seeds
RELEASED_SECONDS = 8.0  # of a clip: the released configuration takes 4 frames at 0.5 a second


def train(
    folder: Path,
    *,
    howto: Path,
    vocab: Path,
    num_steps: int,
    prompter_steps: int,
    batch_size: int,
    lr: float,
    warmup: int,
    frames: int,
    seconds: float,
    size: int,
    patch_size: int,
    hidden_size: int,
    num_attention_heads: int,
    video_layers: int,
    text_layers: int,
    fusion_layers: int,
    embed_dim: int,
    num_entities: int,
    prompts: str = "averaged",
    entity_rule: str = "paper",
    entity_threshold: float = 0.2,
    losses: Sequence[str] = LOSSES,
    prompter: Path | None = None,
    prompter_boxes: bool = False,
    start: str = "random",
    vision: Path | str = "",
    bert: Path | str = "",
    dropout: float = 0.1,
    stochastic_depth: float = 0.1,
    num_videos: int = 0,
    on_demand: bool = False,
    films: Path | str = "",
    captions: str = "true",
    loading_workers: int = 0,
    precision: str = "fp32",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains ALPRO on howto/videos/ and howto/raw_caption.json; `load(folder, vocab)` gives its encoder back.

    losses: those that are summed, some of LOSSES · frames, seconds, size: of a clip, pixels of the short side ·
    text_layers, fusion_layers: of the BERT · num_entities: words of the captions that regions are asked about ·
    prompts="one": one template an entity instead of the mean of twelve · entity_rule, entity_threshold: which regions
    "pem" passes over, see `losses.entity_loss` · num_videos, on_demand, films, captions: as those of NarratedClips ·
    prompter: the folder of one that was trained before; None trains one in folder/prompter, for `prompter_steps` ·
    prompter_boxes: in the second half of these it sees every other clip cut down to a box · vision, bert: file of a ViT
    and folder of a BERT (`vit_start`, `starts`), from which the published model and its prompter start, of just these
    sizes · start="prompter": the model starts from the prompter's encoders, which stand in for these where there are
    none of its sizes.

    Processes that torchrun starts share a batch: "vtc" has all of it as negatives, "vtm" draws them from its process's
    own clips, as in the official code. history.csv has each loss on one batch that is not trained on.
    """
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not losses:
        raise ValueError(f"losses={list(losses)}: expected some of {', '.join(LOSSES)}")
    if start not in ("random", "prompter"):
        raise ValueError(f'start={start!r}: expected "random" or "prompter"')
    if start == "prompter" and (vision or bert):
        raise ValueError('start="prompter" would replace the ViT or the BERT that is given: take start="random"')
    if entity_rule not in ENTITY_RULES:
        raise ValueError(f"entity_rule={entity_rule!r}: expected one of {', '.join(ENTITY_RULES)}")
    if not 0 <= entity_threshold <= 1:
        raise ValueError(f"entity_threshold={entity_threshold}: a probability, so 0 to 1")
    share = distributed.world_size()
    if batch_size % share or batch_size // share < 2:
        raise ValueError(
            f"batch_size={batch_size} on {share} process(es): choose a multiple of their number with 2 clips each at "
            "least, since a clip's negatives are the other ones"
        )
    vocabulary = Vocabulary(vocab)
    source = dict(frames=frames, seconds=seconds, size=size)
    drawn_from = dict(num_videos=num_videos, on_demand=on_demand, films=films)
    clips = NarratedClips(howto, **source, **drawn_from, captions=captions, seed=seed)
    said = (text for name in clips.names for text in clips.said[name].texts)
    entities = frequent_words(said, num_entities) if "pem" in losses else []
    config = AlproConfig(
        size=size,
        patch_size=patch_size,
        num_frames=frames,
        video_layers=video_layers,
        stochastic_depth=stochastic_depth,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=text_layers + fusion_layers,
        fusion_layer=text_layers,
        vocab_size=len(vocabulary),
        dropout=dropout,
        embed_dim=embed_dim,
        num_entities=len(entities),
    )
    device, discarded = choose_device(device), (entity_rule, entity_threshold)

    def learn(folder: Path, model: TwoTowers, losses: Sequence[str], num_steps: int, stage: int, name: str) -> None:
        def batches(epoch: int) -> list[tuple[int, int, int]]:
            return [(*step, part) for step in numbered(epoch, num_steps) for part in range(share)]

        def load(item: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
            epoch, step, part = item
            numbers = range(part * batch_size // share, (part + 1) * batch_size // share)
            batch = draw(clips, vocabulary, patch_size, [(seed, stage, epoch, step, number) for number in numbers])
            late = 2 * ((epoch - 1) * STEPS_PER_EPOCH + step) >= num_steps
            if stage == PROMPTER and prompter_boxes and late:
                batch[0][::2] = cut_out(batch[0][::2], batch[-1][::2])
            return batch

        def held_out(epoch: int) -> dict[str, float]:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                batch = tuple(part.to(device) for part in unseen)
                return {key: float(value) for key, value in objective(model, batch, losses, *discarded).items()}

        unseen = draw(clips, vocabulary, patch_size, [(seed, stage, 0, 0, number) for number in range(batch_size)])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
        fit(
            folder,
            model=model,
            optimizer=optimizer,
            scheduler=polynomial_decay(optimizer, num_steps, warmup),
            batches=batches,
            load=load,
            loss=lambda batch: sum(objective(model, batch, losses, *discarded).values()),
            evaluate=held_out,
            num_epochs=num_epochs_of(num_steps),
            accumulate=share,
            clip_norm=20.0,
            precision=precision,
            seed=seed,
            workers=loading_workers,
            name=name if captions == "true" else f"{name} {captions} {seed}",
            shown=("loss", *losses),
        )

    def begun(towers: TwoTowers) -> TwoTowers:
        reports = [start_timesformer(towers.visual_encoder.model, vision)] if vision else []
        reports += [start_bert(towers.text_encoder, bert, vocab, config, config.num_hidden_layers)] if bert else []
        if reports and distributed.rank() == 0:
            print(*reports, sep="\n", flush=True)
        return towers

    seed_everything(seed)
    model = begun(Alpro(config))
    if entities or start == "prompter":
        towers = begun(TwoTowers(config, config.fusion_layer))
        if prompter is None:
            prompter = Path(folder) / "prompter"
            prompter.mkdir(exist_ok=True)
            learn(prompter, towers.to(device), ("vtc",), prompter_steps, PROMPTER, "alpro prompter")
        weights = _prompter_weights(prompter, towers)
    if start == "prompter":
        model.load_state_dict(weights, strict=False)
    if entities:
        model.prompter.load_state_dict(weights, strict=False)  # entities are not learned, and come next
        words = vocabulary.encode(prompt_texts(entities, prompts), MAX_TOKENS)
        model.prompter.eval().set_entities(*map(torch.from_numpy, words))
    if distributed.rank() == 0:
        about = {"model": asdict(config), "entities": entities} | source
        (Path(folder) / "config.json").write_text(json.dumps(about))
    learn(folder, model.to(device), losses, num_steps, MODEL, "alpro")


def _prompter_weights(folder: Path, towers: TwoTowers) -> dict[str, torch.Tensor]:
    """The weights of a trained prompter, which has the sizes of `towers`."""
    path = Path(folder) / "weights.pt"
    if not path.is_file():
        raise ValueError(f"{path}: no prompter there")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    if {name: x.shape for name, x in weights.items()} != {name: x.shape for name, x in towers.state_dict().items()}:
        raise ValueError(f"{path}: a prompter of other sizes: train it with the sizes that are asked for")
    return weights


# -- batches ---------------------------------------------------------------------------------------------------------


def draw(
    clips: NarratedClips, vocabulary: Vocabulary, patch_size: int, seeds: Sequence[tuple[int, ...]]
) -> tuple[torch.Tensor, ...]:
    """One pair of a clip and a caption from each seed, and what is hidden of it.

    (clips [B, T, 3, H, W] uint8, ids [B, L], mask [B, L] bool, ids with masked words [B, L], labels [B, L] of those
    words, IGNORED elsewhere, regions [B, rows, columns] bool).
    """
    frames, texts, regions, chances = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        clip, text = clips.draw(rng, 1)
        frames.append(clip)
        texts += text
        regions.append(random_region(rng, *(side // patch_size for side in clip.shape[-2:])))
        chances.append(rng.random((3, MAX_TOKENS + 2)))
    ids, mask = vocabulary.encode(texts, MAX_TOKENS)
    masked, labels = mask_words(ids, mask, np.stack(chances)[:, :, : ids.shape[1]], vocabulary)
    return torch.cat(frames), *map(torch.from_numpy, (ids, mask, masked, labels, np.stack(regions)))


def mask_words(
    ids: np.ndarray, mask: np.ndarray, chances: np.ndarray, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """(ids with masked words [B, L], labels [B, L]: the word where one was chosen, IGNORED elsewhere).

    Of the words, 15 % are chosen: 8 of 10 become [MASK], 1 any piece of the vocabulary, 1 stays. chances [B, 3, L] in
    0..1 decide which, what happens to them, and which piece it is.
    """
    words = mask & (ids != vocabulary.cls) & (ids != vocabulary.sep)
    chosen = words & (chances[:, 0] < MASKED)
    any_piece = (chances[:, 2] * len(vocabulary)).astype(ids.dtype)
    replaced = np.where(chances[:, 1] < 0.8, vocabulary.mask, np.where(chances[:, 1] < 0.9, any_piece, ids))
    return np.where(chosen, replaced, ids), np.where(chosen, ids, IGNORED)


def cut_out(clips: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """clips [B, C, T, H, W] or [B, T, C, H, W], black (zeros) outside of regions [B, rows, columns] in all frames."""
    rows, columns = clips.shape[-2] // regions.shape[-2], clips.shape[-1] // regions.shape[-1]
    shown = regions.repeat_interleave(rows, dim=-2).repeat_interleave(columns, dim=-1)
    return clips * shown[:, None, None]


def normalise(clips: torch.Tensor) -> torch.Tensor:
    """clips [B, 3, T, H, W] RGB in 0..1 -> what the model reads."""
    mean, std = (clips.new_tensor(values)[:, None, None, None] for values in (MEAN, STD))
    return (clips - mean) / std


# -- losses ----------------------------------------------------------------------------------------------------------


def objective(
    model: TwoTowers,
    batch: tuple[torch.Tensor, ...],
    losses: Sequence[str],
    entity_rule: str = "paper",
    entity_threshold: float = 0.2,
) -> dict[str, torch.Tensor]:
    """Each of `losses` of a batch as `draw` makes it, a scalar; the prompter, which has no fusion, knows "vtc"."""
    clips, ids, mask, masked, labels, regions = batch
    clips = clips.transpose(1, 2).float() / 255
    video, text = model.encode_video_tokens(normalise(clips)), model.encode_text_tokens(ids, mask)
    video_vectors, text_vectors, temperature = model.project_video(video), model.project_text(text), model.temperature()
    found = {}
    if "vtc" in losses:
        found["vtc"] = vtc_loss(distributed.gather(video_vectors), distributed.gather(text_vectors), temperature)

    pairs = [(text, mask, video)]
    if "vtm" in losses:
        similarities = (video_vectors @ text_vectors.T / temperature).detach()
        for_clip, for_text = hard_negatives(similarities), hard_negatives(similarities.T)
        pairs += [(text, mask, video[for_text]), (text[for_clip], mask[for_clip], video)]
    if "vtm" in losses or "pem" in losses:
        fused = model.fuse(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    if "vtm" in losses:
        belong = torch.arange(len(fused), device=fused.device) < len(video)
        found["vtm"] = F.cross_entropy(model.match_logits(fused), belong.long())
    if "mlm" in losses:
        gaps = model.fuse(model.encode_text_tokens(masked, mask), mask, video)
        logits = model.word_logits(gaps, ids.shape[1]).flatten(0, 1)
        total = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
        found["mlm"] = total / (labels != IGNORED).sum().clamp(min=1)
    if "pem" in losses:
        soft_labels = model.prompter.soft_labels(normalise(cut_out(clips, regions)))
        logits = model.entity_logits(fused[: len(video)], regions.flatten(1))
        found["pem"] = entity_loss(logits, soft_labels, entity_threshold, entity_rule)
    return found


def negative_weights(similarities: torch.Tensor) -> torch.Tensor:
    """similarities [B, B] -> how likely each column is the negative of a row [B, B]: softmax, never its own."""
    if len(similarities) < 2:
        raise ValueError("a batch of one clip has no negatives: take two at least")
    return similarities.float().clone().fill_diagonal_(-torch.inf).softmax(dim=1)


def hard_negatives(similarities: torch.Tensor) -> torch.Tensor:
    """A negative for each row of similarities [B, B], the more similar the likelier: [B] columns."""
    return torch.multinomial(negative_weights(similarities), 1)[:, 0]


# -- what is left of it afterwards -----------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A trained ALPRO as the rest of the project uses it: clips and texts in, vectors out.

    A clip has `frames` frames over `seconds` seconds at `size` pixels; features have `dim` values.
    """

    has_text = True

    def __init__(self, model: Alpro, vocabulary: Vocabulary, frames: int, seconds: float, size: int):
        super().__init__()
        if len(vocabulary) != model.config.vocab_size:
            raise ValueError(f"a vocabulary of {len(vocabulary)} pieces for an ALPRO of {model.config.vocab_size}")
        self.model, self.vocabulary = model, vocabulary
        self.frames, self.seconds, self.size, self.dim = frames, seconds, size, 2 * model.config.hidden_size

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """clips [B, 3, T, S, S] RGB in 0..1 -> [B, dim]: the class token, then the mean of the patches."""
        tokens = self.model.encode_video_tokens(normalise(clips))
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        """clips [B, 3, T, S, S] RGB in 0..1 -> [B, E] of unit length."""
        return self.model.embed_video(normalise(clips))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """[K, E] of unit length, comparable with those of clips."""
        device = self.model.temp.device
        return self.model.embed_text(
            *(torch.from_numpy(x).to(device) for x in self.vocabulary.encode(texts, MAX_TOKENS))
        )


def load(path: Path, vocab: Path) -> Encoder:
    """The encoder, in eval mode, of a folder that `train` wrote or of a file that was released."""
    from thesis_lib.models.official import load_official

    if not Path(path).is_dir():
        model = load_official("alpro", path)[0]
        return Encoder(model, Vocabulary(vocab), model.config.num_frames, RELEASED_SECONDS, model.config.size).eval()
    model, about = load_model(path)
    return Encoder(model, Vocabulary(vocab), about["frames"], about["seconds"], about["size"]).eval()


def load_model(folder: Path) -> tuple[Alpro, dict]:
    """The whole model of a folder in eval mode, and its config.json: model, entities, frames, seconds, size."""
    about = json.loads((Path(folder) / "config.json").read_text())
    model = Alpro(AlproConfig(**about["model"]))
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", map_location="cpu", weights_only=True))
    return model.eval(), about
