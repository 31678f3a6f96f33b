"""What a run shows, in words: every sentence is a function of numbers, so that none can say what they do not.

Differences are tested over splits (or seeds) by a paired t-test; a family of tests is corrected by Holm. A difference
counts only where the corrected p is below ALPHA. What was not run is said to be not run.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thesis_lib import audit, metrics, protocol, published, tables

ALPHA = 0.05
FEWEST_PAIRS = 3  # fewer are not tested: with two, one lucky pair decides
CONSTANT = "constant class"
METHODS = [published.METHODS[table] for table in "3456789"]  # in the order of Table 10
BASELINE, OWN_ZERO, ZERO, OWN_8, OWN_15, PUBLIC_8, TUNED = METHODS
CONTROL = "VideoCLIP zero-shot, small scale, {} captions"
SPOKEN = {BASELINE: "ASFormer", CONSTANT: "the constant class"} | {
    f"VideoCLIP {kind}, {weights} weights": f"{words} ({weights} weights)"
    for kind, words in {
        "zero-shot": "zero-shot VideoCLIP",
        "8 epochs": "VideoCLIP after 8 epochs",
        "15 epochs": "VideoCLIP after 15 epochs",
    }.items()
    for weights in ("own", "public")
}
FAMILIES = {  # family of tests: its pairs, the first against the second, all named before the run
    "chance": [(ZERO, CONSTANT), (OWN_ZERO, CONSTANT)],
    "baseline": [(method, BASELINE) for method in METHODS[1:]],
    "weights and epochs": [(ZERO, OWN_ZERO), (TUNED, OWN_15), (OWN_15, OWN_8), (TUNED, PUBLIC_8)],
}


def is_synthetic(documents: Sequence[dict]) -> bool:
    """Whether any of these results files (`results.documents`) was computed from the embedded corpus."""
    return any(one["provenance"].get("parameters", {}).get("data_root") == "" for one in documents)


def banner(synthetic: bool) -> str:
    """Markdown that stands before the first number."""
    if not synthetic:
        return "> **Real data.** The numbers of this run stand beside the published ones, each by its own protocol."
    return (
        "> **⚠ SYNTHETIC DATA: THESE ARE NOT 50SALADS RESULTS.**\n>\n"
        "> Every number of this run was measured on a small corpus drawn by a program: other pictures, other words, "
        "shorter videos, far smaller networks. Published numbers stand beside them to show what the comparison will "
        "look like, and “public” weights are stand-ins trained here. **No difference to a published number is printed: "
        "between two data sets it is neither a gain nor a loss.** What may be compared are the methods of this run."
    )


# -- rows ------------------------------------------------------------------------------------------------------------


def of_methods(rows: pd.DataFrame, grid: str) -> pd.DataFrame:
    """One value a method, split and metric on one grid (`protocol.FRAMES` or SECONDS), methods as in Table 10.

    Of a fine-tuned model the classifier head counts, which is the thesis's; of a training its last epoch. What two
    notebooks measured alike stands once. A method without rows has one of NaN for accuracy, without a split.
    """
    rows = rows.reindex(columns=dict.fromkeys([*rows.columns, "head", "videos"]))
    rows = rows[(rows["protocol"] == grid) & rows["split"].notna() & rows["videos"].isna()]
    rows = rows[rows["head"].isna() | (rows["head"] == "classifier")]
    columns, found = ["method", "split", "epoch", "metric", "value", "unit", "protocol"], []
    for method in [*METHODS, CONSTANT]:
        own = rows.loc[rows["method"] == method, columns]
        if not len(own):
            own = pd.DataFrame([[method, None, None, "accuracy", np.nan, "0..1", grid]], columns=columns)
        own = own.astype({"split": "Int64", "epoch": "Int64"}).sort_values(["split", "epoch"], na_position="first")
        found.append(own.drop_duplicates(["split", "metric"], keep="last"))
    return pd.concat(found, ignore_index=True)


def as_table10(frames: pd.DataFrame, seconds: pd.DataFrame) -> pd.DataFrame:
    """Rows by the protocols of the thesis's Table 10: ASFormer on frames, VideoCLIP on seconds."""
    both = pd.concat([frames[frames["method"] == BASELINE], seconds[seconds["method"] != BASELINE]])
    return both[both["method"] != CONSTANT].dropna(subset=["value"])


