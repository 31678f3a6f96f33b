"""The heavy steps of the report, each bound to the parameters of the notebook that shows it.

A notebook calls a stage with its own parameters `p` and gets a folder: found where it was computed before, computed now
where it was not. What a stage needs from other notebooks follows the parameters of the profile. `graph.jobs` lists
those of a profile for the Snakefile, which runs them side by side before their notebooks.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

from thesis_lib import params, paths
from thesis_lib.data.salads import read_bundle
from thesis_lib.data.salads import splits as salad_splits
from thesis_lib.methods import VIDEOCLIP
from thesis_lib.runs import cached

NOTEBOOK = {  # stage -> the notebook whose parameters it takes
    "corpus": "01_data_audit",
    "i3d_weights": "02_feature_extraction",
    "i3d_features": "02_feature_extraction",
    "films": "02_feature_extraction",
    "s3d_weights": "02_feature_extraction",
    "s3d_features": "02_feature_extraction",
    "cropping": "03_cropping_experiment",
    "baseline": "04_baseline",
    "pretraining": "05_pretraining",
    "compared": "05_pretraining",
    "control": "06_zero_shot",
    "fine_tuning": "07_fine_tuning",
    "fine_tuning_splits": "07_fine_tuning",
    "frozen": "07_fine_tuning",
    "frozen_splits": "07_fine_tuning",
    "few_labels": "07_fine_tuning",
    "few_labels_all": "07_fine_tuning",
    "planted": "A2_alpro",
}


def run_stage(stage: str, profile: str, **arguments) -> Path:
    """A stage by name with the parameters of a profile; <method>.<stage> is one of a system that reads frames.

    Raises ValueError for a name that is not one.
    """
    method, _, function = stage.rpartition(".")
    if method:
        from thesis_lib import clip_stages

        if function not in clip_stages.STAGES:
            raise ValueError(f"no stage '{stage}': expected {method}. and one of {', '.join(clip_stages.STAGES)}")
        return getattr(clip_stages, function)(SimpleNamespace(profile=profile), method, **arguments)
    if stage not in NOTEBOOK:
        raise ValueError(f"no stage '{stage}': expected one of {', '.join(NOTEBOOK)}")
    return globals()[stage](params.load(NOTEBOOK[stage], profile), **arguments)


def of(stage: str, p: SimpleNamespace) -> SimpleNamespace:
    """The parameters of the notebook that a stage belongs to: `p` if they are that, else those of its profile."""
    return params.of(NOTEBOOK[stage], p)


# -- data ------------------------------------------------------------------------------------------------------------


def corpus(p: SimpleNamespace) -> Path:
    """The embedded corpora, drawn: folders 50salads, howto100m, kinetics."""
    from thesis_lib.data import mini_corpus

    names = ("users_per_split", "narrated", "clips", "nuisance", "scale")
    return cached(mini_corpus.draw, profile=p.profile, seed=p.corpus_seed, **{name: getattr(p, name) for name in names})


def salads(p: SimpleNamespace) -> Path:
    """The root of 50Salads: the one given as data_root, else the embedded one. Raw files get their labels made."""
    from thesis_lib.data import raw_salads

    if not p.data_root:
        return corpus(of("corpus", p)) / "50salads"
    root = Path(p.data_root)
    return cached(raw_salads.convert, profile=p.profile, root=root) if raw_salads.is_raw(root) else root


def howto(p: SimpleNamespace) -> Path:
    """The root of HowTo100M: the one given as howto_root, else the embedded one."""
    return Path(p.howto_root) if p.howto_root else corpus(of("corpus", p)) / "howto100m"


def named(folder: Path) -> Path | str:
    """A corpus from outside goes into keys by its name: it has millions of files, which come and go beside its use."""
    return folder if folder.is_relative_to(paths.RUNS) else str(folder)


def vocabulary(p: SimpleNamespace) -> Path:
    """The WordPiece vocabulary: the one given as vocab_path, else that of the embedded corpus."""
    given = of("pretraining", p).vocab_path
    return Path(given) if given else corpus(of("corpus", p)) / "vocab.txt"


# -- features --------------------------------------------------------------------------------------------------------


def i3d_weights(p: SimpleNamespace) -> Path:
    """The I3D given as i3d_path, else the small one, trained on mini Kinetics."""
    from thesis_lib.training import i3d

    wanted = {"inception": ["i3d_path"], "two_stream": ["i3d_path", "flow_path"]}.get(p.i3d_backbone, [])
    if lacking := [name for name in wanted if not getattr(p, name)]:
        raise ValueError(f"i3d_backbone: {p.i3d_backbone!r}: only r50 is trained here, set {' and '.join(lacking)}")
    if p.i3d_path:
        return Path(p.i3d_path)
    return cached(
        i3d.train,
        profile=p.profile,
        kinetics=corpus(of("corpus", p)) / "kinetics",
        num_steps=p.i3d_steps,
        batch_size=p.i3d_batch_size,
        lr=p.i3d_lr,
        warmup=p.i3d_warmup,
        stem_dim=p.i3d_stem_dim,
        frames=p.i3d_train_frames,
        size=p.i3d_size,
        seed=p.seed,
        device=p.device,
    )


def i3d_settings(p: SimpleNamespace) -> dict:
    """What `features.about_i3d` wants to know of the features that the parameters ask for."""
    same = ("window", "color", "head", "padding", "last_frame", "flow")
    own = {"backbone": p.i3d_backbone, "size": p.i3d_size, "mode": p.i3d_mode, "precision": p.extraction_precision}
    return own | {name: getattr(p, name) for name in same}


def i3d_features(p: SimpleNamespace, share: int = 0) -> Path:
    """<video>.npy [D, T] of 50Salads: one vector a frame.

    Several processes can do this at once, each with another `share`: they divide the videos among them.
    """
    from thesis_lib import feature_folder, features

    settings = i3d_settings(p)
    flow_weights = Path(p.flow_path) if p.flow_path else ""
    if p.i3d_features_root:
        given = dict(weights=Path(p.i3d_path) if p.i3d_path else None, flow_weights=flow_weights)
        feature_folder.check(Path(p.i3d_features_root), features.about_i3d(**given, **asked(settings)))
        return Path(p.i3d_features_root)
    features.use_gpu(share)
    return cached(
        features.extract_i3d,
        profile=p.profile,
        shared=True,
        root=salads(p),
        weights=i3d_weights(p),
        flow_weights=flow_weights,
        batch_size=p.extraction_batch_size,
        device=p.device,
        **settings,
    )


def asked(settings: dict) -> dict:
    """The same with a precision that is known without looking at the machine, or None."""
    return settings | {"precision": None if settings["precision"] == "auto" else settings["precision"]}


def s3d_weights(p: SimpleNamespace, captions: str = "true", seed: int | None = None, **smaller) -> Path:
    """The S3D given as s3d_path, else the small one, trained with MIL-NCE on the narrated corpus.

    captions="permuted" trains it on captions exchanged at random; `smaller` replaces arguments of the training.
    """
    from thesis_lib.training import s3d

    if p.s3d_path:
        return Path(p.s3d_path)
    arguments = dict(
        howto=named(howto(p)),
        num_steps=p.s3d_steps,
        batch_size=p.s3d_batch_size,
        candidates=p.s3d_candidates,
        lr=p.s3d_lr,
        warmup=p.s3d_warmup,
        channels_div=p.s3d_channels_div,
        embed_dim=p.s3d_embed_dim,
        frames=p.s3d_frames,
        size=p.s3d_size,
        captions=captions,
        seed=p.seed if seed is None else seed,
        device=p.device,
    )
    if p.s3d_train_fps:
        arguments |= dict(fps=p.s3d_train_fps, loading_workers=p.s3d_workers)
    else:
        arguments["films"] = films(p, p.s3d_size)
    return cached(s3d.train, profile=p.profile, together=True, **arguments | smaller)


def s3d_features(p: SimpleNamespace, videos: str, weights: Path | None = None, share: int = 0, **smaller) -> Path:
    """<video>.npy [seconds, D] of "salads" or of the narrated videos ("howto"): one vector a second.

    share: as in `i3d_features`.
    """
    from thesis_lib import feature_folder, features

    settings = dict(frames=p.s3d_frames, size=p.s3d_size, output=p.s3d_output, normalise=p.s3d_normalise)
    settings["precision"] = p.extraction_precision
    given = {"salads": p.s3d_features_root, "howto": p.howto_features_root}[videos]
    if given:
        about = features.about_s3d(weights=Path(p.s3d_path) if p.s3d_path else None, **asked(settings))
        feature_folder.check(Path(given), about)
        return Path(given)
    features.use_gpu(share)
    return cached(
        features.extract_s3d,
        profile=p.profile,
        shared=True,
        root=salads(p) if videos == "salads" else named(howto(p)),
        weights=weights or s3d_weights(p),
        batch_size=p.extraction_batch_size,
        device=p.device,
        **settings,
        **smaller,
    )


def films(p: SimpleNamespace, size: int) -> Path:
    """The narrated videos decoded, for trainings that want all of their frames: `size` pixels on the short side."""
    from thesis_lib.training import films

    return cached(films.decode, profile=p.profile, shared=True, howto=named(howto(p)), size=size)


def splits(p: SimpleNamespace) -> list[int]:
    """Numbers of the splits that the data have: 1 to 5 of 50Salads."""
    return salad_splits(salads(p))


def fps(p: SimpleNamespace) -> float:
    """Frames a second of the labels: corpus.json says it, 50Salads has none and 30."""
    about = salads(p) / "corpus.json"
    return float(json.loads(about.read_text())["fps"]) if about.exists() else 30.0


# -- segmentation ----------------------------------------------------------------------------------------------------


def asformer_features(p: SimpleNamespace) -> Path:
    """What the baseline reads: the folder given as features_root, else the I3D features of the profile."""
    return Path(p.features_root) if p.features_root else i3d_features(of("i3d_features", p))


def baseline(p: SimpleNamespace, split: int, cut: str = "back", changed: str = "") -> Path:
    """ASFormer trained on one split; changed: see `variant`."""
    p = variant("baseline", p, changed)
    return asformer_run(p, split, cut, asformer_features(p), feature_rate=p.feature_rate)


def on_seconds(p: SimpleNamespace, split: int, features: Path) -> Path:
    """ASFormer by the recipe of the baseline on vectors one a second, of which it sees all: there are none to spare."""
    return asformer_run(variant("baseline", p, "sample_rate:1"), split, "back", features, feature_rate=1.0)


def cropping(p: SimpleNamespace, cut: str) -> Path:
    """ASFormer on the split of the cropping experiment, surplus vectors cut in one of three ways."""
    return asformer_run(p, p.split, cut, i3d_features(of("i3d_features", p)))


def asformer_run(p: SimpleNamespace, split: int, cut: str, features: Path, feature_rate: float = 0.0) -> Path:
    """One training of ASFormer by the parameters that notebooks 03 and 04 share."""
    from thesis_lib.training import asformer

    names = ("num_epochs", "lr", "num_layers", "num_decoders", "num_f_maps", "channel_masking_rate", "sample_rate")
    names += ("standardise", "evaluate_every", "epoch_choice", "precision", "seed", "device")
    return cached(
        asformer.train,
        profile=p.profile,
        features=features,
        root=salads(p),
        split=split,
        cut=cut,
        fps=fps(p),
        feature_rate=feature_rate,
        window=p.attention_window,
        name=f"asformer split {split} {cut}",
        **{name: getattr(p, name) for name in names},
    )


def variant(stage: str, p: SimpleNamespace, changed: str) -> SimpleNamespace:
    """The parameters of a notebook with some of them changed: "epoch_choice:held_out lr:0.01", "" for none."""
    values = changes(changed)
    layered = params.layered(NOTEBOOK[stage], p.profile, values)[0]
    return SimpleNamespace(**vars(p) | {name: layered[name] for name in values})


def changes(text: str) -> dict[str, str]:
    """Names and values of "epoch_choice:held_out lr:0.01", {} of "". Raises ValueError for anything else."""
    pairs = [pair.partition(":") for pair in text.split()]
    if not all(name and colon for name, colon, _ in pairs):
        raise ValueError(f"{text!r}: expected parameters as name:value, a space between them")
    return {name: value for name, _, value in pairs}


# -- video and text --------------------------------------------------------------------------------------------------


def pretraining(p: SimpleNamespace, recipe: str) -> Path:
    """VideoCLIP pretrained by one of the recipes, or the file given for it.

    "reference" is the full recipe; "own" is the thesis's: one cluster a step, stopped and begun anew, clusters as its
    data workers saw them.
    """
    given = {"reference": p.reference_path, "own": p.own_path}.get(recipe, "")
    if given:
        return Path(given)
    recipes = {
        "reference": dict(clusters_per_step=p.clusters_per_step),
        "own": dict(
            clusters_per_step=1, interruptions=p.own_interruptions, exact_resume=False, retrieval=p.own_retrieval
        ),
    }
    if recipe not in recipes:
        raise ValueError(f"no recipe '{recipe}': expected one of {', '.join(recipes)}")
    return videoclip_weights(p, name=f"videoclip {recipe}", **recipes[recipe])


def weights(p: SimpleNamespace, name: str) -> Path:
    """The weights "reference" or "own" of the system that the parameter `method` of notebook 05 names."""
    if p.method == VIDEOCLIP:
        return pretraining(p, name)
    from thesis_lib import clip_stages

    return clip_stages.weights(p, p.method, **clip_stages.start_of(p, name))


def compared(p: SimpleNamespace, seed: int) -> list[Path]:
    """All of `comparisons` from one random start."""
    return [comparison(p, what, seed) for what in comparisons(p)]


def comparison(p: SimpleNamespace, what: str, seed: int) -> Path:
    """One of the short trainings that `comparisons` names."""
    return videoclip_weights(p, seed=seed, name=f"videoclip {what}, seed {seed}", **comparisons(p)[what])


def comparisons(p: SimpleNamespace) -> dict[str, dict]:
    """Short trainings of VideoCLIP that differ in one thing each: name -> arguments. None where compared_steps is 0.

    Their length is compared_steps with the middle number of clusters a step; "same pairs": as many clusters in all.
    """
    if not p.compared_steps:
        return {}
    one, some, many = p.compared_clusters
    steps = p.compared_steps

    def variant(clusters: int = some, num_steps: int = steps, **changed) -> dict:
        length = dict(num_steps=num_steps, warmup=math.ceil(num_steps / 8), num_videos=p.compared_videos)
        return dict(clusters_per_step=clusters) | length | changed

    return {
        f"C = {one}": variant(one),
        f"C = {some}": variant(),
        f"C = {many}": variant(many),
        f"C = {one}, same pairs": variant(one, steps * some // one),
        f"C = {many}, same pairs": variant(many, math.ceil(steps * some / many)),
        "random videos": variant(retrieval="none"),
        "frozen clusters": variant(retrieval="frozen"),
        "8 shards": variant(retrieval_shards=8),
        "permuted captions": variant(caption_order="permuted"),
        "stopped, resumed": variant(interruptions=p.own_interruptions, exact_resume=True),
        "stopped, begun anew": variant(interruptions=p.own_interruptions, exact_resume=False),
    }


def videoclip_weights(p: SimpleNamespace, features: Path | None = None, **changed) -> Path:
    """VideoCLIP trained with the parameters of notebook 05; `changed` replaces arguments of the training."""
    from thesis_lib.training import videoclip

    names = ("width", "video_layers", "text_layers", "heads", "dropout", "videos_per_cluster", "clips_per_video")
    names += ("num_steps", "lr", "warmup", "val_videos", "vector_clips", "max_tokens", "min_seconds", "max_seconds")
    names += ("schedule_steps", "retrieval_shards", "precision", "pairs_at_once", "loading_workers")
    arguments = dict(
        features=named(features or s3d_features(of("s3d_features", p), "howto")),
        howto=named(howto(p)),
        vocab=vocabulary(p),
        bert=Path(p.bert_root) if p.bert_root else "",
        seed=p.seed,
        device=p.device,
        **{name: getattr(p, name) for name in names},
    )
    return cached(videoclip.train, profile=p.profile, together=True, **arguments | changed)


def control(p: SimpleNamespace, captions: str, seed: int) -> tuple[Path, Path]:
    """S3D and VideoCLIP trained anew on a small scale, with "true" or "permuted" captions: (weights, salad features).

    With permuted captions nothing connects words and pictures; what zero-shot then still reaches is leakage.
    """
    about, pretrain = of("s3d_weights", p), of("pretraining", p)
    weights = s3d_weights(about, captions, seed, num_steps=p.control_s3d_steps, num_videos=p.control_videos)
    narrated = s3d_features(about, "howto", weights, num_videos=p.control_videos)
    trained = videoclip_weights(
        pretrain,
        narrated,
        caption_order=captions,
        num_videos=p.control_videos,
        num_steps=p.control_steps,
        seed=seed,
        name=f"videoclip {captions} {seed}",
    )
    return trained, s3d_features(about, "salads", weights)


def fine_tuning(p: SimpleNamespace, split: int, weights: str, head: str, changed: str = "", **arguments) -> Path:
    """VideoCLIP fine-tuned on one split, from weights "own", "reference" or "scratch"; an evaluation every epoch.

    changed: parameters of the notebook, see `variant`; arguments: of the training. Another `method` than VideoCLIP is
    fine-tuned by `clip_stages`.
    """
    from thesis_lib import clip_stages
    from thesis_lib.training import finetune

    p, pretrain = variant("fine_tuning", p, changed), of("pretraining", p)
    if p.method != VIDEOCLIP:
        return clip_stages.tuned(p, split, weights, head, **arguments)
    size = ("width", "video_layers", "text_layers", "heads", "dropout")
    names = ("lr", "warmup", "window", "stride_train", "stride_test", "prompts", "seconds_rule", "epoch_choice")
    names += ("precision", "seed", "device")
    values = dict(
        pretrained="" if weights == "scratch" else pretraining(pretrain, weights),
        features=s3d_features(of("s3d_features", p), "salads"),
        root=salads(p),
        vocab=vocabulary(p),
        split=split,
        fps=fps(p),
        head=head,
        num_epochs=max(p.epochs),
        name=f"fine-tuning {weights} {head} split {split}",
    )
    values |= {name: getattr(p, name) for name in names} | {name: getattr(pretrain, name) for name in size}
    return cached(finetune.train, profile=p.profile, **values | arguments)


def frozen(p: SimpleNamespace, split: int) -> Path:
    """ASFormer by the recipe of notebook 04 on the frozen vectors of VideoCLIP's video tower, one a second."""
    from thesis_lib import zero_shot

    tokens = cached(
        zero_shot.extract_tokens,
        profile=p.profile,
        weights=pretraining(of("pretraining", p), "reference"),
        features=s3d_features(of("s3d_features", p), "salads"),
        window=p.window,
        stride=p.stride_test,
    )
    return on_seconds(of("baseline", p), split, tokens)


