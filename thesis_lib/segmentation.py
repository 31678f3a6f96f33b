"""Action segmentation with a video-text model: sliding windows over a video, a score per class for every second.

    class names --prompts, text tower--> class vectors [C, H]
    features [T, D] --windows--> [W, size, D] --video tower--> tokens [W, size, H] --dot product, merge--> [T, C]

The prediction is the argmax; there is no background class (thesis 2.7). With a trained token classifier in place of
the class vectors the same path gives the fine-tuned model. Window 32 and stride 16 are those of VideoCLIP on COIN
(fairseq examples/MMPT, COINPredictor and COINZSPredictor in mmpt/evaluators/predictor.py).
"""

import torch

IGNORE = -100  # what cross_entropy leaves out
STYLES = ("readable", "raw", "averaged")
TEMPLATES = (  # ways in which a narrator of an instructional video says what is done
    "{}",
    "now {}",
    "first {}",
    "we {}",
    "you can {}",
    "let us {}",
)


def window_starts(length, size=32, stride=16):
    """First frames of the windows over a video: 0, stride, 2 stride, ... up to the first window to reach its end."""
    if length < 1 or not 1 <= stride <= size:
        raise ValueError(
            f"length {length}, size {size}, stride {stride}: need a frame, and a stride from 1 to the size"
        )
    last = -(-max(length - size, 0) // stride)
    return [stride * i for i in range(last + 1)]


def windows(features, size=32, stride=16):
    """Features [T, D] -> windows [W, size, D], zeros after the end, and the mask [W, size] of real frames."""
    index, mask = _frames(len(features), size, stride, features.device)
    return features[index] * mask[..., None], mask


def window_targets(labels, size=32, stride=16):
    """Labels [T] of a video -> targets [W, size] of its windows, -100 after the end."""
    labels = torch.as_tensor(labels)
    index, mask = _frames(len(labels), size, stride, labels.device)
    return labels[index].masked_fill(~mask, IGNORE)


def merge_windows(logits, length, size=32, stride=16):
    """Logits [W, size, C] of windows, padded at the end -> [length, C], the mean of the windows at a frame."""
    logits = torch.as_tensor(logits)
    index, mask = _frames(length, size, stride, logits.device)
    if logits.ndim != 3 or logits.shape[:2] != mask.shape:
        raise ValueError(f"logits {list(logits.shape)} for {length} frames; expected {[*mask.shape]} windows x classes")
    total = logits.new_zeros(length, logits.shape[-1]).index_add(0, index[mask], logits[mask])
    return total / torch.bincount(index[mask], minlength=length)[:, None]


@torch.no_grad()
def segment(encode_tokens, features, classifier, size=32, stride=16, batch_size=64):
    """Class scores for every frame (second) of a video.

    encode_tokens: (windows [B, size, D], mask [B, size]) -> tokens [B, size, H], VideoCLIP.encode_video_tokens.
    features: [T, D], one vector a second.
    classifier: class vectors [C, H] (zero-shot), or a callable tokens [B, size, H] -> logits [B, size, C].
    Returns logits [T, C].
    """
    score = classifier if callable(classifier) else lambda tokens: tokens @ classifier.T
    batches = zip(*(part.split(batch_size) for part in windows(features, size, stride)), strict=True)
    logits = torch.cat([score(encode_tokens(clip, mask)) for clip, mask in batches])
    return merge_windows(logits.float(), len(features), size, stride)


def prompts(class_names, style="readable"):
    """Texts of class names [C * K], those of a class together.

    "readable" (place tomato into bowl), "raw" (place_tomato_into_bowl, as in the thesis's mapping.txt and code), one
    text a class; "averaged", the readable name in each of the K TEMPLATES, to be taken together by `text_vectors`.
    """
    if style not in STYLES:
        raise ValueError(f"prompt style is {style!r}; it is one of {', '.join(STYLES)}")
    if style == "raw":
        return list(class_names)
    templates = TEMPLATES if style == "averaged" else ("{}",)
    return [template.format(name.replace("_", " ")) for name in class_names for template in templates]


def text_vectors(encode_text, ids, mask, num_classes):
    """ids, mask [C * K, L] of `prompts` -> class vectors [C, H]: the mean of the vectors of a class's texts.

    Vectors are averaged as they are, not brought to unit length first: VideoCLIP is trained on plain dot products, so
    their lengths are part of its scores, and the score of the mean vector is the mean of the scores of its texts.
    """
    return encode_text(ids, mask).unflatten(0, (num_classes, -1)).mean(1)


def _frames(length, size, stride, device):
    """Which frame stands at each place of each window [W, size] (the last one after the end), and where it is real."""
    index = torch.tensor(window_starts(length, size, stride), device=device)[:, None] + torch.arange(
        size, device=device
    )
    return index.clamp(max=length - 1), index < length
