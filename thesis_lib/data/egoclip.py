"""EgoClip and EgoMCQ (Lin et al., Egocentric Video-Language Pretraining, NeurIPS 2022): their files, verbs and nouns.

egoclip.csv    tab-separated, a row a clip: COLUMNS; tag_verb and tag_noun are lists of numbers in Ego4D's taxonomies
egomcq.json    {"0": {"answer": 3, "query": a row, "choices": {"0": a row, ...}, "types": 1}}: which of five clips does
               a sentence tell? Type 1: the clips are of different videos, type 2: of one

Other narrations have no tags: a Taxonomy finds the verbs and nouns of a list in them.

    python -m thesis_lib.data.egoclip egoclip.csv data/egoclip

writes data/egoclip/raw_caption.json and tags.json; with its videos in data/egoclip/videos that is a howto_root to
pretrain from.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from thesis_lib.runs import atomic_save

COLUMNS = (
    "clip_idx",
    "video_uid",
    "video_dur",
    "narration_source",
    "narration_ind",
    "narration_time",
    "clip_start",
    "clip_end",
    "clip_text",
    "tag_verb",
    "tag_noun",
)
TAGS = ("tag_verb", "tag_noun")
NUM_VERBS, NUM_NOUNS = 118, 582  # of Ego4D's taxonomies
INTER, INTRA = 1, 2  # types of questions; showlab/EgoVLP model/metric.py:221 exchanges their names
CHOICES = 5


def read_egoclip(path: str | Path) -> pd.DataFrame:
    """egoclip.csv: one row a clip, tags as lists of ints. Raises ValueError if a column is missing or a tag no list."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file (egoclip.csv comes with EgoVLP)")
    table = pd.read_csv(path, sep="\t", dtype={"video_uid": str, "clip_text": str, **dict.fromkeys(TAGS, str)})
    absent = [column for column in COLUMNS if column not in table]
    if absent:
        raise ValueError(f"{path}: column {absent[0]!r} missing, found {', '.join(table.columns)}")
    for column in TAGS:
        table[column] = [_numbers(text, f"{path}: line {line}: {column}") for line, text in enumerate(table[column], 2)]
    return table


def write_captions(path: str | Path, table: pd.DataFrame) -> None:
    """Narrations of a table as raw_caption.json of HowTo100M, by video and start; "#C C", the wearer, is left out."""
    rows = _narrated(table).rename(columns={"clip_start": "start", "clip_end": "end"}).groupby("video_uid")
    captions = {video: one[["start", "end", "text"]].to_dict("list") for video, one in rows}
    atomic_save(Path(path), lambda file: file.write(json.dumps(captions).encode()))


def write_tags(path: str | Path, table: pd.DataFrame) -> None:
    """tags.json: {narration as in raw_caption.json: [its nouns, its verbs]}, those of all clips that it is said of."""
    found = {}
    for text, *tags in _narrated(table)[["text", "tag_noun", "tag_verb"]].itertuples(index=False):
        for known, new in zip(found.setdefault(text, (set(), set())), tags, strict=True):
            known |= {*new}
    content = {text: [sorted(numbers) for numbers in tags] for text, tags in found.items()}
    atomic_save(Path(path), lambda file: file.write(json.dumps(content).encode()))


