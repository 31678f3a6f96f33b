"""Every published number that stands beside ours, as data with its source.

The thesis is I. Chuvilyaeva's (mira318/masters_degree: Masters_text.pdf, Tables 1 to 10; Masters_present.pdf, slides
with the same numbers, but of Table 2 only the best accuracies). A cell that no source gives is absent.

In Tables 1 and 3 `accuracy` is the last line of the training log, at 15 fps; eval.py at 30 fps moves it by less than
0.0002 (I3D/logs_notebook.ipynb). `best_accuracy` is the best of twelve tests on the test split. What Tables 4 to 9 call
edit distance is `frame_levenshtein` in seconds: `audit.levenshtein_bound` shows that it can be nothing else. MS-TCN's
eval.py and ASFormer's differ only where the last segment of a video is very short (`metrics.evaluate`).
"""

import pandas as pd

METRICS = {  # metric: unit, which direction is better
    "accuracy": ("0..1", "higher"),
    "best_accuracy": ("0..1", "higher"),
    "best_epoch": ("epoch", ""),
    "best_loss": ("nats", "lower"),
    "best_loss_epoch": ("epoch", ""),
    "edit_score": ("0..100", "higher"),
    "frame_levenshtein": ("seconds", "lower"),
    "f1@10": ("0..1", "higher"),
    "f1@25": ("0..1", "higher"),
    "f1@50": ("0..1", "higher"),
    "recall": ("0..1", "higher"),
    "recall@1": ("0..1", "higher"),
    "recall@5": ("0..1", "higher"),
    "recall@10": ("0..1", "higher"),
    "median_rank": ("rank", "lower"),
    "top1": ("0..1", "higher"),
    "top5": ("0..1", "higher"),
    "egomcq_inter": ("0..1", "higher"),
    "egomcq_intra": ("0..1", "higher"),
}
PROTOCOLS = {
    "FRAMES": "50Salads, test videos of 5 splits, 30 fps, eval.py of MS-TCN or ASFormer",
    "SECONDS": "50Salads, test videos of 5 splits, one label a second, metric.py of the thesis",
    "LOG": "50Salads, test videos, 15 fps, training log of ASFormer",
}
METHODS = {  # table: what its rows measure, where they are splits
    "1": "ASFormer, authors' features",
    "2": "ASFormer, own features, crops",
    "3": "ASFormer, own features",
    "4": "VideoCLIP zero-shot, own weights",
    "5": "VideoCLIP zero-shot, public weights",
    "6": "VideoCLIP 8 epochs, own weights",
    "7": "VideoCLIP 15 epochs, own weights",
    "8": "VideoCLIP 8 epochs, public weights",
    "9": "VideoCLIP 15 epochs, public weights",
    "author's log": "ASFormer, authors' features, another run",
}
SLIDES = {"1": 14, "2": 11, "3": 14, "4": 22, "5": 22, "6": 24, "7": 24, "8": 26, "9": 26, "10": 27}  # table: page

