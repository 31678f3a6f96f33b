"""ALPRO: a video and a text encoder that meet in a fusion encoder, and a prompter that names what a region shows.

Parameter names are those of the released checkpoints. The video encoder is a TimeSformer whose attention is divided
into time and space; the text encoder is the first layers of a BERT; the other layers fuse: plain self-attention over
the tokens of text and video behind each other. Li et al., Align and Prompt, CVPR 2022; salesforce/ALPRO
src/modeling/alpro_models.py, timesformer/vit.py and xbert.py. Bertasius et al., TimeSformer, ICML 2021.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.losses import products
from thesis_lib.models.kinds import Kind, count
from thesis_lib.models.stochastic_depth import leave_out
from thesis_lib.models.videoclip import Embeddings, Layer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of RGB in 0..1, those of CLIP


@dataclass(frozen=True)
class AlproConfig:
    size: int = 224  # pixels, height and width
    patch_size: int = 16
    num_frames: int = 4
    video_layers: int = 12
    stochastic_depth: float = 0.1
    video_classes: int = 0  # of the classifier that released files carry from TimeSformer; nothing uses it
    hidden_size: int = 768  # of both encoders, as are the heads and the MLPs
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_hidden_layers: int = 12  # of the BERT
    fusion_layer: int = 6  # the first of those that fuse
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    dropout: float = 0.1
    embed_dim: int = 256
    temperature: float = 0.07  # at the start; it is learned
    num_entities: int = 1000  # 0: without prompter and entity head


class TwoTowers(nn.Module):
    """What ALPRO and its prompter share: both encoders, their projections into one space, and the temperature.

    text_layers: how many of the BERT's layers there are, the first ones encode text.
    """

    def __init__(self, config: AlproConfig, text_layers: int):
        super().__init__()
        self.config = config
        self.temp = nn.Parameter(torch.tensor(config.temperature))
        video = TimeSformer(
            config.size,
            config.patch_size,
            config.num_frames,
            config.hidden_size,
            config.video_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.video_classes,
            config.stochastic_depth,
        )
        self.visual_encoder = nn.ModuleDict({"model": video})
        self.text_encoder = nn.ModuleDict({"bert": _Bert(config, text_layers)})
        self.vision_proj = nn.Linear(config.hidden_size, config.embed_dim)
        self.text_proj = nn.Linear(config.hidden_size, config.embed_dim)
        self.text_encoder.apply(_initialise)

    def encode_video_tokens(self, clip):
        """clip [B, C, T, H, W] normalised -> [B, 1 + N, D], averaged over time."""
        return self.visual_encoder.model.encode_video_tokens(clip)

    def encode_text_tokens(self, ids, mask):
        """ids [B, L] = [CLS] words [SEP] padding, mask [B, L] bool (True = a word) -> [B, L, D]."""
        bert = self.text_encoder.bert
        x = bert.embeddings(bert.embeddings.word_embeddings(ids), torch.arange(ids.shape[1], device=ids.device))
        for layer in bert.encoder.layer[: self.config.fusion_layer]:
            x = layer(x, mask[:, None, None])
        return x

    def project_video(self, tokens):
        """Tokens [B, 1 + N, D] -> unit vectors [B, E] of their first."""
        return F.normalize(self.vision_proj(tokens[:, 0]), dim=-1)

    def project_text(self, tokens):
        """Tokens [B, L, D] -> unit vectors [B, E] of their first."""
        return F.normalize(self.text_proj(tokens[:, 0]), dim=-1)

    def embed_video(self, clip):
        """clip [B, C, T, H, W] -> unit vectors [B, E]."""
        return self.project_video(self.encode_video_tokens(clip))

    def embed_text(self, ids, mask):
        """ids [B, L], mask [B, L] bool -> unit vectors [B, E]."""
        return self.project_text(self.encode_text_tokens(ids, mask))

    def temperature(self):
        """The temperature, moved back into 0.001..0.5 where an optimizer step has left it."""
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        return self.temp


class Prompter(TwoTowers):
    """Which of M entities a clip shows: its similarity to their texts, as probabilities. It is trained by itself."""

    def __init__(self, config: AlproConfig):
        super().__init__(config, config.fusion_layer)
        self.register_buffer("video_prompt_feat", torch.zeros(config.num_entities, config.embed_dim))

    @torch.no_grad()
    def set_entities(self, ids, mask):
        """Texts ids, mask [templates * M, L], the M entities in the first template first."""
        self.video_prompt_feat.copy_(ensemble(self.embed_text(ids, mask), len(self.video_prompt_feat)))

    @torch.no_grad()
    def soft_labels(self, clip):
        """clip [B, C, T, H, W] of a region, black around it -> probabilities of the entities [B, M]."""
        return self.probabilities(self.embed_video(clip))

    @torch.no_grad()
    def probabilities(self, vectors):
        """Vectors of clips [B, E], as `embed_video` gives them -> probabilities of the entities [B, M]."""
        return (products(vectors, self.video_prompt_feat) / self.temperature()).softmax(dim=1)


class Alpro(TwoTowers):
    """The whole model. Its prompter is a teacher: without gradient, and always in eval mode."""

    def __init__(self, config: AlproConfig | None = None):
        config = config or AlproConfig()
        super().__init__(config, config.num_hidden_layers)
        words = self.text_encoder.bert.embeddings.word_embeddings
        self.text_encoder["cls"] = nn.ModuleDict({"predictions": _MaskedWords(config, words)})
        self.itm_head = nn.Linear(config.hidden_size, 2)
        if config.num_entities:
            self.mpm_head = nn.Sequential(
                nn.Linear(config.hidden_size, 2 * config.hidden_size),
                nn.ReLU(),
                nn.Linear(2 * config.hidden_size, config.num_entities),
            )
            self.prompter = Prompter(config).requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.num_entities:
            self.prompter.eval()
        return self

    def fuse(self, text, mask, video):
        """Tokens of text [B, L, D] with mask [B, L] and of video [B, 1 + N, D] -> [B, L + 1 + N, D]."""
        x = torch.cat([text, video], dim=1)
        mask = F.pad(mask, (0, video.shape[1]), value=True)[:, None, None]
        for layer in self.text_encoder.bert.encoder.layer[self.config.fusion_layer :]:
            x = layer(x, mask)
        return x

    def match_logits(self, fused):
        """Fused tokens [B, L + 1 + N, D] -> [B, 2]: two strangers, or a pair."""
        return self.itm_head(fused[:, 0])

    def word_logits(self, fused, length: int):
        """Fused tokens [B, L + 1 + N, D] of texts of `length` tokens -> [B, L, vocabulary]."""
        return self.text_encoder.cls.predictions(fused[:, :length])

    def entity_logits(self, fused, region):
        """Fused tokens [B, L + 1 + N, D], region [B, N] bool -> [B, M], of the mean token of the region."""
        return self.mpm_head(region_mean(fused[:, -region.shape[1] :], region))


class TimeSformer(nn.Module):
    """A vision transformer that attends over time, then over space: clip [B, C, T, H, W] -> class scores [B, K].

    Another number of frames takes the nearest of the embeddings of times, another size in pixels the nearest of those
    of places. Fresh, the blocks know nothing of time: what attention over time gives counts 0.
    """

    def __init__(
        self,
        size: int = 224,
        patch_size: int = 16,
        num_frames: int = 8,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        num_classes: int = 0,
        stochastic_depth: float = 0.1,
        in_channels: int = 3,
    ):
        super().__init__()
        if size % patch_size or hidden_size % num_attention_heads:
            raise ValueError(
                f"TimeSformer: {size} pixels are no multiple of patch_size {patch_size}, or hidden_size {hidden_size} "
                f"is none of num_attention_heads {num_attention_heads}"
            )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch_size) ** 2, hidden_size))
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, hidden_size))
        patches = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.patch_embed = nn.ModuleDict({"proj": patches})
        shares = [stochastic_depth * number / max(1, num_layers - 1) for number in range(num_layers)]
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_attention_heads, intermediate_size, share) for share in shares
        )
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        if num_classes:
            self.head = nn.Linear(hidden_size, num_classes)
        self.apply(_initialise)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=_spread(hidden_size))
        for block in self.blocks:
            nn.init.zeros_(block.temporal_fc.weight)

    def forward(self, clip):
        return self.logits(clip)

    def logits(self, clip):
        """clip [B, C, T, H, W] -> class scores [B, K]. Raises ValueError without a classifier."""
        if not hasattr(self, "head"):
            raise ValueError("this TimeSformer has no classifier: build it with num_classes > 0")
        return self.head(self.encode(clip)[0])

    def encode_video_tokens(self, clip):
        """clip [B, C, T, H, W] -> [B, 1 + N, D]: the class token, then the N patches of a frame, averaged over time."""
        cls, patches = self.encode(clip)
        return torch.cat([cls[:, None], patches.mean(dim=1)], dim=1)

    def encode(self, clip):
        """clip [B, C, T, H, W] -> class token [B, D], patches [B, T, N, D], row by row of a frame."""
        side, wanted = self.patch_embed.proj.kernel_size[0], self.patch_embed.proj.in_channels
        if clip.ndim != 5 or clip.shape[1] != wanted or clip.shape[3] % side or clip.shape[4] % side:
            raise ValueError(
                f"TimeSformer reads clips [B, {wanted}, T, H, W] with H and W multiples of {side}, "
                f"not {list(clip.shape)}"
            )
        patches = self.patch_embed.proj(clip.transpose(1, 2).flatten(0, 1))  # [B * T, D, rows, columns]
        places = self._places(*patches.shape[2:])
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, (len(clip), -1)) + places[:, None]
        patches = patches + self._times(patches.shape[1])[:, :, None]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(clip), -1, -1)
        for block in self.blocks:
            cls, patches = block(cls, patches)
        return self.norm(cls[:, 0]), self.norm(patches)

    def _places(self, rows, columns):
        """Embeddings of the patches of a frame [1, N, D]."""
        return nearest_places(self.pos_embed[:, 1:], rows, columns)

    def _times(self, count):
        """Embeddings of the frames [1, T, D]."""
        if count == self.time_embed.shape[1]:
            return self.time_embed
        return F.interpolate(self.time_embed.transpose(1, 2), size=count, mode="nearest").transpose(1, 2)


class Block(nn.Module):
    """Attention of a patch over its times, of a frame over its places, and an MLP.

    There is one class token: each frame attends with a copy of it, and it gets the mean of what the frames give.
    """

    def __init__(self, hidden_size, num_attention_heads, intermediate_size, stochastic_depth):
        super().__init__()
        self.stochastic_depth = stochastic_depth
        self.norm1, self.temporal_norm1, self.norm2 = (nn.LayerNorm(hidden_size, eps=1e-6) for _ in range(3))
        self.attn, self.temporal_attn = (_Attention(hidden_size, num_attention_heads) for _ in range(2))
        self.temporal_fc = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(hidden_size, intermediate_size), "fc2": nn.Linear(intermediate_size, hidden_size)}
        )

    def forward(self, cls, patches):
        """cls [B, 1, D], patches [B, T, N, D] -> the same."""
        _, frames, count, _ = patches.shape
        over_time = self._drop(self.temporal_attn(self.temporal_norm1(patches.transpose(1, 2))))
        patches = patches + self.temporal_fc(over_time).transpose(1, 2)

        seen = torch.cat([cls[:, None].expand(-1, frames, -1, -1), patches], dim=2)
        over_space = self._drop(self.attn(self.norm1(seen)))
        cls, patches = cls + over_space[:, :, 0].mean(dim=1, keepdim=True), patches + over_space[:, :, 1:]

        x = torch.cat([cls, patches.flatten(1, 2)], dim=1)
        x = x + self._drop(self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))))
        return x[:, :1], x[:, 1:].unflatten(1, (frames, count))

    def _drop(self, x):
        return leave_out(x, self.stochastic_depth, self.training)


class _Attention(nn.Module):
    """Self-attention over the last but one axis: [..., L, D] -> [..., L, D]."""

    def __init__(self, hidden_size, num_attention_heads):
        super().__init__()
        self.heads = num_attention_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x):
        qkv = self.qkv(x).flatten(0, -3).unflatten(-1, (3, self.heads, -1))  # [sequences, L, 3, heads, D / heads]
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


class _Bert(nn.Module):
    """BERT's embeddings and layers, by the names of its parameters."""

    def __init__(self, config, num_layers):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(num_layers))})


