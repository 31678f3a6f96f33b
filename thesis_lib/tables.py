"""Tables of the report: tidy rows in, a DataFrame out, and its looks in one place.

The builders return numbers, not text; `to_html` and `to_text` round them. A header's arrow alone says which value is
best: `Accuracy ↑` prints its largest value bold, `Edit distance ↓` its smallest. A missing value reads "not run".
"""

import html
import re
from numbers import Integral, Real

import numpy as np
import pandas as pd

NOT_RUN = "not run"
HEADERS = {  # metric: header, format
    "accuracy": ("Accuracy ↑", ".3f"),
    "recall": ("Recall ↑", ".3f"),
    "edit_score": ("Edit score ↑", ".1f"),
    "frame_levenshtein": ("Edit distance ↓ (frames)", ".1f"),
    "f1@10": ("F1@10 ↑", ".3f"),
    "f1@25": ("F1@25 ↑", ".3f"),
    "f1@50": ("F1@50 ↑", ".3f"),
    "loss": ("Loss ↓", ".3f"),
    "duration": ("Time (s)", ".0f"),
    "p_value": ("p", "p"),
}
FORMATS = {header: spec for header, spec in HEADERS.values()} | {"Edit distance ↓ (seconds)": ".1f", "p (paired)": "p"}


class Spread(float):
    """A mean that knows its standard deviation (ddof 1) and count: 0.812 in arithmetic, "0.812 ± 0.021" in a table."""

    def __new__(cls, values):
        values = np.asarray([value for value in values if not pd.isna(value)], dtype=float)
        self = super().__new__(cls, values.mean() if len(values) else np.nan)
        self.std, self.count = values.std(ddof=1) if len(values) > 1 else np.nan, len(values)
        return self

    def __format__(self, spec):
        mean = format(float(self), spec)
        return mean if np.isnan(self.std) else f"{mean} ± {self.std:{spec.lstrip('+')}}"


def header(metric: str, unit: str = "frames") -> str:
    """The name of a metric as tables and charts print it, with its unit and the direction of better."""
    text = HEADERS.get(metric, (metric.replace("_", " "), ""))[0]
    return text.replace("(frames)", f"({unit})")


def per_split(rows, metrics, by="split") -> pd.DataFrame:
    """One row a split and one of mean ± standard deviation, one column a metric.

    rows: tidy (columns `by`, metric, value and unit), one method and one protocol: two values of a split are an error.
    """
    rows = rows[rows["metric"].isin(metrics)]
    wide = _wide(rows, by, metrics).sort_index()
    body = {header(metric, _unit(rows, metric)): [*wide[metric], Spread(wide[metric])] for metric in metrics}
    index = pd.Index([*map(str, wide.index), "mean ± std"], name=by)
    return pd.DataFrame({name: pd.Series(column, index, dtype=object) for name, column in body.items()})


def compare(rows, metrics, by="method", unit="split", baseline=None) -> pd.DataFrame:
    """One row a method: mean ± standard deviation over splits of each metric.

    by: a column or a list of them. baseline: a value of `by` (a tuple for a list); adds the difference of the
    first metric to it and the p of a paired two-sided t-test over the splits both have (scipy.stats.ttest_rel).
    """
    rows = rows[rows["metric"].isin(metrics)]
    keys = [by] if isinstance(by, str) else list(by)
    groups = {key: group for key, group in rows.groupby(keys, sort=False, dropna=False)}
    names = {metric: header(metric, _unit(rows, metric)) for metric in metrics}
    wide = {key: _wide(group, unit, metrics) for key, group in groups.items()}
    table = pd.DataFrame(list(groups), columns=keys)
    for metric, name in names.items():
        table[name] = pd.Series([Spread(one[metric]) for one in wide.values()], dtype=object)
    if baseline is not None:
        reference = baseline if isinstance(baseline, tuple) else (baseline,)
        pairs = [paired(one[metrics[0]], wide[reference][metrics[0]]) for one in wide.values()]
        same = [key == reference for key in wide]
        short = names[metrics[0]].split()[0].lower()
        table[f"Δ {short}"] = ["–" if own else difference for own, (difference, _) in zip(same, pairs, strict=True)]
        table["p (paired)"] = ["–" if own else p for own, (_, p) in zip(same, pairs, strict=True)]
    return table.set_index(keys)


