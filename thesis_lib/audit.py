"""What the published numbers say about themselves: checks that need no weights and no videos.

They rest on `published.tables` and on the lengths of the test videos alone.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from thesis_lib import metrics, published

VIDEOCLIP = ("4", "5", "6", "7", "8", "9")  # tables with one label a second
FINE_TUNED = ("6", "7", "8", "9")
BASELINE = "3"
TEST_VIDEOS = 10  # of every split
TEST_FRAMES = {"1": 118_903, "2": 115_955, "3": 116_621, "4": 116_429, "5": 109_687}  # their labels, at 30 fps
SECONDS = {split: frames / TEST_VIDEOS / 30 for split, frames in TEST_FRAMES.items()}  # mean length of a test video


def recomputed_means() -> pd.DataFrame:
    """Each printed mean over splits beside the mean of the printed splits; `agrees` to the last printed digit."""
    rows = []
    for (table, metric), group in published.tables().groupby(["table", "metric"], sort=False):
        mean = group[group["row"] == "mean"]
        splits = group.loc[group["row"].str.startswith("split"), "value"]
        if len(mean) and len(splits):
            printed = mean["printed"].item()
            half_a_digit = 0.5 * 10.0 ** -len(printed.partition(".")[2])
            agrees = bool(abs(splits.mean() - float(printed)) <= half_a_digit + 1e-9)
            rows.append([table, metric, float(printed), splits.mean(), agrees])
    return pd.DataFrame(rows, columns=["table", "metric", "printed", "recomputed", "agrees"])


def summary_table() -> pd.DataFrame:
    """Table 10 beside the means of the tables (and the paper's number) that it sums up."""
    numbers = published.tables()
    numbers = numbers[(numbers["metric"] == "accuracy") & (numbers["split"] == "mean")]
    means = numbers[numbers["table"].isin([*published.METHODS, "paper"])].set_index("method")["value"]
    summary = numbers[numbers["table"] == "10"].set_index("method")["value"]
    frame = pd.DataFrame({"table 10": summary, "its source": means.reindex(summary.index)})
    return frame.assign(agrees=np.isclose(frame["table 10"], frame["its source"], atol=1e-9))


def duplicated_rows() -> pd.DataFrame:
    """Rows of different tables that agree in every metric of the test.

    On one split (`same_split`) that is one checkpoint, the best of 8 epochs and of 15. On two it is a mistake: no two
    sets of test videos give the same five numbers.
    """
    rows = _splits(VIDEOCLIP).drop(columns=["best_loss", "best_loss_epoch"])
    pairs = [
        [*a, *b, a[1] == b[1]]
        for a, b in combinations(rows.index, 2)
        if a[0] != b[0] and rows.loc[a].equals(rows.loc[b])
    ]
    return pd.DataFrame(pairs, columns=["table", "split", "other_table", "other_split", "same_split"])


def levenshtein_bound(seconds=SECONDS) -> pd.DataFrame:
    """The "edit distance" of Tables 4 to 9 beside the number of wrong seconds, T (1 - accuracy), of a test video.

    Changing every wrong second repairs a prediction, so Levenshtein(prediction, target) <= wrong seconds: `possible`,
    rounding allowed for. All rows lie just below it (`ratio`), so the column is that distance, in seconds, lower is
    better, and says little that accuracy does not. An edit score would lie in 0..100, higher is better.

    implied_seconds: the mean test video if the ratio were that of the other splits' rows (their median); nearest_split:
    the split whose videos are that long. seconds: {split: mean length of a test video}.
    """
    rows = _splits(VIDEOCLIP)[["accuracy", "frame_levenshtein"]].reset_index()
    length = rows["split"].map(seconds)
    rows["wrong_seconds"] = length * (1 - rows["accuracy"])
    rows["ratio"] = rows["frame_levenshtein"] / rows["wrong_seconds"]
    rows["possible"] = rows["frame_levenshtein"] - 0.05 <= length * (1 - rows["accuracy"] + 0.0005)
    rows["implied_seconds"] = rows["frame_levenshtein"] / (1 - rows["accuracy"]) / rows["ratio"].median()
    lengths = pd.Series(seconds)
    rows["nearest_split"] = [(lengths - value).abs().idxmin() for value in rows["implied_seconds"]]
    return rows


def paired_tests() -> pd.DataFrame:
    """Paired t-tests of accuracy over the five splits: each fine-tuned model against the baseline and the others.

    The baseline's accuracy is one of frames, theirs one of seconds: the published numbers offer nothing better. Table 6
    comes again without split 1, whose row belongs elsewhere. p_holm: corrected for the number of tests (Holm).
    """
    accuracy = _splits([BASELINE, *FINE_TUNED])["accuracy"].unstack()
    rows = []
    for splits in (list("12345"), list("2345")):
        for other, table in combinations([BASELINE, *FINE_TUNED], 2):
            if len(splits) == 5 or "6" in (table, other):
                test = metrics.paired_test(accuracy.loc[table, splits], accuracy.loc[other, splits])
                rows.append({"table": table, "against": other, "splits": f"{splits[0]}-5"} | test)
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=frame.groupby("splits")["p"].transform(holm))


def table6_without_the_copy() -> pd.DataFrame:
    """Means of Table 6 as printed, over splits 2 to 5, and with the row of Table 7 for split 1 in place of the copy."""
    rows = _splits(["6", "7"]).drop(columns="best_loss_epoch")
    table6, split1 = rows.loc["6"], rows.loc[[("7", "1")]].droplevel(0)
    replaced = pd.concat([split1, table6.drop("1")])
    return pd.DataFrame({"printed": table6.mean(), "splits 2-5": table6.drop("1").mean(), "replaced": replaced.mean()})


def comparable() -> pd.DataFrame:
    """Which numbers may stand beside which: one row a protocol and metric, with the methods measured by it."""
    numbers = published.tables()
    numbers = numbers[numbers["direction"] != ""]
    groups = numbers.groupby(["protocol", "metric", "unit", "direction"], sort=False)["method"]
    return groups.agg(lambda methods: "; ".join(dict.fromkeys(methods))).rename("methods").reset_index()


def holm(p):
    """Holm's step-down correction of a family of p-values (a Series)."""
    order = p.sort_values()
    corrected = (order * np.arange(len(p), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(p.index)


def _splits(tables):
    """Values of the splits of tables: a row (table, split), a column a metric."""
    numbers = published.tables()
    numbers = numbers[numbers["table"].isin(tables) & numbers["row"].str.startswith("split")]
    return numbers.pivot(index=["table", "split"], columns="metric", values="value")
