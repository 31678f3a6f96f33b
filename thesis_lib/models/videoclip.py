"""VideoCLIP: a BERT over one video feature a second and a BERT over words, compared by dot product.

Parameter names are those of the released checkpoints without their `mmmodel.` prefix (177,423,360 parameters at full
size). Xu et al., VideoCLIP: Contrastive Pre-training for Zero-shot Video-Text Understanding, EMNLP 2021; fairseq
examples/MMPT mmpt/models/mmfusion.py (MMFusionSeparate) and mmpt/modules/mm.py.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.kinds import Kind, count


@dataclass(frozen=True)
class VideoCLIPConfig:
    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    video_layers: int = 6
    text_layers: int = 12
    max_position_embeddings: int = 512
    max_video_len: int = 32  # seconds; the video's [SEP] has position max_video_len + 1 however short the video is
    video_dim: int = 512  # 512: S3D.encode_video, as released; 1024: S3D.mixed_5c, as in the public HowTo100M features
    num_classes: int = 0  # of the token classifier; 0 = without one
    dropout: float = 0.1
    cls_id: int = 101  # word ids that frame a video; these are those of bert-base-uncased
    sep_id: int = 102


class VideoCLIP(nn.Module):
    """Two separate towers without projection, normalisation or temperature: a vector is a mean of last hidden states.

    attend_cls: whether the video's tokens attend to its [CLS]. They do in the official pretraining; in the official
    segmentation, localisation and zero-shot code they do not. The mean is over the tokens and [SEP], without [CLS].
    """

    def __init__(self, config: VideoCLIPConfig | None = None):
        super().__init__()
        self.config = config = config or VideoCLIPConfig()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"VideoCLIP: hidden_size {config.hidden_size} is no multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        self.video_encoder = VideoEncoder(config)
        self.text_encoder = Bert(config, config.text_layers)
        self.apply(_initialise)

    def forward(self, features, video_mask, ids, text_mask):
        """Both vectors of B pairs: features [B, N, D], ids [B, L] and their masks -> ([B, H], [B, H])."""
        return self.encode_video(features, video_mask), self.encode_text(ids, text_mask)

    def encode_video(self, features, mask=None, attend_cls: bool = True):
        """One vector a clip: features [B, N, D], mask [B, N] bool (True = a second of the clip) -> [B, H]."""

        def encode(features, mask):
            states = self.video_encoder(features, mask, attend_cls)
            return _masked_mean(states[:, 1:], F.pad(mask, (0, 1), value=True))

        return _by_length(encode, features, _all(features) if mask is None else mask.bool())

    def encode_video_tokens(self, features, mask=None, attend_cls: bool = True):
        """One vector a second: features [B, N, D], mask [B, N] bool -> [B, N, H]."""
        mask = _all(features) if mask is None else mask.bool()
        return self.video_encoder(features, mask, attend_cls)[:, 1:-1]

    def encode_text(self, ids, mask=None):
        """One vector a text: ids [B, L] = [CLS] words [SEP] padding, mask [B, L] bool (True = a word) -> [B, H]."""

        def encode(ids, mask):
            return _masked_mean(self.text_encoder(ids, mask)[:, 1:], mask[:, 1:])

        return _by_length(encode, ids, _all(ids) if mask is None else mask.bool())

    def classify_tokens(self, features, mask=None, attend_cls: bool = False):
        """Class scores of every second: features [B, N, D], mask [B, N] bool -> [B, N, num_classes].

        [CLS] is masked by default, as in the official fine-tuning. Raises ValueError without a token classifier.
        """
        if not self.config.num_classes:
            raise ValueError("this VideoCLIP has no token classifier: build it with num_classes > 0")
        return self.video_encoder.classifier(self.encode_video_tokens(features, mask, attend_cls))


class VideoEncoder(nn.Module):
    """[CLS] features [SEP] through a BERT: features [B, N, D] -> last hidden states [B, N + 2, H]."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.videomlp = VideoMLP(config.video_dim, config.hidden_size)
        self.bert = Bert(config, config.video_layers)
        if config.num_classes:
            self.classifier = nn.Linear(config.hidden_size, config.num_classes)

    def forward(self, features, mask, attend_cls):
        batch, length, width = features.shape
        if length > self.config.max_video_len or width != self.config.video_dim:
            raise ValueError(
                f"VideoCLIP reads at most {self.config.max_video_len} features of {self.config.video_dim} values, "
                f"not {length} of {width}"
            )
        words = self.bert.embeddings.word_embeddings.weight
        frame = words[[self.config.cls_id, self.config.sep_id]].expand(batch, 2, -1)
        embedded = torch.cat([frame[:, :1], self.videomlp(features), frame[:, 1:]], dim=1)
        positions = torch.arange(length + 2, device=features.device)
        positions[-1] = self.config.max_video_len + 1
        mask = F.pad(mask, (1, 1), value=True)
        mask[:, 0] = attend_cls
        return self.bert.encode(embedded, positions, mask)


class VideoMLP(nn.Module):
    """Brings a video feature to the width of a word embedding. Its LayerNorm has torch's eps, not BERT's."""

    def __init__(self, video_dim, hidden_size):
        super().__init__()
        self.linear1 = nn.Linear(video_dim, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size)
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features):
        return self.linear2(self.LayerNorm(F.gelu(self.linear1(features))))