def tests(rows: pd.DataFrame, family: str, metric: str = "accuracy") -> pd.DataFrame:
    """Paired tests over splits of one of FAMILIES: index (method, other); mean_difference, t, p, n, p_holm.

    rows: of `of_methods`. A pair without rows has n = 0.
    """
    values = _wide(rows, metric)
    found = {(one, other): metrics.paired_test(values[one], values[other]) for one, other in FAMILIES[family]}
    return _with_holm(found, ["method", "other"])


def overview(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """All methods: mean ± deviation over splits of each measure, and of the first the test against the baseline."""
    frame = tables.compare(rows, measures).astype(object)
    against = tests(rows, "baseline", measures[0]).droplevel("other").reindex(frame.index)
    names = {"mean_difference": f"Δ {measures[0]}", "p": "p (paired)", "p_holm": "p (Holm)"}
    for name, title in names.items():
        frame[title] = against[name].astype(object)
        if name != "mean_difference":
            frame.loc[against["n"].between(1, FEWEST_PAIRS - 1), title] = "too few"
        frame.loc[[BASELINE, CONSTANT], title] = "–"
    return frame


def few_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """The same network with pretraining and from scratch, per head and number of training videos.

    rows: with columns videos (0: all), seed and head, weights "reference" or "scratch", scored a second at a time.
    Index (head, videos); columns pretrained and scratch (`tables.Spread` over seeds), mean_difference, p, p_holm, n.
    Empty where there are no such rows.
    """
    names = ["pretrained", "scratch", "mean_difference", "p", "p_holm", "n"]
    rows = rows.reindex(columns=dict.fromkeys([*rows.columns, "head", "videos", "seed"]))
    rows = rows[rows["videos"].notna() & (rows["metric"] == "accuracy") & (rows["protocol"] == protocol.SECONDS)]
    found, spreads = {}, []
    for key, group in rows.astype({"videos": int}).groupby(["head", "videos"], sort=False):
        values = group.pivot(index="seed", columns="weights", values="value").reindex(columns=["reference", "scratch"])
        found[key] = metrics.paired_test(values["reference"], values["scratch"])
        spreads.append([tables.Spread(values["reference"]), tables.Spread(values["scratch"])])
    if not found:
        return pd.DataFrame(columns=names, index=pd.MultiIndex.from_tuples([], names=["head", "videos"]))
    frame = _with_holm(found, ["head", "videos"])
    frame[names[:2]] = pd.DataFrame(spreads, frame.index, dtype=object)
    return frame[names].sort_index(
        key=lambda level: level.where(level != 0, np.inf) if level.name == "videos" else level
    )


def _wide(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric: a row a split, a column each of METHODS and the constant class."""
    values = rows[rows["metric"] == metric].pivot(index="split", columns="method", values="value")
    return values.reindex(columns=[*METHODS, CONSTANT])


def _with_holm(found: dict, names: list[str]) -> pd.DataFrame:
    """Tests as a frame, p_holm corrected for those of the family that could be made."""
    frame = pd.DataFrame(list(found.values()), index=pd.MultiIndex.from_tuples(found, names=names))
    made = frame["p"].where(frame["n"] >= FEWEST_PAIRS).dropna()
    return frame.assign(p_holm=audit.holm(made).reindex(frame.index))


# -- sentences -------------------------------------------------------------------------------------------------------


def outcome(test: dict | pd.Series) -> str:
    """better · worse · undecided · equal · too few · not run: what a paired test allows to say. More is better.

    test: n, mean_difference, p and where there is one p_holm, which then counts. The same difference in every pair
    leaves a t-test without a denominator: "equal" if it is none, else "undecided".
    """
    if not test["n"]:
        return "not run"
    if test["n"] < FEWEST_PAIRS:
        return "too few"
    p = _p(test)
    if np.isnan(p):
        return "equal" if abs(test["mean_difference"]) < 1e-12 else "undecided"
    return "undecided" if p >= ALPHA else "better" if test["mean_difference"] > 0 else "worse"


def compare(name: str, other: str, test: dict | pd.Series, measure: str = "accuracy", unit: str = "splits") -> str:
    """One sentence about `name` against `other`; test as in `outcome`, its difference in 0..1."""
    name, other = SPOKEN.get(name, name), SPOKEN.get(other, other)
    said, n, by = outcome(test), int(test["n"]), f"{points(test['mean_difference'])} of {measure}"
    evidence = f"the same on all {n} {unit}, which no t-test can judge"
    if not np.isnan(p := _p(test)):
        after = " after Holm" if "p_holm" in test else ""
        evidence = f"paired t-test over {n} {unit}, p {'<' if p < 0.001 else '='} {max(p, 0.001):.3f}{after}"
    text = {
        "not run": f"{name} against {other}: not run.",
        "too few": f"{name} differs from {other} by {by} on {counted(n, unit)}, too few for a test.",
        "equal": f"{name} and {other} have the same {measure} on all {n} {unit}.",
        "undecided": f"{name} and {other} cannot be told apart: {by} ({evidence}).",
        "better": f"{name} is better than {other}: {by} ({evidence}).",
        "worse": f"{name} is worse than {other}: {by} ({evidence}).",
    }[said]
    return text[0].upper() + text[1:]


def sentences(rows: pd.DataFrame, family: str, metric: str = "accuracy", measure: str = "accuracy") -> dict:
    """{pair: `compare` of it} for a family of tests."""
    return {pair: compare(*pair, test, measure) for pair, test in tests(rows, family, metric).iterrows()}


def grouped(rows: pd.DataFrame, family: str, metric: str = "accuracy", measure: str = "accuracy") -> str:
    """All tests of a family in one sentence for each outcome, with the differences in points."""
    phrases = {
        "better": "better than {other}",
        "worse": "worse than {other}",
        "undecided": "not to be told apart from {other}",
        "equal": "equal to {other}",
        "too few": "on too few splits for a test against {other}",
        "not run": "not run, or without {other} to compare with",
    }
    said = {}
    for (name, other), test in tests(rows, family, metric).iterrows():
        difference = "" if outcome(test) == "not run" else f" {points(test['mean_difference'], '')}"
        said.setdefault((outcome(test), other), []).append(SPOKEN[name] + difference)
    order = sorted(said, key=lambda key: list(phrases).index(key[0]))
    texts = [f"{phrases[key].format(other=SPOKEN[other])}: {listed(said[key, other])}" for key, other in order]
    return f"By {measure} (differences in points), {'; '.join(texts)}."


def zero_shot(rows: pd.DataFrame, method: str = ZERO) -> str:
    """How many times the constant class a method reaches that saw no label."""
    both = _wide(rows, "accuracy")[[method, CONSTANT]].dropna().mean()
    if both.isna().any():
        return f"{SPOKEN[method]} against {SPOKEN[CONSTANT]}: not run."
    ratio = f", {both[method] / both[CONSTANT]:.1f} times as much" if both[CONSTANT] else ""
    against = f"{both[CONSTANT]:.3f} of {SPOKEN[CONSTANT]}{ratio}"
    return f"Without a labelled salad, {SPOKEN[method]} has accuracy {both[method]:.3f} against {against}."


def helps(few: pd.DataFrame) -> str:
    """What pretraining adds to the same network, head by head. few: of `few_labels`."""
    phrases = {
        "better": "pretraining helps with {} training videos ({} points)",
        "worse": "pretraining hurts with {} training videos ({} points)",
        "undecided": "no difference can be shown with {} training videos ({} points)",
        "equal": "both are equal with {} training videos ({} points)",
        "too few": "the repetitions are too few for a test with {} training videos ({} points)",
        "not run": "{} training videos were not run",
    }
    texts = []
    for head, group in few.groupby(level=0, sort=False) if len(few) else []:
        said = {}
        for (_, videos), test in group.iterrows():
            said.setdefault(outcome(test), []).append((videos or "all", points(test["mean_difference"], "")))
        parts = [phrases[key].format(*map(listed, zip(*said[key], strict=True))) for key in phrases if key in said]
        texts.append(f"With the {head} head {'; '.join(parts)}.")
    return " ".join(texts) or "The comparison with the same network from scratch was not run."


def answer(few: pd.DataFrame) -> str:
    """The question of the thesis in a few words, from the tests of `few_labels`: does pretraining help?"""
    said = [outcome(test) for _, test in few.iterrows() if outcome(test) != "not run"]
    better, worse, n = said.count("better"), said.count("worse"), counted(len(said), "comparisons")
    if not said:
        return "Not run"
    if set(said) == {"too few"}:
        return "Too few runs to say"
    if better and worse:
        return f"It depends: of {n}, pretraining helps in {better} and hurts in {worse}"
    if better:
        return f"Yes, in each of {n}" if better == len(said) else f"In part: a gain can be shown in {better} of {n}"
    return f"No: a loss can be shown in {worse} of {n}" if worse else f"No effect can be shown in {n}"


def control(rows: pd.DataFrame) -> str:
    """Zero-shot after a small training on permuted captions and on true ones, beside the constant class.

    rows: all of a run; those of the control are called as CONTROL, a value a split and seed.
    """
    rows = rows[(rows["metric"] == "accuracy") & (rows["protocol"] == protocol.SECONDS)]
    runs = {kind: rows[rows["method"] == CONTROL.format(kind)] for kind in ("permuted", "true")}
    level = of_methods(rows, protocol.SECONDS).query("method == @CONSTANT")["value"].mean()
    permuted, true = (runs[kind]["value"].mean() for kind in runs)
    if np.isnan([permuted, true, level]).any():
        return "The control with permuted captions was not run."
    means = "so the words carry what zero-shot reaches"
    if permuted > level:
        means = "so part of what zero-shot reaches does not come from the words"
    elif true <= level:
        means = "so the control is too small to tell"
    seeds = counted(runs["permuted"]["seed"].nunique(), "seeds")
    return (
        f"Trained anew on a small scale, zero-shot has accuracy {true:.3f} with true captions and {permuted:.3f} with "
        f"permuted ones (mean of {seeds}), the constant class {level:.3f}: {means}."
    )


def points(difference: float, unit: str = " points") -> str:
    """A difference of shares as signed percentage points."""
    return f"{100 * difference:+.1f}{unit}".replace("-", "−")


def counted(n: int, unit: str) -> str:
    """A number with its noun: "1 split", "2 splits"."""
    return f"{n} {unit.removesuffix('s') if n == 1 else unit}"


def listed(items: Sequence) -> str:
    """A list in words: "2, 4 and 8"."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def lengths(rows: pd.DataFrame) -> str:
    """What “8 epochs” and “15 epochs” are in this run, if they are something else. rows: of `of_methods`."""
    named = {8: (OWN_8, PUBLIC_8), 15: (OWN_15, TUNED)}
    true = {n: rows.loc[rows["method"].isin(methods), "epoch"].max() for n, methods in named.items()}
    other = [f"“{n} epochs” are {epoch}" for n, epoch in true.items() if not pd.isna(epoch) and epoch != n]
    return f" In this run {listed(other)}." if other else ""


def run_times(documents: Sequence[dict]) -> pd.DataFrame:
    """Wall time and memory of each notebook, and how many numbers it left."""
    made = [(one["notebook"], one["provenance"], one["rows"]) for one in documents]
    rows = [[name, about.get("wall_time_s"), about.get("peak_memory_mb"), len(rows)] for name, about, rows in made]
    frame = pd.DataFrame(rows, columns=["notebook", "wall time (s)", "peak memory (MB)", "numbers"])
    return frame.set_index("notebook")


def _p(test) -> float:
    return float(test["p_holm"] if "p_holm" in test else test["p"])