def paired(values, baseline) -> tuple[float, float]:
    """Mean difference of two series over the index they share, and p of the paired t-test (nan below two pairs)."""
    from scipy import stats

    both = pd.concat([values, baseline], axis=1, join="inner").dropna().to_numpy(dtype=float)
    if not len(both):
        return np.nan, np.nan
    difference = both[:, 0] - both[:, 1]
    if len(both) < 2 or np.ptp(difference) == 0:  # no spread: the test has no denominator
        return difference.mean(), np.nan if difference.any() or len(both) < 2 else 1.0
    return difference.mean(), float(stats.ttest_rel(both[:, 0], both[:, 1]).pvalue)


def final_and_best(history, metric, unit="split", epoch="epoch") -> pd.DataFrame:
    """Per split: the value at the last epoch, the best one and its epoch, chosen on the very data it is measured on."""
    better = "idxmin" if "↓" in header(metric) else "idxmax"
    rows = {}
    for split, group in history.dropna(subset=[metric]).groupby(unit):
        last, best = group.loc[group[epoch].idxmax()], group.loc[getattr(group[metric], better)()]
        rows[str(split)] = [last[metric], int(last[epoch]), best[metric], int(best[epoch])]
    name = header(metric)
    columns = [f"{name}, final", "final epoch", f"{name}, best", "best epoch"]
    finals, bests = ([row[place] for row in rows.values()] for place in (0, 2))
    body = [*rows.values(), [Spread(finals), "", Spread(bests), ""]]
    index = pd.Index([*rows, "mean ± std"], name=unit)  # built whole: a row set later would lose its deviations
    return pd.DataFrame({name: pd.Series([row[i] for row in body], index, object) for i, name in enumerate(columns)})


def table10(published, ours, metric="accuracy", differences=True) -> pd.DataFrame:
    """The thesis's last table: methods, our mean ± standard deviation, the thesis's and the paper's number.

    published: columns method, source ("thesis" | "paper"), metric, value. ours: tidy rows. Methods in the order of
    `published`, then ours alone. differences=False on synthetic data: a difference to a published number means nothing.
    """
    ours, published = ours[ours["metric"] == metric], published[published["metric"] == metric]
    numbers = published.set_index(["method", "source"])["value"]
    methods, name = list(dict.fromkeys([*published["method"], *ours["method"]])), header(metric)
    rows = []
    for method in methods:
        own = Spread(ours.loc[ours["method"] == method, "value"])
        thesis, paper = (numbers.get((method, source), "–") for source in ("thesis", "paper"))
        gap = own - thesis if thesis != "–" else "–"
        rows.append([method, own, thesis, paper, gap])
    table = pd.DataFrame(rows, columns=["method", f"{name}, this run", "thesis", "paper", "Δ to thesis"], dtype=object)
    return table.set_index("method") if differences else table.drop(columns="Δ to thesis").set_index("method")


