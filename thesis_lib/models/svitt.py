"""SViTT: a sparse video transformer, a BERT, and the BERT's last layers as their fusion.

All patches of a clip are one sequence with one [CLS]; the video encoder is a BEiT with biases for relative positions in
time and space. Parameter names are those of the official checkpoints (Li et al., SViTT: Temporal Learning of Sparse
Video-Text Transformers, CVPR 2023; JerryYLi/svitt models/model_retrieval_base.py, sparse_xbeit.py, sparse_xbert.py).
SViTT-Ego (Valdez, Min and Tripathi, 2024) is this model trained with `losses.ego_nce_loss`.

An official checkpoint holds its configuration as a pickled OmegaConf, which is refused as code that wants to run:
load_official("svitt", path, trust=True) where omegaconf is installed, or save it again there without, as
torch.save({"model": torch.load(path, weights_only=False)["model"]}, new_path).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.kinds import Kind, count
from thesis_lib.models.sparse_attention import (
    RelativePositionBias,
    SparseSelfAttention,
    count_edges,
    inflate,
    keep_rows,
    keep_tokens,
    sparse_pattern,
    stretch,
)
from thesis_lib.models.stochastic_depth import leave_out
from thesis_lib.models.videoclip import Embeddings, Layer, Residual

__all__ = [
    "MEAN",
    "STD",
    "RelativePositionBias",
    "SViTT",
    "SViTTConfig",
    "SparseSelfAttention",
    "count_edges",
    "expand",
    "inflate",
    "keep_tokens",
    "sparse_pattern",
    "stretch",
]

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of BEiT (dataset/__init__.py)
TEMPERATURES = 0.001, 0.5  # between which the learned one is held


@dataclass(frozen=True)
class SViTTConfig:
    frames: int = 4  # at most; shorter clips are read too
    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 768  # of both towers
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    video_layers: int = 12
    layer_scale: float = 0.1  # with which lambda_1 and lambda_2 begin
    stochastic_depth: float = 0.1  # chance to leave out the last layer's branches, 0 for the first, linear between
    sparse_edges: tuple[int, int] | None = (1, 3)  # local and random blocks; None: dense
    block: int = 56  # patches
    pattern_seed: int = 0
    keep_rate: float = 0.7  # of the patches, after each of the layers drop_after
    drop_after: tuple[int, ...] = (3, 6, 9)  # counted from 0; layers that the model lacks are passed over
    vocab_size: int = 30522
    text_layers: int = 12
    fusion_layer: int = 9  # the first of the text layers that look at the video
    fusion_keep_rate: float = 0.1  # of the patches that are left; the released code reads it nowhere: 1 in effect
    fusion_drop_after: tuple[int, ...] = (10,)
    max_position_embeddings: int = 512
    dropout: float = 0.1  # of the text
    embed_dim: int = 256

    @property
    def window(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches."""
        return self.frames, self.image_size // self.patch_size, self.image_size // self.patch_size


class SViTT(nn.Module):
    """encode_video and encode_text, project_video and project_text into the shared space, fuse and word_logits."""

    def __init__(self, config: SViTTConfig | None = None):
        super().__init__()
        self.config = config = config or SViTTConfig()
        if not 0 <= config.fusion_layer < config.text_layers:
            raise ValueError(f"SViTT: fusion_layer {config.fusion_layer} is none of {config.text_layers} text layers")
        self.vision_encoder = VideoEncoder(config)
        self.vision_layernorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.text_encoder = FusionBert(config)
        self.vision_proj = nn.Linear(config.hidden_size, config.embed_dim)
        self.text_proj = nn.Linear(config.hidden_size, config.embed_dim)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.itm_head = nn.Linear(config.hidden_size, 2)
        self.apply(_initialise(config.hidden_size))

    def encode_video(self, clip):
        """Normalised clip [B, 3, T, H, W] -> (states [B, 1 + n, D] of [CLS] and the kept patches, pooled [B, D])."""
        states, pooled, _ = self.vision_encoder(clip)
        return self.vision_layernorm(states), pooled

    def encode_text(self, ids, mask):
        """ids [B, L] = [CLS] words [SEP] padding, mask [B, L] bool -> states [B, L, D]; the first is the text's."""
        return self.text_encoder.read(ids, mask)

    def fuse(self, text, mask, video):
        """States of texts [B, L, D], their mask [B, L] and states of videos [B, 1 + n, D] -> [B, L, D]."""
        return self.text_encoder.fuse(text, mask, video)[0]

    def project_video(self, pooled):
        """[B, D] -> [B, E], unit length."""
        return F.normalize(self.vision_proj(pooled), dim=-1)

    def project_text(self, states):
        """[B, L, D] -> [B, E], unit length."""
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def temperature(self):
        """The learned temperature, first brought back between its limits."""
        with torch.no_grad():
            self.temp.clamp_(*TEMPERATURES)
        return self.temp


