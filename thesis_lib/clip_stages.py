"""The heavy steps of the systems that read frames (`methods`), bound to the parameters of the notebooks that show them.

As `stages`, whose functions these take further: the appendix of a system has the parameters of its recipe, notebooks 06
and 07 those of zero-shot and fine-tuning.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import yaml

from thesis_lib import methods, params, runs, stages

# Of fine-tuning, what notebook 07 or the caller sets for all systems alike; the rest has a parameter tuned_<name>.
OF_ALL = "head num_epochs epochs num_videos warmup prompts seconds_rule precision seed device name".split()
STAGES = "weights clips vectors fine_tuning fine_tuning_splits frozen frozen_splits comparison planted".split()


def of(method: str, profile: str) -> SimpleNamespace:
    """The parameters of the recipe of a system: those of its notebook, or the defaults of the recipe."""
    from thesis_lib.training import clip_tuning

    if notebook := methods.find(method).notebook:
        return params.load(notebook, profile)
    common = vars(params.load(stages.NOTEBOOK["fine_tuning"], profile))
    tuning = {f"tuned_{name}": value for name, value in _defaults(clip_tuning.train).items() if name not in OF_ALL}
    recipe = _defaults(methods.recipe(method).train)
    return SimpleNamespace(**tuning | recipe | {name: common[name] for name in params.COMMON}, compared=[])


def _defaults(function: Callable) -> dict:
    given = inspect.signature(function).parameters.items()
    return {name: one.default for name, one in given if one.default is not inspect.Parameter.empty}


def weights(profile: str, method: str, **changed) -> Path:
    """A system pretrained on the narrated corpus, or the official file given for it as <method>_path.

    `changed` replaces arguments of its recipe.
    """
    p, about, train = of(method, profile), methods.find(method), methods.recipe(method).train
    known = inspect.signature(train).parameters
    if unknown := sorted(changed.keys() - known):
        raise ValueError(f"{method} has no argument '{unknown[0]}': expected one of {', '.join(known)}")
    if (given := getattr(p, f"{method}_path", "")) and not changed:
        return Path(given)
    values = vars(p) | about.changed | changed
    published = {"vision": getattr(p, "vision_path", ""), "bert": getattr(p, "bert_root", "")}
    values |= {name: Path(path) if path else "" for name, path in published.items()}
    said = " ".join(f"{name}={value}" for name, value in changed.items() if not isinstance(value, Path))
    values |= dict(howto=stages.named(stages.howto(p)), vocab=stages.vocabulary(p), name=f"{method} {said}".strip())
    inputs = {name: values[name] for name in known if name in values}
    return runs.cached(train, profile=profile, together=True, **inputs)


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
    epochs = sorted({*p.epochs, arguments.get("num_epochs", max(p.epochs))})
    about = as_notebook_07(p) | dict(epochs=epochs) | arguments
    trained = weights(p.profile, p.method, **start_of(p, weights_name))
    changed = {name: value for name, value in about.items() if name in known}
    return fine_tuning(p.profile, p.method, split, head, pretrained=trained, **changed)


def as_notebook_07(p: SimpleNamespace) -> dict:
    """What notebook 07, by its parameters p, sets for the fine-tuning of all systems alike."""
    names = ("warmup", "prompts", "seconds_rule", "precision", "seed", "device")
    return {name: getattr(p, name) for name in names} | dict(num_epochs=max(p.epochs), epochs=sorted({*p.epochs}))


def fine_tuning(profile: str, method: str, split: int, head: str = "classifier", **changed) -> Path:
    """A system fine-tuned on one split, with the epochs and prompts of notebook 07 and the tuned_<name> of its own."""
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
        name=f"fine-tuning {method} {head} split {split}",
        **as_notebook_07(p),
    )
    own = {name: value for name, value in vars(about).items() if name.startswith("tuned_")}
    arguments |= {name.removeprefix("tuned_"): value for name, value in own.items()}
    also = [methods.recipe(method).__name__]
    return runs.cached(clip_tuning.train, profile=profile, also=also, **arguments | changed)


def fine_tuning_splits(profile: str, method: str) -> list[Path]:
    """Fine-tuning on every split of notebook 07."""
    splits = params.load(stages.NOTEBOOK["fine_tuning"], profile).splits
    return [fine_tuning(profile, method, split) for split in splits]


def frozen(profile: str, method: str, split: int) -> Path:
    """ASFormer by the recipe of notebook 04 on the frozen features of a system, one vector a second."""
    p = params.load(stages.NOTEBOOK["baseline"], profile)
    return stages.on_seconds(p, split, vectors(profile, method, "features"))


def frozen_splits(profile: str, method: str) -> list[Path]:
    """ASFormer on frozen features on every split of notebook 04."""
    splits = params.load(stages.NOTEBOOK["baseline"], profile).splits
    return [frozen(profile, method, split) for split in splits]


def comparison(profile: str, method: str, changed: str) -> tuple[Path, Path]:
    """A short pretraining (`compared_as`) and what fine-tuning on the first split of notebook 07 makes of it, for
    `compared_epochs`: (weights, fine-tuned)."""
    p, tuning = of(method, profile), params.load(stages.NOTEBOOK["fine_tuning"], profile)
    arguments = compared_as(profile, method, changed)
    trained = weights(profile, method, **arguments)
    if methods.has_text(method):
        vectors(profile, method, "embed", **arguments)  # zero-shot is asked of it too
    epochs = dict(num_epochs=p.compared_epochs, epochs=[p.compared_epochs])
    name = f"fine-tuning {method} {changed}".strip()
    return trained, fine_tuning(profile, method, tuning.splits[0], pretrained=trained, name=name, **epochs)


def planted(profile: str, method: str) -> Path:
    """A prompter as that of a system, trained where it is known what a box shows."""
    from thesis_lib import planted

    p = of(method, profile)
    return runs.cached(planted.train, profile=profile, prompter_steps=p.planted_steps, seed=p.seed, device=p.device)


def compared_as(profile: str, method: str, changed: str) -> dict:
    """What a short pretraining has other than the system itself: `compared_steps`, and "ratio:0.75 masking:random".

    All see `compared_videos` videos, and begin with the prompter of the system, if it has one.
    """
    p = of(method, profile)
    arguments = {"num_steps": p.compared_steps, "num_videos": p.compared_videos}
    if (prompter := weights(profile, method) / "prompter").is_dir():
        arguments["prompter"] = prompter
    return arguments | {name: yaml.safe_load(value) for name, value in stages.changes(changed).items()}