def to_html(frame: pd.DataFrame, formats: dict[str, str] | None = None, index: bool | None = None) -> str:
    """The frame as a bare HTML table: numbers right-aligned, the best of a column bold, missing values "not run".

    formats: {column: format specification}, over those of the metrics; else 3 decimals. index: shown if it has a name.
    """
    cells, best, numeric = _laid_out(frame, formats, index)
    align = ["right" if number else "left" for number in numeric]
    head = "".join(
        f'<th style="text-align: {a}">{html.escape(name)}</th>' for a, name in zip(align, cells[0], strict=True)
    )
    body = []
    for row, marks in zip(cells[1:], best, strict=True):
        line = ""
        for a, text, mark in zip(align, row, marks, strict=True):
            kind = ' class="missing"' if text == NOT_RUN else ""
            text = re.sub(r"^-(?=[\d.])", "−", text)
            text = re.sub(" (± .*)", r" <small>\1</small>", html.escape(text))
            text = f"<strong>{text}</strong>" if mark else text
            line += f'<td{kind} style="text-align: {a}">{text}</td>'
        kind = ' class="mean"' if row[0].startswith("mean") else ""
        body.append(f"<tr{kind}>{line}</tr>")
    rows = "\n".join(body)
    return f'<table class="thesis-table">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def to_text(frame: pd.DataFrame, formats: dict[str, str] | None = None, index: bool | None = None) -> str:
    """The frame as aligned plain text, the best of a column marked by an asterisk."""
    cells, best, numeric = _laid_out(frame, formats, index)
    marked = [
        [
            text + ("*" if mark else " " if number else "")
            for text, mark, number in zip(row, marks, numeric, strict=True)
        ]
        for row, marks in zip(cells, [[False] * len(numeric), *best], strict=True)
    ]
    widths = [max(len(row[i]) for row in marked) for i in range(len(numeric))]
    lines = []
    for row in marked:
        pairs = zip(row, widths, numeric, strict=True)
        lines.append("  ".join(text.rjust(w) if number else text.ljust(w) for text, w, number in pairs).rstrip())
    return "\n".join(lines)


def _laid_out(frame, formats, index):
    """Texts [1 + R][C] with the header first, marks of best [R][C], and which columns hold numbers [C]."""
    if index if index is not None else any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [" · ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    columns = [list(frame.iloc[:, i]) for i in range(len(names))]
    specs = [(FORMATS | (formats or {})).get(name, FORMATS.get(name.split(",")[0], ".3f")) for name in names]
    texts = [[_text(value, spec) for value in column] for column, spec in zip(columns, specs, strict=True)]
    marks = [_best(name, column, text) for name, column, text in zip(names, columns, texts, strict=True)]
    numeric = [any(_number(value) for value in column) for column in columns]
    return [names, *map(list, zip(*texts, strict=True))], list(map(list, zip(*marks, strict=True))), numeric


def _best(name, column, texts) -> list[bool]:
    """Where the best single value of a column stands, by the arrow in its header; means compete only with means."""
    choose = max if "↑" in name else min if "↓" in name else None
    single = [_number(value) and not isinstance(value, Spread) for value in column]
    rivals = single if any(single) else [_number(value) for value in column]
    values = [value for value, rival in zip(column, rivals, strict=True) if rival]
    if choose is None or len(values) < 2 or min(values) == max(values):
        return [False] * len(column)
    winner = {
        text for value, text, rival in zip(column, texts, rivals, strict=True) if rival and value == choose(values)
    }
    means = {re.split(" ± ", text)[0] for text in winner}  # what rounds to the same number shares the mark
    return [rival and text.split(" ± ")[0] in means for text, rival in zip(texts, rivals, strict=True)]


def _number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and not pd.isna(value)


def _text(value, spec) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return NOT_RUN
    if spec == "p" and _number(value):  # a test has no probability of zero
        return f"{value:.3f}" if value >= 0.001 else "< 0.001"
    return format(value, spec) if _number(value) and not isinstance(value, Integral) else str(value)


def _unit(rows, metric) -> str:
    units = rows.loc[rows["metric"] == metric, "unit"].dropna().unique() if "unit" in rows else []
    if len(units) > 1:
        raise ValueError(f"{metric} stands in {' and '.join(units)}: one table takes one unit; select rows by protocol")
    return units[0] if len(units) else "frames"


def _wide(rows, by, metrics) -> pd.DataFrame:
    twice = rows[rows.duplicated([by, "metric"])]
    if len(twice):
        where = ", ".join(f"{name} {value}" for name, value in twice.iloc[0][[by, "metric"]].items())
        raise ValueError(f"two values for {where}: select one method, epoch and protocol before making a table")
    return rows.pivot(index=by, columns="metric", values="value").reindex(columns=list(metrics))