# -- video -------------------------------------------------------------------------------------------------------------


class VideoEncoder(nn.Module):
    """clip [B, 3, T, H, W] -> (states [B, 1 + n, D], pooled [B, D], kept patches [B, m] after each pruned layer)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = Patches(config)
        self.encoder = SparseEncoder(config)
        self.pooler = nn.ModuleDict({"layernorm": nn.LayerNorm(config.hidden_size, eps=1e-12)})

    def forward(self, clip):
        config, (_, channels, frames, height, width) = self.config, clip.shape
        if not 1 <= frames <= config.frames or (channels, height, width) != (3, config.image_size, config.image_size):
            most, size = config.frames, config.image_size
            raise ValueError(f"SViTT reads clips [B, 3, 1..{most}, {size}, {size}], not {list(clip.shape)}")
        states, kept = self.encoder(self.embeddings(clip))
        return states, self.pooler["layernorm"](states[:, 1:].mean(dim=1)), kept


class Patches(nn.Module):
    """[CLS] and the patches of all frames, one frame after the other: [B, 3, T, H, W] -> [B, 1 + N, D]."""

    def __init__(self, config):
        super().__init__()
        size, width = config.patch_size, config.hidden_size
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))  # of zeros it would look at all patches alike
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, kernel_size=size, stride=size)})

    def forward(self, clip):
        frames = self.patch_embeddings["projection"](clip.transpose(1, 2).flatten(0, 1))  # [B * T, D, h, w]
        patches = frames.flatten(2).unflatten(0, (len(clip), -1)).transpose(2, 3).flatten(1, 2)
        return torch.cat([self.cls_token.expand(len(clip), -1, -1), patches], dim=1)


class SparseEncoder(nn.Module):
    """The layers of a BEiT: tokens [B, 1 + N, D] -> ([B, 1 + n, D], kept patches [B, m] after each pruned layer).

    Kept patches are numbered as they came in. Each layer has a pattern of edges of its own, which follows from
    pattern_seed, the number of the layer and that of the blocks.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList(VideoLayer(config, number) for number in range(config.video_layers))

    def pattern(self, number: int, num_patches: int, device="cpu"):
        """The edges [blocks, k] of layer `number` among so many patches; None where attention is dense."""
        if self.config.sparse_edges is None:
            return None
        blocks = -(-num_patches // self.config.block)
        return sparse_pattern(blocks, *self.config.sparse_edges, (self.config.pattern_seed, number), str(device))

    def forward(self, x):
        config, kept = self.config, []
        positions = torch.arange(x.shape[1] - 1, device=x.device)[None]
        for number, layer in enumerate(self.layer):
            x, from_cls = layer(x, self.pattern(number, x.shape[1] - 1, x.device), positions)
            if number in config.drop_after and config.keep_rate < 1:
                rows = keep_tokens(from_cls, config.keep_rate)
                x, positions = keep_rows(x, rows), positions.expand(len(x), -1).gather(1, rows)
                kept.append(positions)
        return x, kept


class VideoLayer(nn.Module):
    """Attention and a feed-forward network, each with LayerNorm before it and a scale for every channel after it."""

    def __init__(self, config, number: int):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        attention = SparseSelfAttention(width, heads, config.window, config.block)
        self.attention = nn.ModuleDict({"attention": attention, "output": _dense(width, width)})
        self.intermediate = _dense(width, config.intermediate_size)
        self.output = _dense(config.intermediate_size, width)
        self.layernorm_before, self.layernorm_after = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.lambda_1, self.lambda_2 = (nn.Parameter(torch.full((width,), config.layer_scale)) for _ in range(2))
        self.stochastic_depth = config.stochastic_depth * number / max(1, config.video_layers - 1)

    def forward(self, x, pattern, positions):
        """x [B, 1 + N, D] -> (x, attention of [CLS] [B, heads, 1, 1 + N])."""
        attended, from_cls = self.attention["attention"].attend(self.layernorm_before(x), pattern, positions)
        branch = self.lambda_1 * self.attention["output"]["dense"](attended)
        x = x + leave_out(branch, self.stochastic_depth, self.training)
        hidden = F.gelu(self.intermediate["dense"](self.layernorm_after(x)))
        branch = self.lambda_2 * self.output["dense"](hidden)
        return x + leave_out(branch, self.stochastic_depth, self.training), from_cls


def _dense(inputs, outputs):
    return nn.ModuleDict({"dense": nn.Linear(inputs, outputs)})


# -- text and fusion ---------------------------------------------------------------------------------------------------


class FusionBert(nn.Module):
    """A BERT that reads texts with its first layers and looks at videos with the others."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        first = [Layer(config) for _ in range(config.fusion_layer)]
        others = [FusionLayer(config) for _ in range(config.fusion_layer, config.text_layers)]
        encoder = nn.ModuleDict({"layer": nn.ModuleList(first + others)})
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})
        words = self.bert["embeddings"].word_embeddings
        self.cls = nn.ModuleDict({"predictions": WordPredictions(config, words.weight)})

    def read(self, ids, mask):
        embeddings = self.bert["embeddings"]
        states = embeddings(embeddings.word_embeddings(ids), torch.arange(ids.shape[1], device=ids.device))
        for layer in self.bert["encoder"]["layer"][: self.config.fusion_layer]:
            states = layer(states, mask[:, None, None])
        return states

    def fuse(self, states, mask, video):
        """(states [B, L, D], kept patches [B, m] after each pruned layer, of those that `video` has).

        After the layers of fusion_drop_after, later ones see only the patches that the text's [CLS] looked at most.
        [CLS] of the video always stays.
        """
        config, kept = self.config, []
        places = torch.arange(video.shape[1] - 1, device=video.device).expand(len(video), -1)
        for number, layer in enumerate(self.bert["encoder"]["layer"][config.fusion_layer :], config.fusion_layer):
            states, from_cls = layer(states, mask[:, None, None], video)
            if number in config.fusion_drop_after and config.fusion_keep_rate < 1:
                rows = keep_tokens(from_cls, config.fusion_keep_rate)
                video, places = keep_rows(video, rows), places.gather(1, rows)
                kept.append(places)
        return states, kept

    def word_logits(self, states):
        """States [..., D] -> scores of all words [..., vocab_size]."""
        return self.cls["predictions"](states)


class FusionLayer(Layer):
    """BERT's layer with attention to a video between its two halves."""

    def __init__(self, config):
        super().__init__(config)
        residual = Residual(config.hidden_size, config)
        self.crossattention = nn.ModuleDict({"self": CrossAttention(config), "output": residual})

    def forward(self, x, mask, video):
        """x [B, L, D], mask [B, 1, 1, L], video [B, 1 + n, D] -> (x, what [CLS] looks at [B, heads, 1, 1 + n])."""
        x = self.attention.output(self.attention.self(x, mask), x)
        seen, from_cls = self.crossattention["self"](x, video)
        x = self.crossattention["output"](seen, x)
        return self.output(F.gelu(self.intermediate.dense(x)), x), from_cls


class CrossAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, video):
        """x [B, L, D] and video [B, 1 + n, D] -> ([B, L, D], attention of the first token [B, heads, 1, 1 + n])."""
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, states in ((self.query, x), (self.key, video), (self.value, video))
        )
        shares = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
        return (self.dropout(shares) @ value).transpose(1, 2).flatten(2), shares[:, :, :1]