def _narrated(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that say something, by video and start, with their plain `text`."""
    table = table.dropna(subset=["clip_text"]).sort_values(["video_uid", "clip_start"])
    return table.assign(text=table["clip_text"].map(plain))


def plain(text: str) -> str:
    """A narration without the marks of Ego4D: "#C C cuts a tomato" -> "cuts a tomato"; C is the wearer."""
    return re.sub(r"^(#\w+\s+)?([A-Z]\s+)?", "", text).strip()


def write_egoclip(path: str | Path, table: pd.DataFrame) -> None:
    """A table as read_egoclip gives it, in the same layout."""
    table[list(COLUMNS)].to_csv(path, sep="\t", index=False)


def _numbers(text, where: str) -> list[int]:
    if not re.fullmatch(r"\[\s*(\d+\s*(,\s*\d+\s*)*)?\]", str(text)):
        raise ValueError(f"{where} is {text!r}: expected a list of numbers such as [3, 17]")
    return json.loads(text)


@dataclass(frozen=True)
class Question:
    """query: a sentence · choices: (video, start s, end s, text) of each clip · answer: the right one's place."""

    query: str
    choices: list[tuple[str, float, float, str]]
    answer: int
    type: int  # INTER or INTRA


def read_egomcq(path: str | Path) -> list[Question]:
    """egomcq.json, in the order of its numbers. Raises ValueError where a question lacks something."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file (egomcq.json comes with EgoVLP)")
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    questions = []
    for number in sorted(content, key=int):
        try:
            entry = content[number]
            rows = [entry["choices"][name] for name in sorted(entry["choices"], key=int)]
            clips = [(r["video_uid"], float(r["clip_start"]), float(r["clip_end"]), r["clip_text"]) for r in rows]
            question = Question(entry["query"]["clip_text"], clips, int(entry["answer"]), int(entry["types"]))
        except KeyError as error:
            raise ValueError(f"{path}: question {number} lacks {error.args[0]!r}") from None
        if not 0 <= question.answer < len(clips) or question.type not in (INTER, INTRA):
            raise ValueError(
                f"{path}: question {number}: answer {question.answer} of {len(clips)} choices, type {question.type}"
            )
        questions.append(question)
    return questions


def write_egomcq(path: str | Path, questions: Sequence[Question]) -> None:
    """Questions in the layout of egomcq.json."""
    names = ("video_uid", "clip_start", "clip_end", "clip_text")
    content = {}
    for number, question in enumerate(questions):
        rows = {str(place): dict(zip(names, clip, strict=True)) for place, clip in enumerate(question.choices)}
        query = rows[str(question.answer)] | {"clip_text": question.query}
        content[str(number)] = {"answer": question.answer, "query": query, "choices": rows, "types": question.type}
    Path(path).write_text(json.dumps(content), encoding="utf-8")


def draw_questions(
    clips: Sequence[tuple[str, float, float, str]], count: int, rng: np.random.Generator
) -> list[Question]:
    """`count` questions of each type over clips (video, start s, end s, text); no two texts of a question are the same.

    Raises ValueError where fewer than five different texts, or videos, can stand beside each other.
    """
    by_video = {}
    for clip in clips:
        by_video.setdefault(clip[0], {}).setdefault(clip[3], clip)  # the first clip of each text
    videos = list(by_video)
    rich = [video for video in videos if len(by_video[video]) >= CHOICES]
    if len(videos) < CHOICES or not rich:
        raise ValueError(f"{len(videos)} videos, {len(rich)} of them with {CHOICES} different texts: too few to ask")

    def question(chosen: list, type: int) -> Question:
        answer = int(rng.integers(CHOICES))
        return Question(chosen[answer][3], chosen, answer, type)

    questions = []
    for _ in range(count):
        for _ in range(100):
            chosen = []
            for video in rng.choice(len(videos), CHOICES, replace=False):
                own = [clip for text, clip in by_video[videos[video]].items() if text not in {c[3] for c in chosen}]
                chosen += [own[rng.integers(len(own))]] if own else []
            if len(chosen) == CHOICES:
                break
        else:
            raise ValueError("the videos say too little that differs: no question over five of them")
        questions.append(question(chosen, INTER))
    for _ in range(count):
        own = list(by_video[rich[rng.integers(len(rich))]].values())
        questions.append(question([own[place] for place in rng.choice(len(own), CHOICES, replace=False)], INTRA))
    return questions


class Scenes:
    """Scene-aware negatives: for each clip another one of the same video and the same `seconds` (60) of it.

    videos [R] names and times [R] in seconds, a row a clip. Official: EgoClip_EgoMCQ_dataset.py:120, where the clip
    itself may be drawn; here never.
    """

    def __init__(self, videos: Sequence[str], times: Sequence[float], seconds: float = 60.0):
        self.videos, self.times = list(videos), np.asarray(times, dtype=float)
        self.segments = [(video, int(time // seconds)) for video, time in zip(self.videos, self.times, strict=True)]
        self.rows, self.of_video = {}, {}
        for row, segment in enumerate(self.segments):
            self.rows.setdefault(segment, []).append(row)
            self.of_video.setdefault(segment[0], []).append(row)
        if len(self.videos) < 2:
            raise ValueError(f"{len(self.videos)} clips: a negative needs a second one")

    def partner(self, row: int, rng: np.random.Generator) -> int:
        """The row of the negative: drawn from the segment; if it has no other clip, the nearest of the video (the
        earlier of two); if the video has none, the next row."""
        others = [other for other in self.rows[self.segments[row]] if other != row]
        if others:
            return others[rng.integers(len(others))]
        others = [other for other in self.of_video[self.videos[row]] if other != row]
        if others:
            return min(others, key=lambda other: (abs(self.times[other] - self.times[row]), self.times[other], other))
        return (row + 1) % len(self.videos)


# -- verbs and nouns ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taxonomy:
    """Verbs and nouns in their plain form; a noun may be of several words.

    Found in texts in all regular forms: cut, cuts, cutting; place, placed; tomato, tomatoes. Where a longer noun stands
    ("olive oil"), the shorter ones in it count too.
    """

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]

    @classmethod
    def of_names(cls, names: Iterable[str]) -> "Taxonomy":
        """The verbs and nouns of class names such as cut_tomato, in order of appearance."""
        pairs = [verb_and_noun(name) for name in names]
        verbs = dict.fromkeys(verb for verb, _ in pairs if verb)
        return cls(tuple(verbs), tuple(dict.fromkeys(noun for _, noun in pairs if noun)))

    def __or__(self, other: "Taxonomy") -> "Taxonomy":
        verbs, nouns = (dict.fromkeys(a + b) for a, b in ((self.verbs, other.verbs), (self.nouns, other.nouns)))
        return Taxonomy(tuple(verbs), tuple(nouns))

    def tags(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Texts or class names -> (nouns [B, N], verbs [B, V]) float32, 1 where a text has the word."""
        nouns, verbs = zip(*map(self.words, texts), strict=True) if len(texts) else ((), ())
        return multi_hot(nouns, len(self.nouns)), multi_hot(verbs, len(self.verbs))

    def words(self, text: str) -> tuple[list[int], list[int]]:
        """(numbers of the nouns, numbers of the verbs) of a text, ascending."""
        words = re.findall(r"[a-z0-9']+", text.lower())
        spans = [" ".join(words[i : i + n]) for n in range(1, self._longest + 1) for i in range(len(words) - n + 1)]
        return tuple(sorted({forms[span] for span in spans if span in forms}) for forms in self._forms)

    @cached_property
    def _forms(self) -> tuple[dict[str, int], dict[str, int]]:
        """Which noun, and which verb, a form is of."""
        kinds = (self.nouns, _noun_forms), (self.verbs, _verb_forms)
        return tuple({form: n for n, word in enumerate(words) for form in forms(word)} for words, forms in kinds)

    @cached_property
    def _longest(self) -> int:
        return max((len(word.split()) for word in self.nouns + self.verbs), default=1)


class Tags:
    """The numbers of verbs and nouns that Ego4D gave to narrations; asked as a Taxonomy is."""

    def __init__(self, path: str | Path):
        """path: as `write_tags` writes it. Raises ValueError where that is something else."""
        self.found = json.loads(Path(path).read_text(encoding="utf-8"))
        for text, tags in self.found.items():
            if len(tags) != 2 or max(tags[0], default=0) >= NUM_NOUNS or max(tags[1], default=0) >= NUM_VERBS:
                expected = f"[nouns below {NUM_NOUNS}, verbs below {NUM_VERBS}]"
                raise ValueError(f"{path}: {text!r}: {tags}: expected {expected}")

    def tags(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Narrations -> (nouns [B, 582], verbs [B, 118]) float32; of an unknown one none."""
        nouns, verbs = zip(*(self.found.get(text, ([], [])) for text in texts), strict=True) if len(texts) else ((), ())
        return multi_hot(nouns, NUM_NOUNS), multi_hot(verbs, NUM_VERBS)


def verb_and_noun(name: str) -> tuple[str, str]:
    """The verb and the noun of a class name: cut_tomato -> cut, tomato; place_cheese_into_bowl -> place, cheese.

    action_start and action_end put the verb last.
    """
    words = name.lower().replace("_", " ").split()
    if words[:1] == ["action"]:
        words = words[::-1]
    return words[0] if words else "", words[1] if len(words) > 1 else ""


def multi_hot(rows: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Lists of numbers below `size` -> [B, size] float32 with 1 at those numbers."""
    vectors = np.zeros((len(rows), size), dtype=np.float32)
    for vector, numbers in zip(vectors, rows, strict=True):
        vector[list(numbers)] = 1
    return vectors


def _verb_forms(verb: str) -> set[str]:
    stem = verb.removesuffix("e")
    if re.search(r"[^aeiou]y$", verb):
        return {verb, verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"}
    regular = {verb, verb + "s", verb + "es", stem + "ed", stem + "ing"}
    doubles = re.search(r"[^aeiou][aeiou][bdgkmnprt]$", verb)  # cut, cutting
    return regular | {verb + verb[-1] + ending for ending in ("ed", "ing")} if doubles else regular


def _noun_forms(noun: str) -> set[str]:
    if re.search(r"[^aeiou]y$", noun):
        return {noun, noun[:-1] + "ies"}
    return {noun, noun + "s", noun + "es"} if re.search(r"(o|s|x|z|ch|sh)$", noun) else {noun, noun + "s"}


# What actions are done to. Tools and vessels are left out: all that goes into a bowl would be one action.
KITCHEN = Taxonomy(
    verbs=tuple(
        "add boil bake chop crack cut dice drain end fry grate grind heat knead mash melt mix open peel place pour put "
        "roast roll season serve shake slice spread sprinkle squeeze start stir taste wash whisk wipe".split()
    ),
    nouns=tuple(
        "action apple banana bean bread butter cabbage carrot celery cheese chicken cream cucumber dough "
        "dressing egg fish flour garlic ginger herb ingredient lemon lettuce meat milk mushroom mustard "
        "noodle oil olive onion pasta pepper potato rice salad salt sauce soup sugar tomato "
        "vinegar water yogurt".split()
    ),
)


if __name__ == "__main__":
    clips, place = read_egoclip(sys.argv[1]), Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    write_tags(place / "tags.json", clips)
    write_captions(place / "raw_caption.json", clips)