# A section: table | protocol | source; its metrics, with % where the source prints percent of what we give in 0..1; its
# rows. A row's name is a split (and more), or "mean" over the splits, or else a method. "-": the source has no number.
NUMBERS = """
1 | FRAMES | thesis
accuracy edit_score f1@10 f1@25 f1@50 best_accuracy best_epoch
1    | 0.809 75.4 0.807 0.794 0.700 0.809 120
2    | 0.885 74.6 0.816 0.794 0.739 0.893 100
3    | 0.849 78.9 0.840 0.835 0.769 0.858 110
4    | 0.862 80.1 0.859 0.835 0.772 0.866 100
5    | 0.865 80.0 0.866 0.856 0.761 0.865 110
mean | 0.854 77.8 0.838 0.823 0.748 0.858 -

2 | LOG | thesis
accuracy best_accuracy best_epoch
1 front     | 0.658 0.665 30
1 symmetric | 0.686 0.687 50
1 back      | 0.701 0.716 50

3 | FRAMES | thesis
accuracy edit_score f1@10 f1@25 f1@50 best_accuracy best_epoch
1    | 0.758 66.2 0.751 0.728 0.623 0.758 120
2    | 0.780 75.6 0.808 0.760 0.708 0.790 90
3    | 0.832 77.3 0.841 0.831 0.784 0.832 110
4    | 0.802 72.5 0.793 0.784 0.700 0.802 120
5    | 0.792 70.5 0.788 0.749 0.680 0.792 120
mean | 0.793 72.4 0.796 0.770 0.699 0.795 -

4 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50
1    | 0.296 278.1 0.127 0.075 0.042
2    | 0.287 273.9 0.125 0.079 0.029
3    | 0.323 261.3 0.142 0.093 0.049
4    | 0.300 269.6 0.151 0.084 0.041
5    | 0.264 267.9 0.138 0.091 0.035
mean | 0.294 270.2 0.137 0.084 0.039

5 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50
1    | 0.413 230.1 0.150 0.094 0.044
2    | 0.469 201.4 0.159 0.104 0.053
3    | 0.483 197.7 0.184 0.127 0.071
4    | 0.483 196.9 0.184 0.131 0.072
5    | 0.437 203.2 0.182 0.123 0.081
mean | 0.457 205.9 0.172 0.116 0.064

6 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50 best_loss best_loss_epoch
1    | 0.837 58.6 0.486 0.455 0.381 0.888 8
2    | 0.791 79.2 0.465 0.429 0.346 0.774 8
3    | 0.753 94.2 0.496 0.446 0.347 0.944 7
4    | 0.799 77.1 0.503 0.463 0.384 0.739 8
5    | 0.816 65.7 0.498 0.443 0.388 0.612 7
mean | 0.799 75.0 0.490 0.447 0.369 0.791 -

7 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50 best_loss best_loss_epoch
1    | 0.802 76.2 0.485 0.453 0.366 0.825 11
2    | 0.807 72.9 0.498 0.458 0.360 0.762 10
3    | 0.812 71.4 0.515 0.467 0.392 0.825 13
4    | 0.799 77.1 0.503 0.463 0.384 0.739 8
5    | 0.837 58.6 0.486 0.455 0.381 0.536 9
mean | 0.811 71.2 0.497 0.459 0.377 0.737 -

8 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50 best_loss best_loss_epoch
1    | 0.788 82.4 0.549 0.503 0.405 0.830 8
2    | 0.806 73.7 0.500 0.462 0.401 0.730 7
3    | 0.801 76.6 0.602 0.543 0.480 0.767 7
4    | 0.802 75.2 0.562 0.532 0.476 0.765 8
5    | 0.851 53.2 0.541 0.525 0.449 0.541 7
mean | 0.810 72.2 0.551 0.513 0.442 0.727 -

9 | SECONDS | thesis
accuracy frame_levenshtein f1@10 f1@25 f1@50 best_loss best_loss_epoch
1    | 0.813 72.3 0.593 0.552 0.463 0.803 11
2    | 0.810 72.2 0.540 0.540 0.430 0.693 9
3    | 0.814 71.1 0.565 0.531 0.463 0.765 9
4    | 0.802 75.2 0.562 0.532 0.476 0.765 8
5    | 0.842 57.3 0.579 0.559 0.486 0.502 9
mean | 0.816 69.6 0.568 0.543 0.464 0.706 -

10 | FRAMES | thesis
accuracy
ASFormer, paper             | 0.856
ASFormer, authors' features | 0.854
ASFormer, own features      | 0.793

10 | SECONDS | thesis
accuracy
VideoCLIP zero-shot, own weights    | 0.294
VideoCLIP zero-shot, public weights | 0.457
VideoCLIP 8 epochs, own weights     | 0.799
VideoCLIP 15 epochs, own weights    | 0.811
VideoCLIP 8 epochs, public weights  | 0.810
VideoCLIP 15 epochs, public weights | 0.816

author's log | LOG | I3D/logs_notebook.ipynb of the thesis, not the run of Table 1
accuracy best_accuracy best_epoch
1 | 0.805046 0.812160 110
2 | 0.890464 0.891671 110
3 | 0.869294 0.869294 120
4 | 0.872374 0.872821 70
5 | 0.892572 0.892572 120

paper | FRAMES | arXiv 2110.08568, as quoted in ChinaYi/ASFormer issue #14
% f1@10 f1@25 f1@50 edit_score accuracy
ASFormer, paper | 85.1 83.4 76.0 79.6 85.6

released weights | FRAMES | ChinaYi/ASFormer issue #14
% f1@10 f1@25 f1@50 edit_score accuracy
ASFormer, released weights | 83.43 80.73 74.57 75.73 85.03

released weights | FRAMES, action_start and action_end left out | ChinaYi/ASFormer issue #11
% f1@10 f1@25 f1@50
ASFormer, released weights | 83.7 81.8 73.7

field | FRAMES | yabufarha/ms-tcn issue #27
% f1@10 f1@25 f1@50 edit_score accuracy
MS-TCN | 76.3 74.0 64.5 67.9 80.7

field | FRAMES | arXiv 2308.11358, 2303.17959, 2405.15995, as quoted beside DiffAct+TST
% f1@10 f1@25 f1@50 edit_score accuracy
LTContext | 89.4 87.7 82.0 83.2 87.7
DiffAct   | 90.1 89.2 83.7 85.0 88.9
BaFormer  | 89.3 88.4 83.9 84.2 89.5

field | FRAMES, best of five runs a split, median filter | DiffAct+TST, comparison table of its authors
% f1@10 f1@25 f1@50 edit_score accuracy
DiffAct+TST | 92.3 91.8 87.4 87.4 89.7

reproduction | FRAMES | sj-li/MS-TCN2 issue #2
% f1@10 f1@25 f1@50 edit_score accuracy
MS-TCN++ | 79.51 77.59 69.45 72.14 82.03

reproduction | FRAMES | yiskw713/asrf issue #10
% f1@10 f1@25 f1@50 edit_score accuracy
ASRF | 83.1 81.7 75.9 77.9 82.7

reproduction | FRAMES, splits 1 to 4 | yabufarha/ms-tcn issue #27
% f1@10 f1@25 f1@50 edit_score accuracy
MS-TCN | 72.4867 70.2211 62.4827 66.6649 78.2421

VideoCLIP | YouCook2, text to video | paperswithcode.com on arXiv 2109.14084
% recall@1 recall@5 recall@10
VideoCLIP, zero-shot  | 22.7 50.4 63.1
VideoCLIP, fine-tuned | 32.2 62.6 75.0

VideoCLIP | MSR-VTT, text to video | paperswithcode.com on arXiv 2109.14084
% recall@1 recall@5 recall@10
VideoCLIP, zero-shot  | 10.4 22.2 30.0
VideoCLIP, fine-tuned | 30.9 55.4 66.8

VideoCLIP | DiDeMo, text to video | paperswithcode.com on arXiv 2109.14084
% recall@1 recall@5
VideoCLIP, zero-shot | 16.6 46.9

VideoCLIP | COIN, seconds, background counts | paperswithcode.com on arXiv 2109.14084
% accuracy
VideoCLIP, fine-tuned | 68.7

VideoCLIP | COIN, seconds, background counts | facebookresearch/fairseq issue #4940: every prediction is background
accuracy
VideoCLIP, zero-shot | 0.5891579068298007

VideoCLIP | CrossTask, steps | paperswithcode.com on arXiv 2109.14084
% recall
VideoCLIP, fine-tuned | 47.3

S3D | MSR-VTT, text to video | antoine77340/MIL-NCE_HowTo100M, README
% recall@1 recall@5 recall@10 median_rank
S3D MIL-NCE, batch 8192          | 9.9 24.0 32.4 29.5
S3D MIL-NCE, PyTorch, batch 1024 | 8.2 21.5 29.5 40

S3D | YouCook2, text to video | antoine77340/MIL-NCE_HowTo100M, README
% recall@1 recall@5 recall@10 median_rank
S3D MIL-NCE, batch 8192          | 15.1 38.0 51.2 10
S3D MIL-NCE, PyTorch, batch 1024 | 8.8 24.3 34.6 23

I3D | Kinetics-400 | pytorchvideo, model zoo
% top1 top5
I3D R50 8x8 | 73.27 90.70

VideoMAE | Kinetics-400, 16 frames, 1600 epochs | MCG-NJU/VideoMAE, README
% top1
VideoMAE-S | 79.0
VideoMAE-B | 81.5
VideoMAE-L | 85.2
VideoMAE-H | 86.6

VideoMAE | Something-Something V2, ViT-B, 800 epochs, masking | VideoMAE (arXiv 2203.12602), Table 1
% top1
tube, 75 %    | 68.0
tube, 90 %    | 69.6
random, 90 %  | 68.3
frame, 87.5 % | 61.5

ALPRO | MSR-VTT, text to video | ALPRO (arXiv 2112.09583), retrieval tables
% recall@1 recall@5 recall@10 median_rank
ALPRO, fine-tuned | 33.9 60.7 73.2 3
ALPRO, zero-shot  | 24.1 44.7 55.4 8

ALPRO | DiDeMo, text to video | ALPRO (arXiv 2112.09583), retrieval tables
% recall@1 recall@5 recall@10 median_rank
ALPRO, fine-tuned | 35.9 67.5 78.8 3
ALPRO, zero-shot  | 23.8 47.3 57.9 6

EgoVLP | EgoMCQ | showlab/EgoVLP, README
% egomcq_inter egomcq_intra
EgoVLP | 90.7 57.2
"""


