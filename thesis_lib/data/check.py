"""Is a data folder complete, and is what lies there what it claims? `thesis check-data --root DIR` prints the answer.

It knows 50Salads as MS-TCN publishes it (features, groundTruth, splits, mapping.txt) and as the University of Dundee
does (videos, annotations, timestamps), any data set of one's own in the first layout with `videos/`, and HowTo100M (see
`check_narrated`).
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from . import check_narrated, raw_agreement, raw_salads, salads, video
from .findings import Findings, check_text

SALAD = re.compile(r"rgb-\d\d-\d$")
BLOCK = 2**22  # numbers of a feature file looked at together: 16 MiB as float32
AGREE = 0.99  # of the frames: public labels and raw annotations differ in less
MS_TCN = "features, groundTruth, splits and mapping.txt: https://zenodo.org/records/3625992 (data.zip, 30 GB)"
DUNDEE = "videos, annotations and timestamps: https://cvip.computing.dundee.ac.uk/datasets/foodpreparation/50salads/"
EXPECTED = {
    "mapping.txt": '"<id> <class name>" a line, 19 classes',
    "groundTruth/": "<video>.txt, a class name a line, a line a frame, 50 videos",
    "splits/": "{train,test}.split{1..5}.bundle, 40 and 10 lines <video>.txt",
    "features/": "<video>.npy, [D, T] float32, a vector a frame (or videos to extract them from)",
    "videos/": "rgb-XX-Y.avi, 640 x 480, 30 frames a second (or features)",
    "annotations": 'XX-Y-activityAnnotation.txt, "<start> <end> <activity>" a line (groundTruth is made from them)',
    "timestamps": "timestamps-XX-Y.txt, a line a frame, its tick first",
    "depth": "not used",
    "accelerometers": "not used",
}


def main(root: str | Path, decode: bool = True) -> int:
    """Print what is there, what is missing and what is odd. Returns 0, or 1 if the data cannot be used."""
    findings = check(root, decode)
    print(findings)
    return 0 if findings.usable else 1


def check(root: str | Path, decode: bool = True) -> Findings:
    """Look through a data folder.

    decode: read every video to its end (a quarter of an hour for the real ones on one core), which alone finds damaged
    frames; without it videos are counted by their index. Memory does not grow with the data: feature files are read in
    blocks, videos frame by frame.
    """
    root = Path(root)
    findings = Findings(root)
    if not root.is_dir():
        findings.add("unusable", "root", "no such folder")
    elif check_narrated.recognises(root):
        check_narrated.check(findings)
    else:
        _check_salads(findings, decode)
    return findings


def _check_salads(findings: Findings, decode: bool) -> None:
    findings.expected = EXPECTED
    raw, to_make = raw_salads.find(findings.root), raw_salads.is_raw(findings.root)
    if to_make:
        findings.layout = "50Salads, raw: labels, splits and mapping are made when the report runs"
        labels = _make_labels(findings, raw)
        bundled = _check_bundles(findings, raw_salads.bundles(labels), set(labels))
    else:
        findings.layout = "50Salads or videos of one's own in the layout of MS-TCN"
        labels = _check_labels(findings, _check_mapping(findings))
        bundled = _check_splits(findings, set(labels))
    wanted = bundled or set(labels)
    lengths = {name: len(sequence) for name, sequence in labels.items()}
    features = _check_features(findings, lengths, wanted)
    frames = _check_videos(findings, lengths, wanted, decode, anywhere=to_make)
    without = sorted(wanted - features - set(frames))
    if without:
        why = "neither features nor video" if features or frames else "labels alone, nothing to train on: neither"
        findings.add("unusable", "features/", f"{why} for {len(without)} videos", without)
        findings.downloads += [MS_TCN, DUNDEE]
    short = [name for name in wanted - features if frames.get(name, np.inf) < lengths.get(name, 0)]
    if short and not to_make:
        findings.add("unusable", "videos/", "fewer frames than labels, and no features", sorted(short))
    if not to_make:
        _check_raw(findings, raw, labels, frames)
    for part, pattern in {"depth": "depth", "accelerometers": "accel"}.items():
        here = [path for path in raw_salads.files_below(findings.root) if pattern in path.name.lower()]
        findings.add("ok", part, f"{len(here)} files" if here else "none")


# -- the layout of MS-TCN --------------------------------------------------------------------------------------------


def _check_mapping(findings: Findings) -> dict[str, int] | None:
    path = findings.root / "mapping.txt"
    if not path.is_file():
        findings.add("unusable", "mapping.txt", "missing")
        findings.downloads.append(MS_TCN)
        return None
    check_text(findings, "mapping.txt", [path])
    try:
        mapping = salads.read_mapping(path)
    except ValueError as error:
        findings.add("unusable", "mapping.txt", str(error))
        return None
    findings.add("ok", "mapping.txt", f"{len(mapping)} classes")
    if set(mapping) == set(raw_salads.CLASSES) and tuple(mapping) != raw_salads.CLASSES:
        findings.add("odd", "mapping.txt", "the 19 classes, but not in the public order: published weights mean others")
    return mapping


def _check_labels(findings: Findings, mapping: dict[str, int] | None) -> dict[str, list[str]]:
    part, paths = "groundTruth/", sorted((findings.root / "groundTruth").glob("*.txt"))
    if not paths:
        findings.add("unusable", part, "missing or empty, and no raw annotations to make it from")
        findings.downloads += [MS_TCN, DUNDEE]
        return {}
    check_text(findings, part, paths)
    labels = {path.stem: salads.read_labels(path) for path in paths}
    findings.add("ok", part, f"{len(labels)} videos, {sum(map(len, labels.values())):,} frames")
    findings.group("unusable", part, {name: "no labels" for name, found in labels.items() if not found})
    _check_salad_names(findings, part, labels)
    if mapping:
        outside = {}
        for name, found in labels.items():
            try:
                salads.encode(list(dict.fromkeys(found)), mapping)
            except ValueError as error:
                outside[name] = re.sub(r"^labels: | of frame \d+", "", str(error))
        findings.group("unusable", part, outside)
        unused = sorted(set(mapping) - {label for found in labels.values() for label in found})
        if unused:
            findings.add("odd", part, "classes of the mapping that no frame has", unused)
    return labels


def _check_salad_names(findings: Findings, part: str, names: Iterable[str]) -> None:
    names = list(names)
    salad_names = [name for name in names if SALAD.match(name)]
    if salad_names and len(names) != 50:
        findings.add("odd", part, f"{len(names)} videos, 50Salads has 50")
    strange = [name for name in salad_names if not raw_salads.public_split(name)]
    if strange:
        findings.add("odd", part, "users who are in no public split of 50Salads (08 and 12 do not exist)", strange)


def _check_splits(findings: Findings, labelled: set[str]) -> set[str]:
    part, paths = "splits/", sorted((findings.root / "splits").glob("*.bundle"))
    if not paths:
        findings.add("unusable", part, "missing or empty")
        findings.downloads.append(MS_TCN)
        return set()
    check_text(findings, part, paths)
    return _check_bundles(findings, {path.name: salads.read_bundle(path) for path in paths}, labelled)


def _check_bundles(findings: Findings, bundles: dict[str, list[str]], labelled: set[str]) -> set[str]:
    """bundles: file name -> names of videos. Returns the names in any of them."""
    part = "splits/"
    numbers = sorted({int(n) for name in bundles for n in re.findall(r"split(\d+)\.bundle$", name)})
    bundled = {name for names in bundles.values() for name in names}
    are_salads = any(map(SALAD.match, bundled))
    tested, sizes = Counter(), {}
    findings.add("ok", part, f"{len(numbers)} splits of {len(bundled)} videos")
    for number in sorted({*numbers, *raw_salads.TEST_USERS} if are_salads else numbers):
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
            elsewhere = sorted(name for name in set(test) if raw_salads.public_split(name) != number)
            if elsewhere:
                findings.add("odd", part, f"split {number}: not the public one, which does not test", elsewhere)
            if (len(train), len(test)) != (40, 10):
                sizes[f"split {number}"] = f"{len(train)} / {len(test)} videos, 50Salads has 40 / 10"
    findings.group("odd", part, sizes)
    if any(count > 1 for count in tested.values()):
        findings.add("odd", part, "videos tested in more than one split", sorted(n for n in tested if tested[n] > 1))
    if labelled and bundled - labelled:
        findings.add("unusable", part, "videos without groundTruth", sorted(bundled - labelled))
    if labelled - bundled:
        findings.add("odd", part, "labelled videos in no split", sorted(labelled - bundled))
    return bundled


# -- features and videos ---------------------------------------------------------------------------------------------


def _check_features(findings: Findings, lengths: dict[str, int], wanted: set[str]) -> set[str]:
    part, paths = "features/", sorted((findings.root / "features").glob("*.npy"))
    if not paths:
        findings.add("missing", part, "none; they can be extracted from videos")
        findings.downloads.append(MS_TCN)
        return set()
    bad, odd, shapes = {}, {}, {}
    for path in paths:
        try:
            vectors = salads.read_features(path)
            if vectors.dtype.kind not in "fiu":
                raise ValueError(f"numbers expected, got {vectors.dtype}")
            if path.stem in lengths:
                salads.crop(vectors, lengths[path.stem])
            lowest, highest = _range(path)
            if not np.isfinite([lowest, highest]).all():
                raise ValueError("numbers that are not finite")
        except ValueError as error:
            bad[path.stem] = re.sub(r"^(features|\S+\.npy): ", "", str(error))
            continue
        shapes[path.stem] = vectors.shape
        if lowest < 0:
            odd[path.stem] = "negative numbers; the public I3D features have none"
        elif vectors.dtype != np.float32:
            odd[path.stem] = f"{vectors.dtype}, the public features are float32"
    widths = Counter(width for width, _ in shapes.values())
    listed = ", ".join(map(str, sorted(widths))) or "none"
    findings.add("ok", part, f"{len(shapes)} of {len(paths)} files readable, [D, T] with D = {listed}")
    if len(widths) > 1:
        rare = [name for name, (width, _) in shapes.items() if width != widths.most_common(1)[0][0]]
        findings.add("unusable", part, "features of several widths", rare)
    findings.group("unusable", part, bad)
    findings.group("odd", part, odd)
    _surplus(findings, part, "vectors", {name: t - lengths[name] for name, (_, t) in shapes.items() if name in lengths})
    if wanted - {path.stem for path in paths}:
        findings.add("missing", part, "videos without features", sorted(wanted - {path.stem for path in paths}))
    return {path.stem for path in paths}  # broken ones are said to be so above


def _range(path: Path) -> tuple[float, float]:
    """Smallest and largest number of a feature file, NaN where one is in it.

    The file is mapped anew for each block: pages of a mapping that has been read count as memory of the process.
    """
    rows, columns = salads.read_features(path).shape
    ends = np.array([np.inf, -np.inf])
    for first in range(0, rows * columns, BLOCK):
        numbers = salads.read_features(path)
        block = numbers.reshape(-1, order="F" if numbers.flags.f_contiguous else "C")[first : first + BLOCK]
        ends = np.minimum(ends[0], block.min()), np.maximum(ends[1], block.max())  # both hand NaN on
    return float(ends[0]), float(ends[1])


def _check_videos(
    findings: Findings, lengths: dict[str, int], wanted: set[str], decode: bool, anywhere: bool
) -> dict[str, int]:
    """Returns how many frames each video should hold that can be opened."""
    part, paths, twice = "videos/", {}, []
    for path in raw_salads.files_below(findings.root):
        if path.suffix.lower() in video.SUFFIXES and (path.stem in wanted or SALAD.match(path.stem)):
            if paths.setdefault(path.stem, path) != path:
                twice.append(path.stem)
    if not paths:
        findings.add("missing", part, "no videos (rgb-XX-Y.avi); needed to extract features")
        findings.downloads.append(DUNDEE)
        return {}
    with ThreadPoolExecutor() as pool:
        seen = dict(zip(paths, pool.map(lambda path: _look(path, decode), paths.values()), strict=True))
    findings.group("unusable", part, {name: str(info) for name, info in seen.items() if isinstance(info, str)})
    seen = {name: info for name, info in seen.items() if not isinstance(info, str)}
    frames = {name: info["count"] for name, info in seen.items()}
    findings.add("ok", part, f"{len(seen)} videos{_place(findings, part, paths.values())}, "
                             f"{sum(frames.values()):,} frames by their index")  # fmt: skip
    elsewhere = sorted(name for name, path in paths.items() if path.parent != findings.root / "videos")
    if elsewhere and not anywhere:
        findings.add("odd", part, "not in videos/, where the report looks: link them", elsewhere)
    if twice:
        findings.add("odd", part, "more than one file; the first by path is looked at", twice)
    lies = {n: f"header says {i['header']} frames, the index {i['count']}" for n, i in seen.items()
            if i["header"] not in (None, i["count"])}  # fmt: skip
    findings.group("odd", part, lies)
    damaged = {n: f"{len(i['missing'])} of {i['count']} frames damaged, the first at {i['missing'][0]}"
               for n, i in seen.items() if i["missing"]}  # fmt: skip
    findings.group("odd", part, damaged)
    if decode:
        findings.add("ok", part, f"{sum(i['count'] - len(i['missing']) for i in seen.values()):,} frames decoded")
    _surplus(findings, part, "frames", {n: count - lengths[n] for n, count in frames.items() if n in lengths})
    if wanted - set(paths):
        findings.add("missing", part, "no video for", sorted(wanted - set(paths)))
    return frames


def _look(path: Path, decode: bool) -> dict | str:
    """Counts of a video, or what is wrong with it."""
    try:
        if not decode:
            found = {"count": video.frame_count(path), "header": video.header_count(path), "missing": ()}
            return found if found["count"] else "not one frame in it"
        info = video.probe(path)
        return {"count": info.count, "header": info.header_count, "missing": info.missing}
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")


# -- raw files -------------------------------------------------------------------------------------------------------


def _make_labels(findings: Findings, raw: raw_salads.RawFiles) -> dict[str, list[str]]:
    """Labels of the sessions of public splits as the report will make them, and what keeps it from that."""
    for part in ("mapping.txt", "groundTruth/"):
        findings.add("ok", part, "none, made from annotations and timestamps")
    findings.add("ok", "splits/", "none, made: the public ones, by user")
    _count_raw(findings, raw)
    labels, bad = {}, {}
    for session in raw.annotations:
        if raw_salads.public_split(session):
            try:
                labels[f"rgb-{session}"] = raw_salads.labels_of(raw, session)
            except ValueError as error:
                bad[session] = re.sub(rf"^(\S+\.txt|{session}): |-{session}", "", str(error))
    findings.group("unusable", "annotations", bad)
    if bad:
        findings.downloads.append(DUNDEE)
    findings.add("ok", "groundTruth/", f"{len(labels)} videos, {sum(map(len, labels.values())):,} frames to be")
    if labels:
        _check_salad_names(findings, "groundTruth/", labels)
    else:
        findings.add("unusable", "groundTruth/", "no session of 50Salads to make labels of")
    if {*raw.videos} - {*raw.annotations}:
        findings.add("odd", "videos/", "no annotation, left out", sorted({*raw.videos} - {*raw.annotations}))
    return labels


def _check_raw(findings: Findings, raw: raw_salads.RawFiles, labels: dict[str, list[str]], frames: dict[str, int]):
    """Whether raw annotations give the labels that lie beside them."""
    _count_raw(findings, raw)
    part, bad, found = "annotations", {}, {}
    for session, path in raw.annotations.items():
        name = f"rgb-{session}"
        try:
            annotation, ticks = salads.read_annotation(path), None
            if session in raw.timestamps:
                ticks = salads.read_timestamps(raw.timestamps[session])
                if len(ticks) != frames.get(name, len(ticks)):
                    bad[session] = f"{len(ticks)} time stamps, {frames[name]} frames in the video"
            if labels.get(name):
                found[name] = raw_agreement.compare(annotation, labels[name], ticks, where=session)
        except ValueError as error:
            bad[session] = re.sub(r"^\S+\.txt: ", "", str(error))
    findings.group("odd", part, bad)
    if not found:
        return
    straight = {name: one for name, one in found.items() if one["clock"] == "straight"}
    equal = np.average([one["agree"] for one in found.values()], weights=[one["labels"] for one in found.values()])
    ordered = sum(one["same_order"] for one in found.values())
    clock = f" ({len(straight)} by a straight clock in place of time stamps)" if straight else ""
    findings.add("ok", part, f"the segments of the labels, in their order, in {ordered} of {len(found)} videos")
    findings.add("ok", part, f"agree with {100 * equal:.2f} % of the labels{clock}")
    explained = {name for name, one in straight.items() if one["same_order"]}
    differ = {name: f"agrees with {one['agree']:.0%} of the labels" for name, one in found.items()
              if one["agree"] < AGREE and name not in explained}  # fmt: skip
    findings.group("odd", part, differ)
    lost = {name: one["lost"] for name, one in straight.items() if one.get("lost", 0) >= raw_agreement.TELLING}
    if lost:
        worst = sorted(lost, key=lost.get, reverse=True)
        findings.add("odd", part, "the clock ran on where the labels do not, frames lost in recording",
                     [f"{name} ({lost[name]})" for name in worst])  # fmt: skip


def _count_raw(findings: Findings, raw: raw_salads.RawFiles) -> None:
    for part, paths in (("annotations", raw.annotations), ("timestamps", raw.timestamps)):
        if paths:
            findings.add("ok", part, f"{len(paths)} files{_place(findings, part, paths.values())}")
            check_text(findings, part, paths.values(), endings=False)
        else:
            findings.add("ok", part, "none (not needed beside groundTruth)")
    strangers = sorted(session for session in raw.annotations if not raw_salads.public_split(session))
    if strangers:
        findings.add("odd", "annotations", "users who are in no public split, left out", strangers)


# -- words -----------------------------------------------------------------------------------------------------------


def _surplus(findings: Findings, part: str, what: str, surplus: dict[str, int]) -> None:
    """Frames or vectors beyond the labels: constant as in the public data, or said where not."""
    if not surplus:
        return
    counts = Counter(surplus.values())
    common = counts.most_common(1)[0][0]
    level = "ok" if common >= 0 else "odd"
    findings.add(level, part, f"{_more(common, what)} in {counts[common]} of {len(surplus)} videos")
    findings.group("odd", part, {name: _more(extra, what) for name, extra in surplus.items() if extra != common})


def _more(extra: int, what: str) -> str:
    return f"{extra} {what} more than labels" if extra >= 0 else f"{-extra} {what} fewer than labels"


def _place(findings: Findings, part: str, paths: Iterable[Path]) -> str:
    """Where files lie that lie elsewhere than expected."""
    folders = sorted({os.path.relpath(path.parent, findings.root) for path in paths} - {part.rstrip("/")})
    return " in " + " ".join("./" if folder == "." else f"{folder}/" for folder in folders) if folders else ""


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
