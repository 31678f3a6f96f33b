"""What the thesis and the official code got wrong, or say otherwise than they do, and which parameter repeats it.

Sources: "thesis" is Masters_text.pdf of mira318/masters_degree, "thesis code" its branches main (I3D, ASFormer) and
windows_dev (VideoCLIP); MMPT is examples/MMPT of facebookresearch/fairseq; ASFormer is ChinaYi/ASFormer.
"""

from collections.abc import Sequence

import pandas as pd

from thesis_lib import params

MISTAKES = [  # what, where it stands, "notebook parameter[=value]" that repeats it, what this report does
    (
        "frames reach I3D as BGR, its weights expect RGB",
        "thesis code, I3D/features_util.py:72",
        "02 color=bgr",
        "RGB",
    ),
    (
        "reading stops at the first damaged frame; the text says that it is skipped",
        "thesis code, I3D/features_util.py, VideoWrapper.get",
        "",
        "damaged frames are skipped, the places of all others are kept",
    ),
    (
        "the last frame of a video is never seen (exclusive end taken as inclusive)",
        "thesis code, I3D/features_util.py",
        "",
        "every frame is seen",
    ),
    (
        "the head of I3D pools with a window that weighs the middle of the picture and of the clip more",
        "thesis code, I3D/features_util.py, from e7a1ec1 on",
        "02 head=window",
        "one mean over space and time",
    ),
    (
        "VideoCLIP may see vectors of unit length in one place and not in the other",
        "MMPT, scripts/video_feature_extractor (unit length) and README demo (not)",
        "",
        "the same vectors in pretraining and after it, of unit length or not",
    ),
    (
        "the attention window of ASFormer is a block, not a band around the frame",
        "ASFormer, model.py:72 (its README, section Update)",
        "04 attention_window=official",
        "the band of the paper",
    ),
    (
        "the weight of the smoothing loss differs between text and code",
        "thesis, section on ASFormer; ASFormer, model.py:349",
        "",
        "the code's value, which made the published numbers",
    ),
    (
        "the epoch is chosen on the test split",
        "thesis code, 50salads_videoclip.yaml (val_path is the test bundle); ASFormer, main.py shows its best test",
        "07 epoch_choice=test_loss",
        "the last epoch counts; the best one stands beside it, named as such",
    ),
    (
        "the last segment of a video ends one frame early in F1",
        "ASFormer, eval.py:31",
        "",
        "the true end; metrics.evaluate(segment_end=\"asformer\") repeats it",
    ),
    (
        "\"edit distance\" of Tables 4 to 9 is a Levenshtein distance of raw labels, that of Tables 1 and 3 a score",
        "thesis, Tables 1 to 9; thesis code, metric.py",
        "",
        "two metrics with two names; both for every method",
    ),
    (
        "ASFormer is scored on frames, VideoCLIP on seconds, and both stand in one column",
        "thesis, Table 10",
        "",
        "both grids for every method; the summary compares on frames",
    ),
    (
        "class names are read with underscores",
        "thesis code, dsprocessor.py and mapping.txt",
        "06 prompts=raw",
        "words with spaces",
    ),
    (
        "fine-tuning is called contrastive and is a linear classifier on tokens",
        "thesis, section 2.7 and slides; thesis code, 50salads_videoclip.yaml",
        "07 heads_tuned=classifier",
        "both heads, side by side",
    ),
    (
        "windows in fine-tuning overlap more than the text says",
        "thesis, text; thesis code, 50salads_videoclip.yaml (sliding_window)",
        "07 stride_train=8",
        "the code's stride in training, the text's in testing",
    ),
    (
        "one GPU is taken to mean one cluster a step",
        "thesis, pretraining on one GPU",
        "05 clusters_per_step=1",
        "clusters are accumulated: the same gradient as on as many GPUs",
    ),
    (
        "data workers keep the clusters of the untrained network for the whole run",
        "MMPT, fairseq_task.py:308 (persistent workers)",
        "05 own_retrieval=frozen",
        "new clusters before every epoch; the weights \"own\" repeat it, the reference weights do not",
    ),
    (
        "pretraining was stopped and begun anew, and the loss jumps at each restart",
        "thesis, pretraining on one GPU",
        "05 own_interruptions=2",
        "a run that was stopped goes on as if it had not been; the weights \"own\" repeat it",
    ),
    (
        "video spans of 0 to 32 seconds in the text, 3 to 32 in the code",
        "thesis, text; MMPT, how2.yaml",
        "05 min_seconds",
        "the code's",
    ),
    (
        "runs are painted on whole seconds, and seconds without a label become cut_tomato",
        "thesis code, dsprocessor.py (floor, ceil, fill value 0)",
        "06 seconds_rule=as_published",
        "every second has the label of its middle frame",
    ),
    (
        "split 1 of Table 6 is a copy of split 5 of Table 7",
        "thesis, Tables 6 and 7",
        "",
        "shown in the summary; the mean stands with and without it",
    ),
    (
        "damaged videos are said to explain split 1",
        "thesis, discussion",
        "",
        "the audit lists the splits that train on damaged videos",
    ),
]  # fmt: skip


def table(mistakes: Sequence[tuple] = MISTAKES) -> pd.DataFrame:
    """The list as a table: what, where, the parameter that repeats it, what is done instead."""
    rows = [(what, where, repeated(switch), instead) for what, where, switch, instead in mistakes]
    return pd.DataFrame(rows, columns=["mistake or contradiction", "where", "repeated by", "in this report"])


def repeated(switch: str) -> str:
    """ "02 color=bgr" as a reader sees it. Raises ValueError where the notebook has no such parameter."""
    if not switch:
        return "not repeated here"
    number, _, setting = switch.partition(" ")
    name, equals, value = setting.partition("=")
    if name not in params.declared(params.find(number)):
        raise ValueError(f"notebook {number} has no parameter '{name}' to repeat a mistake with")
    return f"{name}{equals and ' = '}{value} in {number}"
