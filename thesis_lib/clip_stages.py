"""The heavy steps of the systems that read frames (`methods`), bound to the parameters of the notebooks that show them.

As `stages`, whose functions these take further: the appendix of a system has the parameters of its recipe, notebooks 06
and 07 those of zero-shot and fine-tuning.
"""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import yaml

from thesis_lib import methods, params, runs, stages

STAGES = ("weights", "clips", "vectors", "fine_tuning", "fine_tuning_splits", "frozen", "frozen_splits", "comparison")


def of(method: str, profile: str) -> SimpleNamespace:
    """The parameters of the recipe of a system."""
    return params.load(methods.find(method).notebook, profile)


def weights(profile: str, method: str, **changed) -> Path:
    """A system pretrained on the narrated corpus, or the official file given for it as <method>_path.

    `changed` replaces arguments of its recipe.
    """
    p, about, train = of(method, profile), methods.find(method), methods.recipe(method).train
    if (given := getattr(p, f"{method}_path", "")) and not changed:
        return Path(given)
    values = vars(p) | about.changed | changed
    published = {"vision": getattr(p, "vision_path", ""), "bert": getattr(p, "bert_root", "")}
    values |= {name: Path(path) if path else "" for name, path in published.items()}
    said = " ".join(f"{name}={value}" for name, value in changed.items())
    values |= dict(howto=stages.named(stages.howto(p)), vocab=stages.vocabulary(p), name=f"{method} {said}".strip())
    known = inspect.signature(train).parameters
    return runs.cached(train, profile=profile, **{name: values[name] for name in known if name in values})


def clips_seen(folder: Path) -> int:
    """How many clips a pretraining passed, what came before its main training included."""
    asked = json.loads((Path(folder) / "inputs.json").read_text())["inputs"]
    steps = asked["num_steps"] * len(asked.get("stage_frames", "1")) + asked.get("prompter_steps", 0)
    return steps * asked["batch_size"] * asked.get("accumulate", 1)


def clips(profile: str, method: str) -> Path:
    """The salad videos as one clip a second, as this system wants them."""
    from thesis_lib import seconds

    p = of(method, profile)
    return runs.cached(
        seconds.extract_clips,
        profile=profile,
        root=stages.salads(p),
        frames=p.stage_frames[-1] if hasattr(p, "stage_frames") else p.frames,
        seconds=p.seconds,
        size=p.size,
    )


def vectors(profile: str, method: str, kind: str, **changed) -> Path:
    """<video>.npy [seconds, D] of the salads: frozen "features" of a system, or its "embed" in the space of texts."""
    from thesis_lib import seconds

    p = of(method, profile)
    return runs.cached(
        seconds.extract_vectors,
        profile=profile,
        also=[methods.recipe(method).__name__],
        method=method,
        weights=weights(profile, method, **changed),
        vocab=stages.vocabulary(p),
        clips=clips(profile, method),
        kind=kind,
        device=p.device,
    )


def start_of(p: SimpleNamespace, name: str) -> dict:
    """What is changed in the recipe for the weights called "reference" (nothing), "own" or "scratch".

    own: another random start · scratch: the start itself.
    """
    changes = {"reference": {}, "own": {"seed": p.seed + 1}, "scratch": methods.find(p.method).untrained}
    if name not in changes:
        raise ValueError(f"no weights '{name}': expected one of {', '.join(changes)}")
    return changes[name]


def tuned(p: SimpleNamespace, split: int, weights_name: str, head: str, **arguments) -> Path:
    """`stages.fine_tuning` of the system that p names; arguments that it knows replace those of notebook 07."""
    from thesis_lib.training import clip_tuning

    known = inspect.signature(clip_tuning.train).parameters.keys()
    about = dict(prompts=p.prompts, warmup=p.warmup, seconds_rule=p.seconds_rule, precision=p.precision)
    epochs = sorted({*p.epochs, arguments.get("num_epochs", max(p.epochs))})
    about |= dict(seed=p.seed, num_epochs=max(p.epochs), epochs=epochs) | arguments
    trained = weights(p.profile, p.method, **start_of(p, weights_name))
    changed = {name: value for name, value in about.items() if name in known}
    return fine_tuning(p.profile, p.method, split, head, pretrained=trained, **changed)


def fine_tuning(profile: str, method: str, split: int, head: str = "classifier", **changed) -> Path:
    """A system fine-tuned on one split, with the epochs and prompts of notebook 07."""
    from thesis_lib.training import clip_tuning

    p, about = params.load(stages.NOTEBOOK["fine_tuning"], profile), of(method, profile)
    arguments = dict(
        method=method,
        pretrained=weights(profile, method),
        vocab=stages.vocabulary(p),
        clips=clips(profile, method),
        root=stages.salads(p),
        split=split,
        fps=stages.fps(p),
        head=head,
        num_epochs=max(p.epochs),
        epochs=sorted(p.epochs),
        clips_per_video=about.tuned_clips_per_video,
        lr=about.tuned_lr,
        warmup=p.warmup,
        prompts=p.prompts,
        seed=p.seed,
        device=p.device,
        name=f"fine-tuning {method} {head} split {split}",
    )
    also = [methods.recipe(method).__name__]
    return runs.cached(clip_tuning.train, profile=profile, also=also, **arguments | changed)


def fine_tuning_splits(profile: str, method: str) -> list[Path]:
    """Fine-tuning on every split of notebook 07."""
    splits = params.load(stages.NOTEBOOK["fine_tuning"], profile).splits
    return [fine_tuning(profile, method, split) for split in splits]


def frozen(profile: str, method: str, split: int) -> Path:
    """ASFormer by the recipe of notebook 04 on the frozen features of a system, one vector a second."""
    p = params.load(stages.NOTEBOOK["baseline"], profile)
    return stages.baseline(p, split, features=vectors(profile, method, "features"))


def frozen_splits(profile: str, method: str) -> list[Path]:
    """ASFormer on frozen features on every split of notebook 04."""
    splits = params.load(stages.NOTEBOOK["baseline"], profile).splits
    return [frozen(profile, method, split) for split in splits]


def comparison(profile: str, method: str, changed: str, **shared) -> tuple[Path, Path]:
    """A short pretraining with some arguments changed ("ratio:0.75 masking:random"), and what fine-tuning makes of it.

    (weights, fine-tuned on the first split of notebook 07); `compared_steps` and `compared_epochs` tell the lengths;
    shared: arguments of the recipe that all comparisons have.
    """
    p, tuning = of(method, profile), params.load(stages.NOTEBOOK["fine_tuning"], profile)
    arguments = {name: yaml.safe_load(value) for name, _, value in (pair.partition(":") for pair in changed.split())}
    trained = weights(profile, method, **dict(num_steps=p.compared_steps) | shared | arguments)
    epochs = dict(num_epochs=p.compared_epochs, epochs=[p.compared_epochs])
    name = f"fine-tuning {method} {changed}".strip()
    return trained, fine_tuning(profile, method, tuning.splits[0], pretrained=trained, name=name, **epochs)
