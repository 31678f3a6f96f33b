"""The losses of the thesis and of the methods beside it. All are scalars to minimise."""

import torch
from torch.nn import functional as F

IGNORED = -100  # the label of a frame that does not count
ENTITY_RULES = "paper", "released"


def segmentation_loss(logits, targets, smoothing: float = 0.15):
    """Cross-entropy plus smoothing, summed over stages: logits [S, B, C, T], targets [B, T] ints, -100 = ignored.

    Smoothing is the mean, over B * C * (T - 1), of the squared difference between the log-probabilities of a frame and
    those of the frame before, cut at 16; the frame before gets no gradient. A run of -100 at the end of a row is taken
    for padding and is not smoothed. Farha and Gall, MS-TCN, CVPR 2019; ChinaYi/ASFormer model.py:349-354.
    """
    in_video = (targets != IGNORED).flip(1).cumsum(1).flip(1) > 0
    total = 0.0
    for stage in logits:
        log_probabilities = stage.log_softmax(dim=1)
        total = total + F.nll_loss(log_probabilities, targets, ignore_index=IGNORED)
        change = log_probabilities[:, :, 1:] - log_probabilities[:, :, :-1].detach()
        smoothed = change.square().clamp(max=16) * in_video[:, None, 1:]
        total = total + smoothing * smoothed.sum() / max(1, smoothed.numel())  # one frame alone has no change
    return total


def contrastive_loss(video, text):
    """Each clip must find its text and each text its clip: video [B, D], text [B, D], of which rows i belong together.

    The sum of both cross-entropies over the dot products, without temperature. Xu et al., VideoCLIP, EMNLP 2021;
    fairseq examples/MMPT mmpt/losses/nce.py (MMContraLoss).
    """
    if video.shape != text.shape:
        raise ValueError(f"contrastive_loss needs one text a video, not {tuple(video.shape)} and {tuple(text.shape)}")
    similarities = products(video, text)
    pairs = torch.arange(len(video), device=video.device)
    return F.cross_entropy(similarities, pairs) + F.cross_entropy(similarities.T, pairs)


def mil_nce_loss(video, text):
    """Each clip must find one of its K texts or more: video [B, D], text [B * K, D], K consecutive rows for each clip.

    The denominator holds all texts for the clip and all clips for its texts, so its own pairs twice: never below log 2.
    Miech et al., End-to-End Learning of Visual Representations, CVPR 2020; antoine77340/MIL-NCE_HowTo100M loss.py.
    """
    count = len(video)
    if text.shape[1:] != video.shape[1:] or len(text) % count:
        raise ValueError(f"mil_nce_loss needs K texts a video, not {tuple(video.shape)} and {tuple(text.shape)}")
    scores = products(video, text).unflatten(1, (count, -1))  # [B clips, B owners, K texts]
    own = scores.diagonal(dim1=0, dim2=1).T  # [B, K]
    every = torch.cat([scores, scores.transpose(0, 1)], dim=1).flatten(1)  # [B, 2 * B * K]
    return (every.logsumexp(dim=1) - own.logsumexp(dim=1)).mean()


def products(video, text):
    """Dot products [B, N] in single precision at least: without a temperature they are large, and bf16 keeps 8 bits."""
    with torch.autocast(video.device.type, enabled=False):
        kind = torch.promote_types(video.dtype, torch.float32)
        return video.to(kind) @ text.to(kind).T


def ego_nce_loss(similarities, nouns, verbs, temperature: float = 0.05):
    """InfoNCE in which clips that share a noun and a verb are positives too, summed over both directions.

    similarities [B, B]: cosine of text i and clip j; nouns [B, N] and verbs [B, V]: 1 where row i's narration has the
    word, else 0. Lin et al., Egocentric Video-Language Pretraining, NeurIPS 2022; showlab/EgoVLP model/loss.py, EgoNCE.
    """
    shared = (nouns @ nouns.T > 0) & (verbs @ verbs.T > 0)
    positive = shared | torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    scores = similarities / temperature
    return sum(-scores.log_softmax(dim=d).masked_fill(~positive, -torch.inf).logsumexp(dim=d).mean() for d in (0, 1))


def vtc_loss(video, text, temperature):
    """Each clip must find its text and each text its clip: unit vectors video [B, D] and text [B, D], row by row.

    The mean of both cross-entropies over cosines divided by the temperature, a number or a scalar tensor that learns.
    Li et al., Align and Prompt (ALPRO), CVPR 2022; salesforce/ALPRO src/modeling/alpro_models.py, itc_loss.
    """
    if video.shape != text.shape:
        raise ValueError(f"vtc_loss needs one text a video, not {tuple(video.shape)} and {tuple(text.shape)}")
    similarities = products(video, text) / temperature
    pairs = torch.arange(len(video), device=video.device)
    return (F.cross_entropy(similarities, pairs) + F.cross_entropy(similarities.T, pairs)) / 2


def entity_loss(logits, soft_labels, threshold: float = 0.2, rule: str = "paper"):
    """Which entities a region shows: logits [B, M] against the teacher's probabilities [B, M], over the samples kept.

    rule="paper": a sample counts if its likeliest entity has a probability of `threshold` at least. "released": the
    released code compares the position of that entity instead, so a sample counts unless its likeliest entity is the
    first of the list. 0 where no sample counts. Align and Prompt, section 3.4; salesforce/ALPRO alpro_models.py:255-262
    and 525-529.
    """
    if logits.shape != soft_labels.shape:
        raise ValueError(f"entity_loss needs a label a logit, not {tuple(logits.shape)} and {tuple(soft_labels.shape)}")
    kept = entity_labels_kept(soft_labels, threshold, rule)
    kind = torch.promote_types(logits.dtype, torch.float32)
    losses = -(soft_labels * logits.log_softmax(dim=1, dtype=kind)).sum(dim=1)
    return losses.where(kept, 0.0).sum() / kept.sum().clamp(min=1)


def entity_labels_kept(soft_labels, threshold: float = 0.2, rule: str = "paper"):
    """[B] bool: which rows of probabilities [B, M] count, as in `entity_loss`."""
    if rule not in ENTITY_RULES:
        raise ValueError(f"rule={rule!r}: expected one of {', '.join(ENTITY_RULES)}")
    probability, position = soft_labels.max(dim=1)
    return (probability if rule == "paper" else position) >= threshold