def tables() -> pd.DataFrame:
    """All numbers, one a row.

    Columns: table ("1" to "10" are the thesis's), row, split ("1" to "5", "mean" over splits, "" elsewhere), method,
    metric, value, unit and direction (METRICS), protocol, source, printed (the text of the source).
    """
    return pd.DataFrame([row for section in NUMBERS.strip().split("\n\n") for row in _section(section.splitlines())])


def means() -> pd.DataFrame:
    """What a result of ours stands beside: columns method, source ("thesis" or "paper"), metric, value, unit, protocol.

    The thesis's means over splits in the order of its Table 10, and the ASFormer paper.
    """
    numbers = tables()
    thesis = numbers[numbers["table"].isin(METHODS) & (numbers["split"] == "mean")].assign(source="thesis")
    paper = numbers[numbers["table"] == "paper"].assign(source="paper")
    columns = ["method", "source", "metric", "value", "unit", "protocol"]
    return pd.concat([paper, thesis])[columns].reset_index(drop=True)


def _section(lines):
    table, protocol, source = (part.strip() for part in lines[0].split("|"))
    if source == "thesis":
        source = f"thesis, Table {table}; slides, p. {SLIDES[table]}"
    key, *rest = protocol.split(",", 1)
    protocol = ",".join([PROTOCOLS.get(key, key), *rest])
    percent, columns = lines[1].startswith("%"), lines[1].lstrip("% ").split()
    for line in lines[2:]:
        name, numbers = line.split("|")
        for metric, printed in zip(columns, numbers.split(), strict=True):
            if printed != "-":
                unit, direction = METRICS[metric]
                value = float(printed) / 100 if percent and unit == "0..1" else float(printed)
                yield {
                    "table": table,
                    **_row(table, name.strip(), protocol),
                    "metric": metric,
                    "value": round(value, 12),
                    "unit": unit,
                    "direction": direction,
                    "protocol": protocol,
                    "source": source,
                    "printed": printed,
                }


def _row(table, name, protocol):
    if name[0].isdigit():
        split, _, more = name.partition(" ")
        return {"row": more or f"split {split}", "split": split, "method": METHODS[table]}
    if name == "mean":
        return {"row": name, "split": "mean", "method": METHODS[table]}
    return {"row": name, "split": "mean" if protocol.startswith("50Salads") else "", "method": name}