class Bert(nn.Module):
    """BERT's encoder (Devlin et al., NAACL 2019), all tokens of type 0: ids [B, L] -> last hidden states [B, L, H]."""

    def __init__(self, config, num_layers):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = _named(layer=nn.ModuleList(Layer(config) for _ in range(num_layers)))
        # Nothing uses the pooler; it is here, without a gradient, because every released file has one.
        self.pooler = _named(dense=nn.Linear(config.hidden_size, config.hidden_size)).requires_grad_(False)

    def forward(self, ids, mask):
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.encode(self.embeddings.word_embeddings(ids), positions, mask)

    def encode(self, embedded, positions, mask):
        """Token embeddings [B, L, H], position ids [L], attention mask [B, L] -> [B, L, H]."""
        x = self.embeddings(embedded, positions)
        for layer in self.encoder.layer:
            x = layer(x, mask[:, None, None, :])
        return x


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, embedded, positions):
        x = embedded + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with dropout, residual and LayerNorm after it."""

    def __init__(self, config):
        super().__init__()
        self.attention = _named(self=SelfAttention(config), output=Residual(config.hidden_size, config))
        self.intermediate = _named(dense=nn.Linear(config.hidden_size, config.intermediate_size))
        self.output = Residual(config.intermediate_size, config)

    def forward(self, x, mask):
        x = self.attention.output(self.attention.self(x, mask), x)
        return self.output(F.gelu(self.intermediate.dense(x)), x)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.dropout
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))

    def forward(self, x, mask):
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # each [B, heads, L, H / heads]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(-2)


class Residual(nn.Module):
    """Linear, dropout, residual, LayerNorm."""

    def __init__(self, inputs, config):
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


def _named(**children):
    """A module that only names its children, for the nesting of BERT's parameter names."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def _initialise(module):
    """BERT's initialisation: normal with standard deviation 0.02, biases 0."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _all(tokens):
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _by_length(encode, tokens, mask, rows_at_once=128):
    """encode(tokens, mask) [B, H] without most of the padding: rows of like length together, cut to their longest."""
    lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).clamp(min=1)
    order = lengths.argsort(stable=True) if len(lengths) > rows_at_once else torch.arange(len(lengths))
    longest = [int(lengths[rows].max()) for rows in order.split(rows_at_once)]
    vectors = [
        encode(tokens[rows, :length], mask[rows, :length])
        for rows, length in zip(order.split(rows_at_once), longest, strict=True)
    ]
    return torch.cat(vectors)[order.argsort()]


def _masked_mean(states, mask):
    """Mean over the True positions: states [B, L, H], mask [B, L] -> [B, H]."""
    with torch.autocast(
        states.device.type, enabled=False
    ):  # the sum of 60 words in bf16 would lose what tells them apart
        weights = mask.to(states.dtype)
        return torch.einsum("blh,bl->bh", states, weights) / weights.sum(dim=1, keepdim=True)


# -- official files --------------------------------------------------------------------------------------------------


def save_official_videoclip(model: VideoCLIP, path: str | Path) -> None:
    """Write a VideoCLIP in the layout of fairseq's MMPT, which reads it; so does `load_official`, sizes included."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("embeddings.word_embeddings.weight"):  # the buffer that goes before it in the official order
            positions = torch.arange(model.config.max_position_embeddings)[None]
            weights["mmmodel." + name.replace("word_embeddings.weight", "position_ids")] = positions
        weights["mmmodel." + name] = tensor
    checkpoint = {
        "args": None,
        "cfg": {"thesis_lib": asdict(model.config)},
        "model": weights,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(checkpoint, path)


def _sizes(tensors):
    video = "video_encoder.bert."
    vocab_size, hidden_size = tensors[video + "embeddings.word_embeddings.weight"].shape
    classifier = tensors.get("video_encoder.classifier.weight")
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": len(tensors[video + "encoder.layer.0.intermediate.dense.weight"]),
        "video_layers": count(tensors, r"video_encoder\.bert\.encoder\.layer\.(\d+)\."),
        "text_layers": count(tensors, r"text_encoder\.encoder\.layer\.(\d+)\."),
        "max_position_embeddings": len(tensors[video + "embeddings.position_embeddings.weight"]),
        "video_dim": tensors["video_encoder.videomlp.linear1.weight"].shape[1],
        "num_classes": 0 if classifier is None else len(classifier),
    }


def _build(**config):
    if config["hidden_size"] != VideoCLIPConfig.hidden_size and "num_attention_heads" not in config:
        raise ValueError(f"hidden_size={config['hidden_size']} does not tell the number of heads: num_attention_heads=")
    if config["vocab_size"] != VideoCLIPConfig.vocab_size:  # not bert-base-uncased: [PAD] [UNK] [CLS] [SEP] come first
        config = {"cls_id": 2, "sep_id": 3} | config
    return VideoCLIP(VideoCLIPConfig(**config))


def _example(model):
    features = torch.randn(1, min(8, model.config.max_video_len), model.config.video_dim)
    ids = torch.tensor([[model.config.cls_id, model.config.vocab_size - 1, model.config.sep_id]])
    return torch.cat([model.encode_video(features), model.encode_text(ids)])


OFFICIAL = {
    "videoclip": Kind(
        build=_build,
        accepts=VideoCLIPConfig,
        signature=("video_encoder.videomlp.linear1.weight", "text_encoder.embeddings.word_embeddings.weight"),
        sizes=_sizes,
        example=_example,
        dropped=r"embeddings\.position_ids$",
        optional=r"\.pooler\.",
    ),
}