class WordPredictions(nn.Module):
    """Scores of all words, with the weights of the word embeddings."""

    def __init__(self, config, words):
        super().__init__()
        width = config.hidden_size
        norm = nn.LayerNorm(width, eps=1e-12)
        self.transform = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": norm})
        self.decoder = nn.Linear(width, config.vocab_size)
        self.decoder.weight = words
        self.bias = self.decoder.bias  # files have it twice

    def forward(self, states):
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](states))))


# -- weights -----------------------------------------------------------------------------------------------------------


def expand(weights: dict, frames: int, new_frames: int, mode: str = "nearest-exact") -> dict:
    """Temporal sparse expansion: the state dict of a model of `frames` frames for one of `new_frames`."""
    tables = {name for name in weights if name.endswith("relative_position_bias_table")}
    return {
        name: stretch(value, frames, new_frames, mode) if name in tables else value
        for name, value in weights.items()
        if not name.endswith("relative_position_index")
    }


def _initialise(width: int):
    """BERT's and BEiT's initialisation: biases 0, weights normal with standard deviation 0.02 at their width of 768.

    Narrower models get larger weights, so that signals pass as they do there. Position biases are drawn too: of zeros,
    as BEiT begins, attention is blind to places until they have grown, which a short training does not see.
    """

    def initialise(module):
        if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv2d)):
            nn.init.normal_(module.weight, std=0.02 * (768 / width) ** 0.5)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, RelativePositionBias):
            nn.init.normal_(module.relative_position_bias_table)

    return initialise


