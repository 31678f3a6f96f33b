"""The embedded corpora: mini 50Salads, mini HowTo100M and mini Kinetics, drawn from a seed in the real layouts.

Mini 50Salads follows statistics of the real labels (577,595 frames of 50 videos): the share of salads that begin with
the dressing, the orders of the four ingredients, how often a step is repeated or left out, and per class the mean and
the spread (log-normal) of its duration, multiplied by `scale`. Notebook 01 shows both side by side.

Mini HowTo narrates more verb-object pairs than the 19 classes have; a caption comes seconds before or after what it
names, and chatter lies between. Mini Kinetics has labelled clips of actions outside the 19 classes, for the I3D.
"""

import csv
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .kitchen import FPS, SIZE, Kitchen
from .raw_salads import TEST_USERS
from .salads import write_lines
from .text import write_vocab
from .video import write_video

# class name -> (motion, thing, mean seconds, standard deviation of the log of the seconds), measured on the real labels
CLASSES = {
    "cut_tomato": ("cut", "tomato", 34.7, 0.75),
    "place_tomato_into_bowl": ("place", "tomato", 7.7, 0.64),
    "cut_cheese": ("cut", "cheese", 31.0, 0.44),
    "place_cheese_into_bowl": ("place", "cheese", 7.8, 0.56),
    "cut_lettuce": ("cut", "lettuce", 27.1, 0.75),
    "place_lettuce_into_bowl": ("place", "lettuce", 8.4, 0.52),
    "add_salt": ("shake", "salt", 7.7, 0.31),
    "add_vinegar": ("pour", "vinegar", 15.2, 0.32),
    "add_oil": ("pour", "oil", 17.9, 0.39),
    "add_pepper": ("shake", "pepper", 8.7, 0.47),
    "mix_dressing": ("stir", "dressing", 12.4, 0.66),
    "peel_cucumber": ("peel", "cucumber", 41.0, 0.44),
    "cut_cucumber": ("cut", "cucumber", 28.3, 0.73),
    "place_cucumber_into_bowl": ("place", "cucumber", 9.6, 0.80),
    "add_dressing": ("dress", "dressing", 17.7, 0.51),
    "mix_ingredients": ("stir", "ingredients", 13.6, 0.82),
    "serve_salad_onto_plate": ("serve", "salad", 23.2, 0.40),
    "action_start": ("wait", "", 20.0, 0.40),
    "action_end": ("wait", "", 34.2, 0.65),
}
DAMAGED = ("rgb-14-1", "rgb-18-1")  # the two files the thesis found broken (its figure 8)
SURPLUS = 8  # frames by which the real videos are longer than their labels
INGREDIENTS = ("tomato", "cheese", "lettuce", "cucumber")

# (motion, thing) outside the 19 classes: narrated too, and what mini Kinetics shows
OTHER = [
    *(("cut", t) for t in ("carrot", "onion", "potato", "mushroom", "bread", "apple")),
    *(("peel", t) for t in ("carrot", "potato", "apple")),
    *(("place", t) for t in ("carrot", "onion", "mushroom", "potato")),
    *(("pour", t) for t in ("milk", "water")),
    ("shake", "sugar"),
    *(("stir", t) for t in ("milk", "onion", "carrot")),
    *(("wash", t) for t in ("apple", "potato", "carrot", "onion")),
    *(("grate", t) for t in ("carrot", "apple", "potato")),
]
PHRASES = {
    "cut": (
        "cut the {}",
        "now we cut the {}",
        "i cut my {} into small pieces",
        "take the knife and cut {}",
        "keep cutting the {}",
    ),
    "peel": ("peel the {}", "first i peel my {}", "peel all of the {}", "just peel {} like this"),
    "place": (
        "place the {} into the bowl",
        "place {} into bowl",
        "the {} can go into the bowl, place it",
        "now place all the {} in",
    ),
    "pour": ("add the {}", "add some {}", "now add a little {}", "you add your {} now"),
    "shake": ("add the {}", "add some {}", "now add a little {}", "you add your {} now"),
    "stir": ("mix the {}", "mix all the {} well", "now we mix {}", "give it a good mix, the {}"),
    "dress": ("add the {}", "add the {} on top of it", "now add all the {}", "you add your {} now"),
    "serve": (
        "serve the {} onto a plate",
        "serve {} onto plate",
        "now serve your {}",
        "we serve the {} and it looks good",
    ),
    "wash": ("wash the {}", "i wash my {} under water", "now wash {} well"),
    "grate": ("grate the {}", "now grate some {}", "i grate my {}"),
}
START = ("hello everyone let us start the action", "welcome back so we start", "ready for some action, start")
END = ("and that is the end", "this is the end of the action thank you", "the end, bye and see you")
CHATTER = (
    "please subscribe to my channel", "do not forget to like this video", "my grandmother showed me this",
    "it smells so good", "you can find the list below", "let me know what you think", "it is so easy and quick",
    "i do this every sunday",
)  # fmt: skip


