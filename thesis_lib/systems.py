"""The pretraining systems side by side: what the report keeps of each, and the table and words made of it.

All are asked the same on the same splits: zero-shot, fine-tuned for both numbers of epochs, and their frozen
features, one vector a second, under the ASFormer of the baseline. Order sensitivity is the accuracy that a fine-tuned
system loses when the frames of each clip are shuffled.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from thesis_lib import audit, conclusions, methods, metrics, protocol, results, tables

ZERO, FEW, MANY, FROZEN = KINDS = ("zero-shot", "8 epochs", "15 epochs", "frozen + ASFormer")
COUNTS = {"parameters": "parameters", "clips": "clips or pairs seen in pretraining"}  # -> protocol of their rows
MINUTES, ORDER = "pretraining", "frames of each clip in order less shuffled"
TITLES = {methods.VIDEOCLIP: "VideoCLIP"} | {name: method.title for name, method in methods.METHODS.items()}
MODALITIES = {"VideoCLIP": "video, text"} | {method.title: method.modalities for method in methods.METHODS.values()}
NO_TEXT = "no text tower"
HEADERS = {"clips": "clips seen", "order": "order sensitivity"} | {kind: f"{kind} ↑" for kind in KINDS}
FORMATS = {"parameters": ",.0f", "clips seen": ",.0f", "minutes": ".1f", "order sensitivity": "+.3f"}


def row_name(title: str, kind: str) -> str:
    """What the rows of a system are called: of VideoCLIP as in notebooks 06 and 07, with its public weights."""
    if title == TITLES[methods.VIDEOCLIP] and kind != FROZEN:
        return f"{title} {kind}, public weights"
    return f"{title} {kind}"


def stated(epochs: Sequence[int]) -> list[tuple[str, int]]:
    """(FEW or MANY, number of epochs) of the fine-tunings of a report, which have one or two lengths; one is MANY.

    Raises ValueError for more: the tables have a column for each of these two.
    """
    lengths = sorted(set(epochs))
    if not 1 <= len(lengths) <= 2:
        raise ValueError(f"epochs={list(epochs)}: one or two numbers of epochs are reported, a few and many")
    return list(zip((FEW, MANY)[-len(lengths) :], lengths, strict=True))


def keep_costs(report, title: str, *, parameters: int, clips: int | None = None, seconds: float | None = None) -> None:
    """Add what pretraining of a system took, as far as it is known: its size, the clips (pairs) it saw, its seconds."""
    about = dict(method=title, weights="", split=None, epoch=None)
    for name, value in {"parameters": parameters, "clips": clips}.items():
        if value is not None:
            report.add(metric="count", value=value, unit="count", protocol=COUNTS[name], **about)
    if seconds is not None:
        report.add(metric="duration", value=seconds, unit="seconds", protocol=MINUTES, **about)


def keep_order(report, title: str, in_order: float, shuffled: float, split: int) -> None:
    """Add the order sensitivity of a fine-tuned system on one split, both accuracies in 0..1."""
    report.add(
        method=title, weights="", split=split, epoch=None, metric="difference", value=in_order - shuffled, unit="0..1",
        protocol=ORDER,
    )  # fmt: skip


def all_rows(report, p: SimpleNamespace) -> pd.DataFrame:
    """The rows of all notebooks but the summary, to whose report those of systems that no notebook shows are added."""
    rows = results.load(p.profile).query("notebook != '08_summary'")
    if not (alone := methods.of_notebook("")):
        return rows
    from thesis_lib import appendix

    for name in alone:
        appendix.add_rows(report, p, name)
    return pd.concat([rows, pd.DataFrame(report.rows.values())], ignore_index=True)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a system: modalities, parameters, clips seen, minutes, accuracy of each of KINDS on every frame, order.

    rows: all of a run. Accuracies are `tables.Spread` over splits; what has no row is missing, which tables print as
    "not run"; a system without texts has `NO_TEXT` where zero-shot would stand.
    """
    found = {}
    for title in TITLES.values():
        own = rows[rows["method"] == title]
        of_protocol = own.groupby("protocol")["value"].mean()
        line = {"modalities": MODALITIES[title]}
        line |= {name: of_protocol.get(place) for name, place in COUNTS.items()}
        line["minutes"] = of_protocol.get(MINUTES, np.nan) / 60
        for kind in KINDS:
            values = accuracies(rows, title, kind)
            line[kind] = tables.Spread(values) if len(values) else None
        if "text" not in MODALITIES[title]:
            line[ZERO] = NO_TEXT
        line["order"] = of_protocol.get(ORDER)
        found[title] = line
    lines = {title: pd.Series(line, dtype=object) for title, line in found.items()}  # or a Spread becomes its mean
    return pd.DataFrame(lines).T.rename_axis("method")


def accuracies(rows: pd.DataFrame, title: str, kind: str) -> pd.Series:
    """Accuracy on every frame of each split (index), of the classifier head where there are two."""
    rows = rows.reindex(columns=dict.fromkeys([*rows.columns, "head", "videos"]))
    kept = (rows["method"] == row_name(title, kind)) & (rows["metric"] == "accuracy")
    kept &= (rows["protocol"] == protocol.FRAMES) & rows["split"].notna() & rows["videos"].isna()
    kept &= rows["head"].isna() | (rows["head"] == "classifier")
    return rows[kept].drop_duplicates("split", keep="last").set_index("split")["value"].sort_index()


def tests(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Every system against VideoCLIP in one of KINDS, paired over splits, corrected by Holm: index title."""
    base = accuracies(rows, TITLES[methods.VIDEOCLIP], kind)
    found = {}
    for title in [*TITLES.values()][1:]:
        own = accuracies(rows, title, kind)
        both = own.index.intersection(base.index)
        found[title] = metrics.paired_test(own[both].to_numpy(float), base[both].to_numpy(float))
    frame = pd.DataFrame.from_dict(found, orient="index").rename_axis("method")
    made = frame["p"].where(frame["n"] >= conclusions.FEWEST_PAIRS).dropna()
    return frame.assign(p_holm=audit.holm(made).reindex(frame.index))


def sentences(rows: pd.DataFrame, kinds: Sequence[str] = KINDS) -> list[str]:
    """For each kind of use a sentence: the best system, and which differ from VideoCLIP after Holm."""
    said = []
    for kind in kinds:
        means = {title: accuracies(rows, title, kind).mean() for title in TITLES.values()}
        means = {title: value for title, value in means.items() if not np.isnan(value)}
        if len(means) < 2:
            said.append(f"{kind[0].upper() + kind[1:]}: not run for two systems.")
            continue
        top = max(means, key=means.get)
        best = f"{kind[0].upper() + kind[1:]}: the highest mean has {top} ({means[top]:.3f})."
        said.append(f"{best} {_against(tests(rows, kind))}")
    return said


def _against(found: pd.DataFrame) -> str:
    groups: Mapping[str, list] = {}
    for title, test in found.iterrows():
        outcome = conclusions.outcome(test)
        if outcome != "not run":
            groups.setdefault(outcome, []).append(f"{title} {conclusions.points(test['mean_difference'], '')}")
    words = {
        "better": "better than VideoCLIP", "worse": "worse than VideoCLIP", "undecided": "not to be told apart from it",
        "equal": "equal to it", "too few": "on too few splits for a test",
    }  # fmt: skip
    parts = [f"{words[key]}: {conclusions.listed(names)}" for key, names in groups.items()]
    return (
        f"Differences in points, after Holm: {'; '.join(parts)}." if parts else "VideoCLIP has no row to compare with."
    )