# -- official files --------------------------------------------------------------------------------------------------


def _sizes(tensors):
    layer, bert = "vision_encoder.encoder.layer.", "text_encoder.bert."
    bias = layer + "0.attention.attention.relative_position_bias.relative_position_"
    distances, heads = tensors[bias + "bias_table"].shape
    patches = len(tensors[bias + "index"]) - 1
    sides = [side for side in range(1, patches + 1) if patches % side**2 == 0]
    fits = [side for side in sides if (2 * patches // side**2 - 1) * (2 * side - 1) ** 2 + 3 == distances]
    if not fits:
        raise ValueError(f"{bias}bias_table has {distances} rows, which no {patches} patches in square frames have")
    width, _, patch_size, _ = tensors["vision_encoder.embeddings.patch_embeddings.projection.weight"].shape
    vocab_size, _ = tensors[bert + "embeddings.word_embeddings.weight"].shape
    text_layers = count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.")
    return {
        "frames": patches // fits[0] ** 2,
        "image_size": patch_size * fits[0],
        "patch_size": patch_size,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": len(tensors[layer + "0.intermediate.dense.weight"]),
        "video_layers": count(tensors, r"vision_encoder\.encoder\.layer\.(\d+)\."),
        "vocab_size": vocab_size,
        "text_layers": text_layers,
        "fusion_layer": text_layers - count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.crossattention"),
        "max_position_embeddings": len(tensors[bert + "embeddings.position_embeddings.weight"]),
        "embed_dim": len(tensors["vision_proj.weight"]),
    }


def _example(model):
    size, last = model.config.image_size, model.config.vocab_size - 1
    states, pooled = model.encode_video(torch.randn(1, 3, model.config.frames, size, size))
    words = model.encode_text(torch.full((1, 4), last), torch.ones(1, 4, dtype=torch.bool))
    fused = model.fuse(words, torch.ones(1, 4, dtype=torch.bool), states)[:, 0]
    return torch.cat([model.project_video(pooled), model.project_text(words), fused], dim=1)


OFFICIAL = {
    "svitt": Kind(
        build=lambda **config: SViTT(SViTTConfig(**config)),
        accepts=SViTTConfig,
        signature=("vision_encoder.embeddings.cls_token", "vision_encoder.encoder.layer.0.lambda_1", "itm_head.weight"),
        sizes=_sizes,
        example=_example,
        dropped=r"embeddings\.position_ids$",
    ),
}