def frozen_splits(p: SimpleNamespace) -> list[Path]:
    """ASFormer on frozen vectors on every split of the notebook."""
    return [frozen(p, split) for split in p.splits]


def few_labels(p: SimpleNamespace, weights: str, head: str, videos: int, seed: int) -> Path:
    """Fine-tuning on so many videos (0: all) for as many steps as on any other number; each seed has its own split."""
    numbers = splits(p)
    split = numbers[seed % len(numbers)]
    count = videos or len(read_bundle(salads(p) / f"splits/train.split{split}.bundle"))
    epochs = math.ceil(p.few_steps / count)
    return fine_tuning(
        p, split, weights, head, num_videos=videos, num_epochs=epochs, evaluate_every=epochs, epoch_choice="last",
        seed=seed, name=f"{weights} {head} {videos or 'all'} videos seed {seed}",
    )  # fmt: skip


def controls(p: SimpleNamespace) -> list[tuple[str, int]]:
    """(captions, seed) of the control: the true captions once, permuted ones with every seed."""
    return [("true", p.seed), *(("permuted", seed) for seed in p.control_seeds)]


def fine_tuning_splits(p: SimpleNamespace, weights: str, head: str) -> list[Path]:
    """Fine-tuning on every split of the notebook."""
    return [fine_tuning(p, split, weights, head) for split in p.splits]


def few_labels_runs(p: SimpleNamespace, head: str) -> list[dict]:
    """Every run of the comparison with few labels: weights, head, videos, seed."""
    return [
        dict(weights=weights, head=head, videos=videos, seed=seed)
        for videos in p.few_videos
        for seed in p.few_seeds
        for weights in ("reference", "scratch")
    ]


def few_labels_all(p: SimpleNamespace, head: str) -> list[Path]:
    """All runs of `few_labels_runs`."""
    return [few_labels(p, **run) for run in few_labels_runs(p, head)]


def planted(p: SimpleNamespace) -> Path:
    """A prompter as that of ALPRO, trained where it is known what a box shows."""
    from thesis_lib import planted

    return cached(planted.train, profile=p.profile, prompter_steps=p.planted_steps, seed=p.seed, device=p.device)
