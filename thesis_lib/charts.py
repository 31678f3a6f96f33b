"""Charts of the report: curves, dots, bars and histograms from plain frames. Notebooks take them from `figures`."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from thesis_lib.palette import INK, OURS, PAGE_WIDTH, PAPER, SERIES, TEXT_WIDTH, THESIS, WRONG, panels, plain, styled


@styled
def learning_curves(
    history, y, hue=None, x="epoch", unit="split", labels=None, colors=None, width=TEXT_WIDTH, reference=None
) -> Figure:
    """One panel a quantity: a thin line per split, the mean and a band of one standard deviation.

    history: one row an epoch and split, with the columns named by x, y, hue and unit (absent unit: one line).
    y: a column or a list of them. labels: {column: axis label}. colors: {value of hue: colour}.
    reference: {column: {text: level}} drawn as dashed lines.
    """
    columns = [y] if isinstance(y, str) else list(y)
    figure, axes = panels(1, len(columns), width=width, height=2.6)
    groups = list(history.groupby(hue, sort=False)) if hue else [("", history)]
    for ax, column in zip(axes[0], columns, strict=True):
        for i, (name, group) in enumerate(groups):
            color = (colors or {}).get(name, SERIES[i % len(SERIES)])
            group = group.dropna(subset=[column])
            runs = [run for _, run in group.groupby(unit)] if unit in group else [group]
            for run in runs if len(runs) > 1 else []:
                ax.plot(run[x], run[column], color=color, linewidth=0.6, alpha=0.45)
            at = group.groupby(x)[column]
            mean, spread = at.mean(), at.std(ddof=1).fillna(0)
            ax.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
            ax.plot(mean.index, mean, color=color, label=str(name), marker="o" if len(mean) < 4 else None, markersize=3)
        for text, level in (reference or {}).get(column, {}).items():
            ax.axhline(level, color=PAPER, linestyle="--", linewidth=0.9)
            gap = (history.dropna(subset=[column]).groupby(x)[column].mean() - level).abs()
            left = gap.iloc[0] > gap.iloc[-1]  # where the curves are farther away
            place = (0.01 if left else 0.99, level), (0, 2), ("axes fraction", "data"), "offset points"
            ax.annotate(text, *place, ha="left" if left else "right", va="bottom", fontsize=8, color=PAPER)
        ax.set_xlabel(x)
        ax.set_title((labels or {}).get(column, column.replace("_", " ")))
        ax.grid(axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if hue:
        axes[0, -1].legend()
    return figure


@styled
def dot_plot(frame, published=None, labels=None, width=None) -> Figure:
    """Methods against metrics: a faint dot per split, the mean with one standard deviation, published numbers beside.

    frame: columns method, metric, value, a row per split. published: columns method, metric, value, source ("thesis" or
    "paper"), or None on data where they do not apply. labels: {metric: axis label}. Order as in the frame, top down.
    """
    both = frame if published is None else pd.concat([frame, published])
    methods, metrics = list(dict.fromkeys(both["method"])), list(dict.fromkeys(frame["metric"]))
    width = width or (TEXT_WIDTH if len(metrics) < 3 else PAGE_WIDTH)
    figure, axes = panels(1, len(metrics), width=width, height=0.34 * len(methods) + 0.95, sharey=True)
    place = {method: -i for i, method in enumerate(methods)}
    for ax, metric in zip(axes[0], metrics, strict=True):
        for method, group in frame[frame["metric"] == metric].groupby("method", sort=False):
            values, y = group["value"].dropna().to_numpy(float), place[method]
            if not len(values):
                continue
            ax.plot(values, np.full(len(values), y + 0.2), "o", color=OURS, alpha=0.45, markersize=3.5, mew=0)
            spread = values.std(ddof=1) if len(values) > 1 else 0
            ax.errorbar(values.mean(), y, xerr=spread, fmt="o", color=OURS, markersize=5.5, linewidth=1.2)
        for source, marker, color in (("thesis", "D", THESIS), ("paper", "s", PAPER)):
            rows = (
                published[(published["metric"] == metric) & (published["source"] == source)]
                if published is not None
                else []
            )
            if len(rows):
                heights = [place[method] - 0.22 for method in rows["method"]]
                ax.plot(rows["value"], heights, marker, color=color, markersize=4, label=source)
        ax.set_title((labels or {}).get(metric, metric.replace("_", " ")))
        ax.set_yticks(list(place.values()), [textwrap.fill(method, 26) for method in methods])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="both")
        ax.set_ylim(-len(methods) + 0.4, 0.6)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    handles = [mpl.lines.Line2D([], [], marker="o", color=OURS, linewidth=1.2, label="this run: splits, mean ± std")]
    for source, marker, color in (("thesis", "D", THESIS), ("paper", "s", PAPER)):
        if published is not None and (published["source"] == source).any():
            handles.append(
                mpl.lines.Line2D([], [], marker=marker, color=color, linewidth=0, markersize=4, label=source)
            )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


@styled
def bars(frame, x, y, hue=None, reference=None, labels=None, colors=None, width=TEXT_WIDTH) -> Figure:
    """Bars of the mean of y for each x (and hue), a black line of one standard deviation, a dot per row.

    frame: columns x, y and hue; several rows of one bar are its spread. reference: {text: level} drawn as dashed lines.
    labels: {column: axis label}. colors: {value of hue, or of x without hue: colour}.
    """
    groups = list(dict.fromkeys(frame[hue])) if hue else [None]
    places = {value: i for i, value in enumerate(dict.fromkeys(frame[x]))}
    figure, axes = panels(width=width, height=2.6)
    ax, size = axes[0, 0], 0.8 / len(groups)
    for i, group in enumerate(groups):
        rows = frame if group is None else frame[frame[hue] == group]
        at = {value: place + (i - (len(groups) - 1) / 2) * size for value, place in places.items()}
        values = rows.groupby(x, sort=False)[y]
        center, mean = [at[value] for value in values.groups], values.mean()
        chosen = [
            (colors or {}).get(value, SERIES[i % len(SERIES)]) for value in (mean.index if group is None else [group])
        ]
        ax.bar(center, mean, size * 0.92, color=chosen, label=None if group is None else str(group))
        if len(rows) > len(mean):
            ax.errorbar(center, mean, yerr=values.std(ddof=1), fmt="none", ecolor=INK, elinewidth=0.9)
            ax.plot([at[value] for value in rows[x]], rows[y], ".", color=INK, markersize=3, alpha=0.5)
    for text, level in (reference or {}).items():
        ax.axhline(level, color=PAPER, linestyle="--", linewidth=0.9)
        ax.annotate(
            text, (1, level), (2, 0), ("axes fraction", "data"), "offset points", fontsize=8, color=PAPER, va="center"
        )
    texts = [textwrap.fill(text, max(8, int(13 * width / len(places)))) for text in plain(places)]
    ax.set_xticks(list(places.values()), texts)
    middle, half = (len(places) - 1) / 2, max(len(places) / 2 + 0.1, 2)
    ax.set_xlim(middle - half, middle + half)
    ax.set_ylabel((labels or {}).get(y, str(y).replace("_", " ")))
    ax.set_xlabel((labels or {}).get(x, ""))
    ax.grid(axis="y")
    if hue:
        figure.legend(ncols=len(groups), loc="outside upper left")
    return figure


@styled
def paired_lines(frame, x, y, hue, unit="seed", labels=None, colors=None) -> Figure:
    """A quantity against the size of something: a dot per unit, the mean as a line, a band of one standard deviation.

    frame: a row per x, hue and unit; x numeric (drawn evenly spaced, so that 2, 4, 8 and 40 videos stay readable).
    """
    sizes = np.sort(frame[x].unique())
    figure, axes = panels(height=2.8)
    ax, groups = axes[0, 0], list(frame.groupby(hue, sort=False))
    for i, (name, group) in enumerate(groups):
        color = (colors or {}).get(name, SERIES[i % len(SERIES)])
        values = group.groupby(x)[y]
        mean, spread, at = values.mean(), values.std(ddof=1).fillna(0), np.searchsorted(sizes, values.mean().index)
        ax.fill_between(at, mean - spread, mean + spread, color=color, alpha=0.13, linewidth=0)
        ax.plot(at, mean, color=color, marker="o", markersize=4, label=str(name))
        shift = 0.05 * (i - (len(groups) - 1) / 2)
        ax.plot(np.searchsorted(sizes, group[x]) + shift, group[y], "o", color=color, markersize=3, alpha=0.4, mew=0)
    ax.set_xticks(np.arange(len(sizes)), [f"{size:g}" for size in sizes])
    ax.set_xlabel((labels or {}).get(x, str(x).replace("_", " ")))
    ax.set_ylabel((labels or {}).get(y, str(y).replace("_", " ")))
    ax.set_title(f"each dot is one {unit}", fontweight="normal", color=PAPER)
    ax.grid(axis="y")
    ax.legend()
    return figure


@styled
def segment_lengths(lengths, unit="s") -> Figure:
    """Lengths of segments on a logarithmic axis. lengths: {title: [N] seconds}, for example truth and prediction."""
    values = {title: np.asarray(row, dtype=float) for title, row in lengths.items()}
    everything = np.concatenate(list(values.values()))
    bins = np.geomspace(everything.min(), everything.max() * 1.001, 31)
    figure, axes = panels(height=2.6)
    ax = axes[0, 0]
    for color, (title, row) in zip(SERIES, values.items(), strict=False):
        text = f"{title}: {len(row)} segments, median {np.median(row):.1f} {unit}"
        weights = np.full(len(row), 100 / len(row))
        ax.hist(
            row,
            bins,
            weights=weights,
            histtype="stepfilled",
            facecolor=(color, 0.18),
            edgecolor=color,
            lw=1.3,
            label=text,
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"segment length, {unit}")
    ax.set_ylabel("% of segments")
    ax.legend()
    return figure


@styled
def histogram(values, label, ylabel="% of each", bins=40) -> Figure:
    """Distributions on one axis, each as per cent of its own. values: {title: [N]}; label: of the axis."""
    groups = {title: np.asarray(row, dtype=float) for title, row in values.items()}
    everything = np.concatenate(list(groups.values()))
    edges = np.linspace(everything.min(), everything.max() + 1e-9, bins + 1)
    figure, axes = panels(height=2.6)
    ax = axes[0, 0]
    for color, (title, row) in zip(SERIES, groups.items(), strict=False):
        weights, text = np.full(len(row), 100 / len(row)), f"{title}: median {np.median(row):.2f}"
        look = dict(histtype="stepfilled", facecolor=(color, 0.18), edgecolor=color, lw=1.3)
        ax.hist(row, edges, weights=weights, label=text, **look)
    ax.set_xlabel(label)
    ax.set_ylabel(ylabel)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def ranking(values, colors, label) -> Figure:
    """Named values 0..1 as horizontal bars, in the order given from the top.

    values: a series by name; colors: {name: colour}.
    """
    figure, axes = panels(height=0.2 * len(values) + 0.7)
    ax, places = axes[0, 0], -np.arange(len(values))
    ax.barh(
        places, values, color=[colors[name] for name in values.index], edgecolor="#999999", linewidth=0.4, height=0.75
    )
    for place, value in zip(places, values, strict=True):
        ax.annotate(f"{value:.2f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_yticks(places, plain(values.index))
    ax.set_xlim(0, 1.05)
    ax.set_xlabel(label)
    ax.grid(axis="x")
    ax.margins(y=0.01)
    return figure


@styled
def caption_lag(lags, title="") -> Figure:
    """How long before (-) or after (+) its action a caption is spoken. lags: [N] seconds or {title: [N]}."""
    groups = lags if isinstance(lags, dict) else {title: lags}
    low, high = np.floor(min(map(np.min, groups.values()))), np.ceil(max(map(np.max, groups.values())))
    figure, axes = panels(height=2.4)
    ax = axes[0, 0]
    for color, (name, values) in zip(SERIES, groups.items(), strict=False):
        text = f"{name}: median {np.median(values):+.1f} s".lstrip(": ")
        ax.hist(
            values,
            np.linspace(low, max(high, low + 1), 41),
            facecolor=(color, 0.3),
            edgecolor=color,
            linewidth=0.6,
            label=text,
        )
    ax.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    ax.set_xlabel("caption minus action, s")
    ax.set_ylabel("captions")
    ax.legend()
    return figure


@styled
def positive_pairs(captions, pairs, seconds) -> Figure:
    """Captions of one video on its time axis, and text and video spans of pairs below them.

    captions: [(start s, end s, text)]. pairs: {title: (text, before, after)}, each a (start s, end s): when the text is
    said, the video span aligned with it, and the video span drawn around a random moment of it. seconds: the video's.
    """
    heights = [0.17 * len(captions), 0.5 * len(pairs)]
    options = dict(sharex=True, gridspec_kw={"height_ratios": heights})
    figure, axes = panels(2, 1, width=PAGE_WIDTH, height=sum(heights) + 0.9, **options)
    top, below = axes[:, 0]
    for i, (start, end, text) in enumerate(captions):
        top.barh(i, end - start, left=start, height=0.75, color=THESIS)
        right = start < 0.6 * seconds
        top.annotate(text, (end if right else start, i), (3 if right else -3, 0), textcoords="offset points",
                     ha="left" if right else "right", va="center", fontsize=7)  # fmt: skip
    top.set_ylim(len(captions) - 0.4, -0.6)
    for i, spans in enumerate(pairs.values()):
        kinds = zip(spans, (THESIS, PAPER, OURS), ("text", "video, aligned", "video, drawn"), strict=True)
        for k, ((start, end), color, label) in enumerate(kinds):
            below.barh(
                i + 0.27 * (k - 1), end - start, left=start, height=0.23, color=color, label=None if i else label
            )
    below.set_ylim(len(pairs) - 0.5, -0.5)
    below.set_yticks(range(len(pairs)), list(pairs))
    top.set_yticks([])
    top.set_ylabel("captions")
    below.set_xlim(0, seconds)
    below.set_xlabel("time, s")
    below.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def bounded(frame, x, y, bounds, marked=None, labels=None) -> Figure:
    """Dots in groups, and above each group a bar: what no dot of it may exceed.

    frame: columns x and y. bounds: {value of x: bound}. marked: {index of a row: text}, drawn in red and named.
    labels: {column: axis label}.
    """
    places, marked = {value: i for i, value in enumerate(bounds)}, marked or {}
    figure, axes = panels(height=2.8)
    ax = axes[0, 0]
    for value, bound in bounds.items():
        rows = frame[(frame[x] == value) & ~frame.index.isin(list(marked))]
        at = places[value] + np.linspace(-0.25, 0.25, len(rows))
        ax.plot([places[value] - 0.36, places[value] + 0.36], [bound, bound], color=INK, linewidth=1.6)
        ax.plot(at, rows[y], "o", color=THESIS, markersize=4.5, markeredgewidth=0)
    for index, text in marked.items():
        point = places[frame.loc[index, x]], frame.loc[index, y]
        ax.plot(*point, "o", color=WRONG, markersize=6, markeredgewidth=0)
        ax.annotate(text, point, (7, 0), textcoords="offset points", va="center", fontsize=8, color=WRONG)
    ax.set_xticks(list(places.values()), plain(places))
    ax.set_xlabel((labels or {}).get(x, x))
    ax.set_ylabel((labels or {}).get(y, y))
    ax.grid(axis="y")
    return figure