class _MaskedWords(nn.Module):
    """BERT's head for masked words; its last layer is the table of word embeddings."""

    def __init__(self, config, words):
        super().__init__()
        norm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(config.hidden_size, config.hidden_size), "LayerNorm": norm}
        ).apply(_initialise)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.weight, self.decoder.bias = words.weight, self.bias

    def forward(self, x):
        return self.decoder(self.transform.LayerNorm(F.gelu(self.transform.dense(x))))


def nearest_places(places, rows: int, columns: int):
    """Embeddings [1, N, D] of the patches of a square image for one of rows x columns: each takes the nearest."""
    side = round(places.shape[1] ** 0.5)
    if (rows, columns) == (side, side):
        return places
    grid = places.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(grid, size=(rows, columns), mode="nearest").flatten(2).transpose(1, 2)


def ensemble(features, num_entities: int):
    """Unit vectors [templates * M, E], the M entities in the first template first -> their means [M, E].

    The means are not brought to unit length again: entities that the templates agree on weigh more.
    """
    return features.unflatten(0, (-1, num_entities)).mean(dim=0)


def region_mean(tokens, region):
    """The mean of the tokens [B, N, D] where region [B, N] is True -> [B, D]. A region has one patch at least."""
    weights = region.to(tokens.dtype)
    return torch.einsum("bnd,bn->bd", tokens, weights) / weights.sum(dim=1, keepdim=True)


