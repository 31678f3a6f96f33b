"""The heavy steps of the systems that read frames (`methods`), bound to the parameters of the notebooks that show them.

As `stages`, whose functions these take further: the appendix of a system has the parameters of its recipe, notebooks 06
and 07 those of zero-shot and fine-tuning. A stage takes the parameters `p` of any of these notebooks, and those of the
others from the profile of `p`.
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
STAGES = "films weights clips vectors fine_tuning fine_tuning_splits frozen frozen_splits comparison".split()


def of(method: str, p: SimpleNamespace) -> SimpleNamespace:
    """The parameters of the recipe of a system: those of its notebook, or the defaults of the recipe."""
    from thesis_lib.training import clip_tuning

    if notebook := methods.find(method).notebook:
        return params.of(notebook, p)
    common = vars(stages.of("fine_tuning", p))
    tuning = {f"tuned_{name}": value for name, value in _defaults(clip_tuning.train).items() if name not in OF_ALL}
    recipe = _defaults(methods.recipe(method).train)
    return SimpleNamespace(**tuning | recipe | {name: common[name] for name in params.COMMON}, compared=[])


def _defaults(function: Callable) -> dict:
    given = inspect.signature(function).parameters.items()
    return {name: one.default for name, one in given if one.default is not inspect.Parameter.empty}


def weights(p: SimpleNamespace, method: str, **changed) -> Path:
    """A system pretrained on the narrated corpus, or the official file given for it as <method>_path.

    `changed` replaces arguments of its recipe.
    """
    p, about, train = of(method, p), methods.find(method), methods.recipe(method).train
    known = inspect.signature(train).parameters
    if unknown := sorted(changed.keys() - known):
        raise ValueError(f"{method} has no argument '{unknown[0]}': expected one of {', '.join(known)}")
    if (given := getattr(p, f"{method}_path", "")) and not changed:
        return Path(given)
    values = vars(p) | about.changed | changed
    published = {"vision": getattr(p, "vision_path", ""), "bert": getattr(p, "bert_root", "")}
    values |= {name: Path(path) if path else "" for name, path in published.items()}
    mapping = stages.salads(p) / "mapping.txt"
    values["classes"] = mapping if mapping.is_file() else ""
    said = " ".join(f"{name}={value}" for name, value in changed.items() if not isinstance(value, Path))
    values |= dict(howto=stages.named(stages.howto(p)), vocab=stages.vocabulary(p), name=f"{method} {said}".strip())
    if size := film_size(SimpleNamespace(**values), method):
        values["films"] = stages.films(p, size)
    inputs = {name: values[name] for name in known if name in values}
    return runs.cached(train, profile=p.profile, together=True, **inputs)


def films(p: SimpleNamespace, method: str) -> Path | str:
    """The narrated videos decoded once for all; "" where each training decodes the clips that it wants."""
    p = of(method, p)
    return stages.films(p, size) if (size := film_size(p, method)) else ""


def film_size(p: SimpleNamespace, method: str) -> int:
    """The pixels at which a recipe wants the narrated videos decoded once for all; 0 where it does not."""
    from thesis_lib.training.crops import size_to_read

    if "films" not in inspect.signature(methods.recipe(method).train).parameters or p.on_demand:
        return 0
    return size_to_read(p.size, getattr(p, "crop_scales", [1.0]))


def clips_seen(folder: Path) -> int:
    """How many clips a pretraining passed, what came before its main training included."""
    asked = json.loads((Path(folder) / "inputs.json").read_text())["inputs"]
    steps = asked["num_steps"] * len(asked.get("stage_frames", "1")) + asked.get("prompter_steps", 0)
    return steps * asked["batch_size"] * asked.get("accumulate", 1)


def clips(p: SimpleNamespace, method: str) -> Path:
    """The salad videos as one clip a second, as this system wants them."""
    from thesis_lib import seconds

    p = of(method, p)
    return runs.cached(
        seconds.extract_clips,
        profile=p.profile,
        root=stages.salads(p),
        frames=p.stage_frames[-1] if hasattr(p, "stage_frames") else p.frames,
        seconds=p.seconds,
        size=p.size,
    )


def vectors(p: SimpleNamespace, method: str, kind: str, **changed) -> Path:
    """<video>.npy [seconds, D] of the salads: frozen "features" of a system, or its "embed" in the space of texts."""
    from thesis_lib import seconds

    p = of(method, p)
    return runs.cached(
        seconds.extract_vectors,
        profile=p.profile,
        also=[methods.recipe(method).__name__],
        method=method,
        weights=weights(p, method, **changed),
        vocab=stages.vocabulary(p),
        clips=clips(p, method),
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
    changed = {name: value for name, value in (dict(epochs=epochs) | arguments).items() if name in known}
    trained = weights(p, p.method, **start_of(p, weights_name))
    return fine_tuning(p, p.method, split, head, pretrained=trained, **changed)


def fine_tuning(p: SimpleNamespace, method: str, split: int, head: str = "classifier", **changed) -> Path:
    """A system fine-tuned on one split, with the epochs and prompts of notebook 07 and the tuned_<name> of its own."""
    from thesis_lib.training import clip_tuning

    about, pretrained, seen = of(method, p), weights(p, method), clips(p, method)
    p = stages.of("fine_tuning", p)
    names = ("warmup", "prompts", "seconds_rule", "precision", "seed", "device")
    arguments = dict(
        method=method,
        pretrained=pretrained,
        vocab=stages.vocabulary(p),
        clips=seen,
        root=stages.salads(p),
        split=split,
        fps=stages.fps(p),
        head=head,
        num_epochs=max(p.epochs),
        epochs=sorted({*p.epochs}),
        name=f"fine-tuning {method} {head} split {split}",
        **{name: getattr(p, name) for name in names},
    )
    own = {name: value for name, value in vars(about).items() if name.startswith("tuned_")}
    arguments |= {name.removeprefix("tuned_"): value for name, value in own.items()}
    also = [methods.recipe(method).__name__]
    return runs.cached(clip_tuning.train, profile=p.profile, also=also, **arguments | changed)


def fine_tuning_splits(p: SimpleNamespace, method: str) -> list[Path]:
    """Fine-tuning on every split of notebook 07."""
    return [fine_tuning(p, method, split) for split in stages.of("fine_tuning", p).splits]


def frozen(p: SimpleNamespace, method: str, split: int) -> Path:
    """ASFormer by the recipe of notebook 04 on the frozen features of a system, one vector a second."""
    return stages.on_seconds(stages.of("baseline", p), split, vectors(p, method, "features"))


def frozen_splits(p: SimpleNamespace, method: str) -> list[Path]:
    """ASFormer on frozen features on every split of notebook 04."""
    return [frozen(p, method, split) for split in stages.of("baseline", p).splits]


def comparison(p: SimpleNamespace, method: str, changed: str) -> tuple[Path, Path]:
    """A short pretraining (`compared_as`) and what fine-tuning on the first split of notebook 07 makes of it, for
    `compared_epochs`: (weights, fine-tuned)."""
    arguments, last = compared_as(p, method, changed), of(method, p).compared_epochs
    trained = weights(p, method, **arguments)
    if methods.has_text(method):
        vectors(p, method, "embed", **arguments)  # zero-shot is asked of it too
    split, name = stages.of("fine_tuning", p).splits[0], f"fine-tuning {method} {changed}".strip()
    return trained, fine_tuning(p, method, split, pretrained=trained, name=name, num_epochs=last, epochs=[last])


def compared_as(p: SimpleNamespace, method: str, changed: str) -> dict:
    """What a short pretraining has other than the system itself: `compared_steps`, and "ratio:0.75 masking:random".

    All see `compared_videos` videos, and begin with the prompter of the system, if it has one.
    """
    about = of(method, p)
    arguments = {"num_steps": about.compared_steps, "num_videos": about.compared_videos}
    if (prompter := weights(p, method) / "prompter").is_dir():
        arguments["prompter"] = prompter
    return arguments | {name: yaml.safe_load(value) for name, value in stages.changes(changed).items()}
