"""The jobs of a profile: which heavy stages the Snakefile runs before their notebooks, after which others, on what."""

from types import SimpleNamespace

from thesis_lib import clip_stages, methods, params, paths, rules, stages


def job(stage: str, needs: tuple[str, ...] = (), processes: int = 1, hours: int = 12, **arguments) -> dict:
    """One job: a stage with its arguments, after others, on so many processes; what SLURM is asked for."""
    method = stage.rpartition(".")[0]
    notebook = (methods.find(method).notebook or rules.SUMMARY) if method else stages.NOTEBOOK[stage]
    found = {"stage": stage, "arguments": arguments, "needs": list(needs), "notebook": notebook}
    resources = {"mem_mb": 8000 * processes, "runtime": 60 * hours}
    return found | {"processes": processes, "resources": resources}


def jobs(profile: str) -> dict[str, dict]:
    """The heavy stages of a profile by name, each as `job` makes them.

    A profile without the parameters of the baseline is one of pretraining alone, from features that it names.
    """

    def of_profile(stage: str) -> SimpleNamespace:
        return params.load(stages.NOTEBOOK[stage], profile)

    pretrain, extraction = of_profile("pretraining"), of_profile("i3d_features")
    whole = (paths.PARAMS / profile / f"{stages.NOTEBOOK['baseline']}.yaml").is_file()
    hours = max(12, pretrain.num_steps // 1500)

    def shares(name: str, stage: str, given: str, needs: tuple[str, ...], **arguments) -> dict[str, dict]:
        """The jobs that fill one folder of features together; one where the folder is given."""
        count = 1 if given else extraction.extraction_shares
        if count == 1:
            return {name: job(stage, needs, **arguments)}
        return {f"{name}_{share}": job(stage, needs, share=share, **arguments) for share in range(count)}

    needs = ("s3d_weights",) if whole else ()
    found = shares("s3d_howto", "s3d_features", extraction.howto_features_root, needs, videos="howto")
    s3d_howto = tuple(found)
    for recipe in ("reference", "own"):
        found[f"pretraining_{recipe}"] = job("pretraining", s3d_howto, pretrain.processes, hours, recipe=recipe)
    for seed in pretrain.compared_seeds if stages.comparisons(pretrain) else ():
        found[f"compared_seed{seed}"] = job("compared", s3d_howto, seed=seed)
    if not whole:
        return found

    p = {name: of_profile(name) for name in ("cropping", "baseline", "control", "fine_tuning")}
    s3d_salads = shares("s3d_salads", "s3d_features", extraction.s3d_features_root, ("s3d_weights",), videos="salads")
    i3d_features = shares("i3d_features", "i3d_features", extraction.i3d_features_root, ("i3d_weights",))
    films = () if extraction.s3d_path or extraction.s3d_train_fps else (f"films_{extraction.s3d_size}",)
    found = {
        "corpus": job("corpus"),
        **{name: job("films", ("corpus",), size=extraction.s3d_size) for name in films},
        "s3d_weights": job("s3d_weights", ("corpus", *films)),
        "i3d_weights": job("i3d_weights", ("corpus",)),
        **s3d_salads,
        **i3d_features,
        **found,
    }
    for captions, seed in stages.controls(p["control"]):
        found[f"control_{captions}_{seed}"] = job("control", ("corpus", *films), captions=captions, seed=seed)
    for cut in p["cropping"].cuts:
        found[f"cropping_{cut}"] = job("cropping", tuple(i3d_features), cut=cut)
    for split in p["baseline"].splits:
        found[f"baseline_split{split}"] = job("baseline", tuple(i3d_features), split=split)
    for number, changed in enumerate(p["baseline"].compared, 1):
        split = p["baseline"].splits[0]
        found[f"baseline_changed{number}"] = job("baseline", tuple(i3d_features), split=split, changed=changed)
    pretrained = (*s3d_salads, "pretraining_reference", "pretraining_own")
    for weights in ("reference", "own"):
        for head in p["fine_tuning"].heads_tuned:
            found[f"fine_tuning_{weights}_{head}"] = job("fine_tuning_splits", pretrained, weights=weights, head=head)
    for number, changed in enumerate(p["fine_tuning"].compared, 1):
        about = dict(split=p["fine_tuning"].splits[0], weights="reference", head=p["fine_tuning"].heads_tuned[0])
        found[f"fine_tuning_changed{number}"] = job("fine_tuning", pretrained, **about, changed=changed)
    found["videoclip_frozen"] = job("frozen_splits", pretrained)
    for head in p["fine_tuning"].heads_tuned:
        found[f"few_labels_{head}"] = job("few_labels_all", pretrained, head=head)
    for name in methods.there():
        made = systems(name, profile)  # films may be those of S3D, or of a system before
        found |= {job: about for job, about in made.items() if job not in found}
    if stages.NOTEBOOK["planted"] in params.notebooks():
        found["planted"] = job("planted")
    return found


def systems(method: str, profile: str) -> dict[str, dict]:
    """The jobs of a system that reads frames; the first of a notebook has its comparisons."""
    notebook = methods.find(method).notebook
    first = methods.of_notebook(notebook)[0] if notebook else method
    clips = f"{first}_clips"  # systems of one notebook see the same clips
    made, found = (f"{method}_weights", clips), {}
    p = clip_stages.of(method, SimpleNamespace(profile=profile))
    processes = getattr(p, "processes", 1)
    alone = getattr(p, f"{method}_path", "") and not p.compared  # an official file, and nothing is trained beside it
    same = p.howto_root == params.load(stages.NOTEBOOK["films"], profile).howto_root
    size = 0 if alone else clip_stages.film_size(p, method)
    films = ("films_" if same else f"{first}_films_") + str(size)
    before = ("corpus", films) if size else ("corpus",)
    if size:
        found[films] = job(f"{method}.films", ("corpus",))
    if method == first:
        found[clips] = job(f"{method}.clips", ("corpus",))
        for number, changed in enumerate(p.compared, 1):
            found[f"{method}_changed{number}"] = job(f"{method}.comparison", made, changed=changed)
    if methods.has_text(method):  # which zero-shot compares with the names of classes
        found[f"{method}_embed"] = job(f"{method}.vectors", made, kind="embed")
    hours = max(12, p.num_steps // 1500)
    found[f"{method}_weights"] = job(f"{method}.weights", before, processes, hours)
    for stage in ("fine_tuning", "frozen"):
        found[f"{method}_{stage}"] = job(f"{method}.{stage}_splits", made)
    return found