def _initialise(module):
    """Normal weights, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=_spread(module.in_features))
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=_spread(module.embedding_dim))


def _spread(width):
    """The standard deviation of weights: the official 0.02 at a width of 768, so that a small model starts alike."""
    return 0.02 * (768 / width) ** 0.5


# -- official files --------------------------------------------------------------------------------------------------


def _timesformer_sizes(tensors, prefix=""):
    tokens, hidden_size = tensors[prefix + "pos_embed"].shape[1:]
    patch_size = tensors[prefix + "patch_embed.proj.weight"].shape[-1]
    return {
        "size": patch_size * round((tokens - 1) ** 0.5),
        "patch_size": patch_size,
        "num_frames": tensors[prefix + "time_embed"].shape[1],
        "hidden_size": hidden_size,
        "num_layers": count(tensors, re.escape(prefix) + r"blocks\.(\d+)\."),
        "intermediate_size": len(tensors[prefix + "blocks.0.mlp.fc1.weight"]),
        "num_classes": len(tensors.get(prefix + "head.weight", ())),
    }


def _sizes(tensors):
    video = _timesformer_sizes(tensors, "visual_encoder.model.")
    vocab_size, hidden_size = tensors["text_encoder.bert.embeddings.word_embeddings.weight"].shape
    names = {"num_layers": "video_layers", "num_classes": "video_classes"}
    return {names.get(name, name): value for name, value in video.items()} | {
        "num_hidden_layers": count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        "vocab_size": vocab_size,
        "max_position_embeddings": len(tensors["text_encoder.bert.embeddings.position_embeddings.weight"]),
        "embed_dim": len(tensors["vision_proj.weight"]),
        "num_entities": len(tensors.get("prompter.video_prompt_feat", ())),
    }


def _with_heads(build):
    """`build`, which refuses to guess the number of heads of a model that is not of ViT-B's width."""

    def checked(**config):
        width = config["hidden_size"]
        if width != AlproConfig.hidden_size and "num_attention_heads" not in config:
            raise ValueError(f"hidden_size={width} does not tell the number of heads: num_attention_heads=")
        return build(**config)

    return checked