def salad_script(rng: np.random.Generator) -> list[str]:
    """The classes of one salad in order; the rates below were counted in the 50 real label files."""
    salad = []
    for name in rng.permutation(INGREDIENTS):
        steps = [f"cut_{name}", f"place_{name}_into_bowl"]
        if name == "cucumber" and rng.random() < 0.96:
            steps.insert(0, "peel_cucumber")
        if rng.random() < 0.06:
            steps.remove(f"place_{name}_into_bowl")
        elif rng.random() < 0.18 and name != "cheese":
            steps += [f"cut_{name}", f"place_{name}_into_bowl"]
        salad += steps
    if rng.random() < 0.7:
        salad.append("mix_ingredients")

    liquids = list(rng.permutation(["add_vinegar", "add_oil"]))
    solids = list(rng.permutation(["add_salt", "add_pepper"]))
    dressing = liquids + solids if rng.random() < 0.7 else solids + liquids
    if rng.random() < 0.15:
        dressing.insert(3, "mix_dressing")
    if rng.random() < 0.92:
        dressing.append("mix_dressing")

    finish = ["serve_salad_onto_plate"]
    if rng.random() < 0.8:
        finish.insert(0 if rng.random() < 0.5 else 1, "add_dressing")
    if rng.random() < 0.5:
        finish.insert(finish.index("serve_salad_onto_plate"), "mix_ingredients")
    first, second = (dressing, salad) if rng.random() < 0.5 else (salad, dressing)
    return ["action_start", *first, *second, *finish, "action_end"]


