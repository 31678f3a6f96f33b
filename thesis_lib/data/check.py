"""Is a data folder complete, and is what lies there what it claims? `thesis check-data --root DIR` prints the answer.

It knows 50Salads as MS-TCN publishes it (features, groundTruth, splits, mapping.txt) and as the University of Dundee
does (videos, annotations, timestamps), and any data set of one's own in the first layout with `videos/`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import salads, video

LEVELS = ("ok", "odd", "missing", "unusable")
SPLITS = range(1, 6)
NO_SUCH_USERS = {8, 12}
SALAD = re.compile(r"rgb-\d\d-\d$")
MS_TCN = "features, groundTruth, splits and mapping.txt: https://zenodo.org/records/3625992 (data.zip, 30 GB)"
DUNDEE = "videos, annotations and timestamps: https://cvip.computing.dundee.ac.uk/datasets/foodpreparation/50salads/"


@dataclass(frozen=True)
class Finding:
    """One line of the report: level (ok, odd, missing or unusable), the part of the data set, what, in which files."""

    level: str
    part: str
    message: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.names[:3]) + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        return f"{self.level:<9}{self.message}{': ' + shown if shown else ''}"


@dataclass
class Findings:
    """What `check` found under root. str() is the printable tree."""

    root: Path
    found: list[Finding] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)

    def add(self, level: str, part: str, message: str, names: Iterable[str] = ()) -> None:
        self.found.append(Finding(level, part, message, tuple(names)))

    def of(self, level: str) -> list[Finding]:
        return [finding for finding in self.found if finding.level == level]

    @property
    def usable(self) -> bool:
        return not self.of("unusable")

    def __str__(self) -> str:
        parts = list(dict.fromkeys(finding.part for finding in self.found))
        lines = [str(self.root)]
        for part in parts:
            last = part == parts[-1]
            lines.append(f"{'└──' if last else '├──'} {part}")
            lines += [f"{'   ' if last else '│  '}    {f}" for f in self.found if f.part == part]
        counts = ", ".join(f"{len(self.of(level))} {level}" for level in LEVELS[1:])
        lines += ["", f"{'Usable' if self.usable else 'NOT USABLE'} ({counts})"]
        lines += [f"Unusable: {finding.part}: {finding.message}" for finding in self.of("unusable")]
        lines += [f"To download: {source}" for source in dict.fromkeys(self.downloads)]
        return "\n".join(lines)


def main(root: str | Path, decode: bool = True) -> int:
    """Print what is there, what is missing and what is odd. Returns 0, or 1 if the data cannot be used."""
    findings = check(root, decode)
    print(findings)
    return 0 if findings.usable else 1


def check(root: str | Path, decode: bool = True) -> Findings:
    """Look through a data folder.

    decode: read every video to its end (a quarter of an hour for the real ones on one core), which alone finds damaged
    frames; without it videos are counted by their index.
    """
    root = Path(root)
    findings = Findings(root)
    if not root.is_dir():
        findings.add("unusable", "root", "no such folder")
        return findings
    mapping = _check_mapping(findings)
    labels = _check_labels(findings, mapping)
    bundled = _check_splits(findings, set(labels))
    wanted = bundled or set(labels)
    lengths = {name: len(sequence) for name, sequence in labels.items()}
    features = _check_features(findings, lengths, wanted)
    videos = _check_videos(findings, lengths, wanted, decode)
    without = sorted(wanted - features - videos)
    if without:
        why = (
            "neither features nor video" if features | videos else "labels alone, nothing to train on: neither is there"
        )
        findings.add("unusable", "features/ or videos", f"{why} for {len(without)} videos", without)
        findings.downloads += [MS_TCN, DUNDEE]
    _check_raw(findings, labels)
    return findings


def _check_mapping(findings: Findings) -> dict[str, int] | None:
    path = findings.root / "mapping.txt"
    if not path.is_file():
        findings.add("unusable", "mapping.txt", "missing")
        findings.downloads.append(MS_TCN)
        return None
    _check_text(findings, "mapping.txt", [path])
    try:
        mapping = salads.read_mapping(path)
    except ValueError as error:
        findings.add("unusable", "mapping.txt", str(error))
        return None
    findings.add("ok", "mapping.txt", f"{len(mapping)} classes")
    return mapping


def _check_labels(findings: Findings, mapping: dict[str, int] | None) -> dict[str, list[str]]:
    part, paths = "groundTruth/", sorted((findings.root / "groundTruth").glob("*.txt"))
    if not paths:
        findings.add("unusable", part, "missing or empty")
        findings.downloads.append(MS_TCN)
        return {}
    _check_text(findings, part, paths)
    labels = {path.stem: salads.read_labels(path) for path in paths}
    findings.add("ok", part, f"{len(labels)} videos, {sum(map(len, labels.values())):,} frames")
    _group(findings, "unusable", part, {name: "no labels" for name, found in labels.items() if not found})
    salad_names = [name for name in labels if SALAD.match(name)]
    if salad_names:
        if len(labels) != 50:
            findings.add("odd", part, f"{len(labels)} videos, 50Salads has 50")
        strange = [name for name in salad_names if salads.actor(name) in NO_SUCH_USERS]
        if strange:
            findings.add("odd", part, "users 08 and 12 do not exist in 50Salads", strange)
    if mapping:
        outside = {}
        for name, found in labels.items():
            try:
                salads.encode(list(dict.fromkeys(found)), mapping)
            except ValueError as error:
                outside[name] = re.sub(r"^labels: | of frame \d+", "", str(error))
        _group(findings, "unusable", part, outside)
        unused = sorted(set(mapping) - {label for found in labels.values() for label in found})
        if unused:
            findings.add("odd", part, "classes of the mapping that no frame has", unused)
    return labels


def _check_splits(findings: Findings, labelled: set[str]) -> set[str]:
    part, paths = "splits/", sorted((findings.root / "splits").glob("*.bundle"))
    if not paths:
        findings.add("unusable", part, "missing or empty")
        findings.downloads.append(MS_TCN)
        return set()
    _check_text(findings, part, paths)
    bundles = {path.name: salads.read_bundle(path) for path in paths}
    numbers = sorted({int(n) for name in bundles for n in re.findall(r"split(\d+)\.bundle$", name)})
    bundled = {name for names in bundles.values() for name in names}
    tested, sizes = Counter(), {}
    findings.add("ok", part, f"{len(numbers)} splits of {len(bundled)} videos")
    for number in sorted({*numbers, *SPLITS} if any(map(SALAD.match, bundled)) else numbers):
        train, test = (bundles.get(f"{kind}.split{number}.bundle") for kind in salads.PARTS)
        for kind, names in zip(salads.PARTS, (train, test), strict=True):
            if not names:
                state = "missing" if names is None else "empty"
                findings.add("unusable", part, f"{kind}.split{number}.bundle is {state}")
            elif len(set(names)) < len(names):
                findings.add("odd", part, f"{kind}.split{number}.bundle names a video twice", _repeated(names))
        if not train or not test:
            continue
        tested.update(set(test))
        if set(train) & set(test):
            findings.add("unusable", part, f"split {number}: videos in train and test", sorted(set(train) & set(test)))
        if all(map(SALAD.match, [*train, *test])):
            both = sorted(salads.actors(train) & salads.actors(test))
            if both:
                findings.add("odd", part, f"split {number}: users in train and test", [f"{user:02d}" for user in both])
            if (len(train), len(test)) != (40, 10):
                sizes[f"split {number}"] = f"{len(train)} / {len(test)} videos, 50Salads has 40 / 10"
    _group(findings, "odd", part, sizes)
    if any(count > 1 for count in tested.values()):
        findings.add("odd", part, "videos tested in more than one split", sorted(n for n in tested if tested[n] > 1))
    if labelled and bundled - labelled:
        findings.add("unusable", part, "videos without groundTruth", sorted(bundled - labelled))
    if labelled - bundled:
        findings.add("odd", part, "labelled videos in no split", sorted(labelled - bundled))
    return bundled


def _check_features(findings: Findings, lengths: dict[str, int], wanted: set[str]) -> set[str]:
    part, paths = "features/", sorted((findings.root / "features").glob("*.npy"))
    if not paths:
        findings.add("missing", part, "no features; they can be extracted from videos")
        findings.downloads.append(MS_TCN)
        return set()
    bad, odd, shapes = {}, {}, {}
    for path in paths:
        try:
            vectors = salads.read_features(path)
            if path.stem in lengths:
                salads.crop(vectors, lengths[path.stem])
            if not np.isfinite(vectors).all():
                raise ValueError("numbers that are not finite")
        except ValueError as error:
            bad[path.stem] = re.sub(r"^(features|\S+\.npy): ", "", str(error))
            continue
        shapes[path.stem] = vectors.shape
        if (vectors < 0).any():
            odd[path.stem] = "negative numbers; the public I3D features have none"
    widths = Counter(width for width, _ in shapes.values())
    findings.add("ok", part, f"{len(shapes)} of {len(paths)} files readable, [D, T] with D = {_listed(widths)}")
    if len(widths) > 1:
        rare = [name for name, (width, _) in shapes.items() if width != widths.most_common(1)[0][0]]
        findings.add("unusable", part, "features of several widths", rare)
    _group(findings, "unusable", part, bad)
    _group(findings, "odd", part, odd)
    _surplus(findings, part, "vectors", {name: t - lengths[name] for name, (_, t) in shapes.items() if name in lengths})
    if wanted - {path.stem for path in paths}:
        findings.add("missing", part, "videos without features", sorted(wanted - {path.stem for path in paths}))
    return {path.stem for path in paths}  # broken ones are said to be so above


def _check_videos(findings: Findings, lengths: dict[str, int], wanted: set[str], decode: bool) -> set[str]:
    paths = {path.stem: path for path in sorted(findings.root.rglob("*")) if path.suffix.lower() in video.SUFFIXES}
    paths = {stem: path for stem, path in paths.items() if stem in wanted or SALAD.match(stem)}
    if not paths:
        findings.add("missing", "videos", "no videos (rgb-XX-Y.avi); needed to extract features")
        findings.downloads.append(DUNDEE)
        return set()
    part = _folder(findings.root, paths.values())
    with ThreadPoolExecutor() as pool:
        seen = dict(zip(paths, pool.map(lambda path: _look(path, decode), paths.values()), strict=True))
    _group(findings, "unusable", part, {name: str(info) for name, info in seen.items() if isinstance(info, str)})
    seen = {name: info for name, info in seen.items() if not isinstance(info, str)}
    findings.add("ok", part, f"{len(seen)} videos, {sum(i['count'] for i in seen.values()):,} frames by their index")
    lies = {n: f"header says {i['header']} frames, the index {i['count']}" for n, i in seen.items()
            if i.get("header") not in (None, i["count"])}  # fmt: skip
    _group(findings, "odd", part, lies)
    damaged = {n: f"{len(i['missing'])} of {i['count']} frames damaged, the first at {i['missing'][0]}"
               for n, i in seen.items() if i.get("missing")}  # fmt: skip
    _group(findings, "odd", part, damaged)
    _surplus(findings, part, "frames", {n: i["count"] - lengths[n] for n, i in seen.items() if n in lengths})
    if wanted - set(paths):
        findings.add("missing", part, "no video for", sorted(wanted - set(paths)))
    return set(seen)


def _look(path: Path, decode: bool) -> dict | str:
    """Counts of a video, or what is wrong with it."""
    try:
        if not decode:
            return {"count": video.frame_count(path)}
        info = video.probe(path)
        return {"count": info.count, "header": info.header_count, "missing": info.missing}
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")


def _check_raw(findings: Findings, labels: dict[str, list[str]]) -> None:
    """Raw annotations, their timestamps, and whether both give the labels; what else Dundee publishes."""
    root = findings.root
    annotations = {path.name[:4]: path for path in sorted(root.rglob("*-activityAnnotation.txt"))}
    timestamps = {path.stem[-4:]: path for path in sorted(root.rglob("timestamps-*.txt"))}
    parts = {"annotations": annotations, "timestamps": timestamps}
    for what, paths in parts.items():
        if paths:
            parts[what] = part = _folder(root, paths.values())
            findings.add("ok", part, f"{len(paths)} files of {what}")
            _check_text(findings, part, paths.values(), endings=False)
        else:
            parts[what] = what
            findings.add("ok", what, "none (only raw data have them; not needed beside groundTruth)")
    bad, differ = {}, {}
    for session, path in annotations.items():
        try:
            salads.read_annotation(path)
            name = f"rgb-{session}"
            if session not in timestamps or not labels.get(name):
                continue
            made = salads.frame_labels(path, timestamps[session])
            shared = min(len(made), len(labels[name]))
            equal = np.mean(np.array(made[:shared]) == np.array(labels[name][:shared]))
            if equal < 0.99:
                differ[name] = f"raw annotation and labels agree on {equal:.0%} of the frames"
        except ValueError as error:
            bad[session] = re.sub(r"^\S+\.txt: ", "", str(error))
    _group(findings, "odd", parts["annotations"], bad | differ)
    for what in ("depth", "accelerometer"):
        here = [path for path in root.rglob("*") if what[:5] in path.name.lower()]
        findings.add("ok", what, f"{len(here)} files" if here else "none (not needed)")


def _check_text(findings: Findings, part: str, paths: Iterable[Path], endings: bool = True) -> None:
    """What other readers stumble over; ours do not."""
    tests: dict[str, Callable[[bytes], bool]] = {
        "CRLF line ends": lambda data: b"\r\n" in data,
        "byte order mark": lambda data: data.startswith(b"\xef\xbb\xbf"),
        "'#' lines": lambda data: data.startswith(b"#") or b"\n#" in data,
    }
    if endings:
        tests["no newline at the end, official readers lose the last line"] = lambda data: data[-1:] not in (b"", b"\n")
    odd = defaultdict(list)
    for path in paths:
        data = path.read_bytes()
        for what, test in tests.items():
            if test(data):
                odd[what].append(path.name)
    for what, names in odd.items():
        findings.add("odd", part, what, names)


def _surplus(findings: Findings, part: str, what: str, surplus: dict[str, int]) -> None:
    """Frames or vectors beyond the labels: constant as in the public data, or said where not."""
    counts = Counter(surplus.values())
    if not counts:
        return
    common = counts.most_common(1)[0][0]
    findings.add("ok", part, f"{common} {what} more than labels in {counts[common]} of {len(surplus)} videos")
    rest = {name: extra for name, extra in surplus.items() if extra != common}
    _group(findings, "odd", part, {name: f"{extra} {what} more than labels" for name, extra in rest.items()})


def _group(findings: Findings, level: str, part: str, messages: dict[str, str]) -> None:
    """Say a message once, with the names of all files it is true of."""
    names = defaultdict(list)
    for name, message in messages.items():
        names[message].append(name)
    for message, of in names.items():
        findings.add(level, part, message, of)


def _folder(root: Path, paths: Iterable[Path]) -> str:
    folders = sorted({str(path.parent.relative_to(root)) for path in paths})
    return " ".join("./" if folder == "." else f"{folder}/" for folder in folders)


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