def _build(**config):
    layers = config["num_hidden_layers"]
    if layers != AlproConfig.num_hidden_layers and "fusion_layer" not in config:
        raise ValueError(f"num_hidden_layers={layers} does not tell where fusion begins: fusion_layer=")
    return Alpro(AlproConfig(**config))


def _example(model):
    config = model.config
    clip = torch.randn(1, 3, config.num_frames, config.size, config.size)
    ids = torch.arange(config.vocab_size - 3, config.vocab_size)[None]
    return torch.cat([model.embed_video(clip), model.embed_text(ids, torch.ones_like(ids, dtype=torch.bool))])


OFFICIAL = {
    "alpro": Kind(
        build=_with_heads(_build),
        accepts=AlproConfig,
        signature=("visual_encoder.model.blocks.0.temporal_fc.weight", "vision_proj.weight"),
        sizes=_sizes,
        example=_example,
        # Of the prompter nothing but its two towers computes; pictures have prompts of their own.
        dropped=r"embeddings\.position_ids$|image_prompt_feat$|^video_prompt_feat$|"
        r"^prompter\.(itm_head|text_encoder\.(cls|bert\.encoder\.layer))\.",
    ),
    "timesformer": Kind(
        build=_with_heads(TimeSformer),
        accepts=TimeSformer,
        signature=("blocks.0.temporal_fc.weight", "time_embed"),
        sizes=_timesformer_sizes,
        prefixes=("visual_encoder.", "model."),  # in ALPRO's files
        example=lambda model: model.encode_video_tokens(torch.randn(1, model.patch_embed.proj.in_channels, 4, 64, 64)),
    ),
}