def duration(rng: np.random.Generator, name: str, scale: float) -> int:
    """Frames of one segment: log-normal with the real mean and spread times `scale`, half a second at least."""
    _, _, mean, spread = CLASSES[name]
    seconds = scale * mean * np.exp(rng.normal(0, spread) - spread**2 / 2)
    return int(np.clip(round(seconds * FPS), FPS // 2, round(3.5 * scale * mean * FPS)))


def draw(
    folder: Path, *, seed: int, users_per_split: int, narrated: int, clips: int, nuisance: float, scale: float
) -> None:
    """Write the three corpora into `folder`, in the layouts that the README describes. Same seed, same pixels.

    users_per_split: actors in each of the five test splits, two videos each. narrated: videos of mini HowTo.
    clips: clips of mini Kinetics. nuisance: how much light, colours, layout and pace differ between kitchens, 0..1.
    scale: durations over the real ones.
    """
    seeds = np.random.SeedSequence(seed).spawn(3)
    for corpus in ("50salads", "howto100m", "kinetics"):
        (folder / corpus / "videos").mkdir(parents=True, exist_ok=True)
        (folder / corpus / "corpus.json").write_text(
            json.dumps({"seed": seed, "fps": FPS, "size": SIZE, "scale": scale})
        )
    users = [user for split in TEST_USERS.values() for user in split[:users_per_split]]
    sessions = [(user, take) for user in users for take in (1, 2)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        salads = pool.map(
            partial(write_salad, folder / "50salads", nuisance=nuisance, scale=scale),
            sessions,
            seeds[0].spawn(len(sessions)),
        )
        films = list(
            pool.map(
                partial(write_narrated, folder / "howto100m", nuisance=nuisance),
                range(narrated),
                seeds[1].spawn(narrated),
                chunksize=4,
            )
        )
        labels = list(
            pool.map(
                partial(write_clip, folder / "kinetics", nuisance=nuisance),
                range(clips),
                seeds[2].spawn(clips),
                chunksize=16,
            )
        )
        list(salads)
    write_splits(folder / "50salads", users_per_split)
    captions = {name: film["captions"] for name, film in films}
    (folder / "howto100m/raw_caption.json").write_text(json.dumps(captions))
    (folder / "howto100m/actions.json").write_text(json.dumps({name: film["actions"] for name, film in films}))
    write_csv(
        folder / "howto100m/HowTo100M_v1.csv",
        ["video_id", "category_1", "category_2", "rank", "task_id"],
        [(name, "Food and Entertaining", film["category"], 1 + k % 200, k) for k, (name, film) in enumerate(films)],
    )
    write_csv(folder / "kinetics/labels.csv", ["video_id", "label"], labels)
    write_vocab(folder / "vocab.txt", [text for c in captions.values() for text in c["text"]] + list(CLASSES))


def write_salad(
    folder: Path, session: tuple[int, int], seeds: np.random.SeedSequence, *, nuisance: float, scale: float
) -> None:
    """One salad: AVI, per-frame labels (8 frames short), raw annotation of low-level phases, timestamps."""
    rng = np.random.default_rng(seeds)
    name = "{:02d}-{}".format(*session)
    kitchen = Kitchen(rng, nuisance)
    script = salad_script(rng)
    lengths = [duration(rng, c, scale) for c in script]
    lengths[-1] += SURPLUS
    video = folder / f"videos/rgb-{name}.avi"
    write_video(video, (f for c, n in zip(script, lengths, strict=True) for f in kitchen.act(*CLASSES[c][:2], n)), FPS)
    if video.stem in DAMAGED:
        damage(video)
    labels = np.repeat(script, lengths)[:-SURPLUS]
    write_lines(folder / f"groundTruth/rgb-{name}.txt", labels)
    stamps = 50_000_000 + np.cumsum(rng.integers(990, 1010, sum(lengths)) * 1000 // FPS)
    write_lines(folder / f"timestamps/timestamps-{name}.txt", (f"{t} rgb/{k:06d}.png" for k, t in enumerate(stamps)))
    write_lines(folder / f"annotations/{name}-activityAnnotation.txt", annotation(script, lengths, stamps))


def annotation(script: list[str], lengths: list[int], stamps: np.ndarray) -> list[str]:
    """Lines `start end label` as in the raw dataset: three phases an action, three high-level activities, nothing
    for start and end."""
    lines, starts = [], np.cumsum([0, *lengths])
    for name, a, b in zip(script, starts[:-1], starts[1:], strict=True):
        if name in ("action_start", "action_end"):
            continue
        prep, post = a + (b - a) // 6, b - (b - a) // 6
        for phase, p, q in (("prep", a, prep), ("core", prep, post), ("post", post, b)):
            if q > p:
                lines.append(f"{stamps[p]} {stamps[q - 1]} {name}_{phase}")
    inner = stamps[starts[1] : starts[-2]]
    third = len(inner) // 3
    for k, activity in enumerate(("cut_and_mix_ingredients", "prepare_dressing", "serve_salad")):
        lines.insert(k, f"{inner[k * third]} {inner[(k + 1) * third - 1]} {activity}")
    return lines


def damage(video: Path) -> None:
    """Overwrite two stretches of the file, as a bad disk does."""
    data = bytearray(video.read_bytes())
    for at in (0.37, 0.71):
        start = int(len(data) * at)
        data[start : start + len(data) // 40] = b"\xaa" * (len(data) // 40)
    video.write_bytes(data)


def write_splits(folder: Path, users_per_split: int) -> None:
    """mapping.txt and the ten bundles: an actor's videos are all in one test split."""
    names = {
        k: [f"rgb-{u:02d}-{t}.txt" for u in users[:users_per_split] for t in (1, 2)] for k, users in TEST_USERS.items()
    }
    for split, test in names.items():
        write_lines(folder / f"splits/test.split{split}.bundle", test)
        write_lines(
            folder / f"splits/train.split{split}.bundle", [n for k, part in names.items() if k != split for n in part]
        )
    write_lines(folder / "mapping.txt", (f"{k} {name}" for k, name in enumerate(CLASSES)))


def write_narrated(folder: Path, number: int, seeds: np.random.SeedSequence, *, nuisance: float) -> tuple[str, dict]:
    """One narrated video of about half a minute: a few things, each washed, peeled, cut and placed, or poured,
    mixed, served."""
    rng = np.random.default_rng(seeds)
    name = f"howto{number:05d}"
    kitchen = Kitchen(rng, nuisance)
    script = [("wait", "")] + narrated_script(rng) + [("wait", "")]
    lengths = [int(FPS * rng.uniform(3.0, 7.0)) for _ in script]
    lengths[0], lengths[-1] = FPS * 2, FPS * 2
    write_video(
        folder / f"videos/{name}.avi",
        (f for a, n in zip(script, lengths, strict=True) for f in kitchen.act(*a, n)),
        FPS,
    )
    ends = np.cumsum(lengths) / FPS
    starts = ends - np.array(lengths) / FPS
    captions = []
    for k, ((verb, thing), start, end) in enumerate(zip(script, starts, ends, strict=True)):
        texts = PHRASES[verb] if verb != "wait" else (START if k == 0 else END)
        for _ in range(1 + (rng.random() < 0.5 and verb != "wait")):
            at = rng.uniform(start, max(start, end - 1.5)) + rng.normal(0.3, 0.8)  # speech runs ahead or behind
            captions.append((at, at + rng.uniform(1.5, 3.0), str(rng.choice(texts)).format(thing)))
        if rng.random() < 0.25:
            at = rng.uniform(start, end)
            captions.append((at, at + rng.uniform(1.5, 3.0), str(rng.choice(CHATTER))))
    captions = sorted(
        (round(float(np.clip(a, 0, ends[-1] - 0.5)), 2), round(float(min(b, ends[-1])), 2), t) for a, b, t in captions
    )
    return name, {
        "captions": {
            "start": [c[0] for c in captions],
            "end": [c[1] for c in captions],
            "text": [c[2] for c in captions],
        },
        "actions": [
            [float(a), float(b), f"{v} {t}".strip()] for (v, t), a, b in zip(script, starts, ends, strict=True)
        ],
        "category": "Salads" if any(t in INGREDIENTS for _, t in script) else "Recipes",
    }


def narrated_script(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Five to eight (motion, thing): chains on things, in the order in which cooks do them, then a drink or a
    dressing."""
    pairs = [CLASSES[c][:2] for c in CLASSES if not c.startswith("action")] + OTHER
    things = sorted({t for v, t in pairs if v in ("cut", "peel", "place", "wash", "grate")})
    script = []
    for thing in rng.choice(things, 2, replace=False):
        script += [
            (v, t)
            for v in ("wash", "peel", "grate", "cut", "place")
            for w, t in pairs
            if (v, thing) == (w, t) and rng.random() < 0.85
        ]
    rest = [p for p in pairs if p[0] in ("pour", "shake", "stir", "dress", "serve")]
    script += [rest[k] for k in rng.choice(len(rest), 4, replace=False)]
    return script[-8:] if rng.random() < 0.5 else script[:8]


def write_clip(folder: Path, number: int, seeds: np.random.SeedSequence, *, nuisance: float) -> tuple[str, str]:
    """One labelled clip of 24 frames of an action outside the 19 classes."""
    rng = np.random.default_rng(seeds)
    verb, thing = OTHER[number % len(OTHER)]
    kitchen = Kitchen(rng, nuisance)
    for name in rng.choice(["carrot", "onion", "mushroom", "potato"], rng.integers(0, 4), replace=False):
        kitchen.drop(name, (35.0, 17.0), 5.0, kitchen.in_bowl, 5)
    write_video(folder / f"videos/clip{number:05d}.avi", kitchen.act(verb, thing, 24), FPS)
    return f"clip{number:05d}", f"{verb} {thing}"


def write_csv(path: Path, header: list[str], rows) -> None:
    """A csv file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
