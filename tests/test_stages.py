"""What the stages hang on: jobs are whole, and a parameter changes the stages that depend on it and no other."""

import functools
import itertools
import json
from types import SimpleNamespace

import pytest

from thesis_lib import clip_stages, graph, methods, params, paths, rules, runs, stages

PROFILES = ("smoke", "mini")
FRAMES = {"i3d", "s3d"}  # what turns frames into features is one module for both
NETWORKS = {  # stage -> the networks in its key
    "mini_corpus.draw": set(),
    "i3d.train": FRAMES,
    "films.decode": FRAMES,
    "s3d.train": FRAMES,
    "features.extract_i3d": FRAMES,
    "features.extract_s3d": FRAMES,
    "asformer.train": {"asformer"},
    "videoclip.train": {"videoclip"},
    "zero_shot.extract_tokens": {"videoclip"},
    "finetune.train": {"videoclip"},
    "seconds.extract_clips": FRAMES,
    "videomae.train": FRAMES | {"videomae"},
    "alpro.train": FRAMES | {"alpro", "videoclip"},  # whose BERT is that of videoclip
    "planted.train": FRAMES | {"alpro", "videoclip"},
    "svitt.train": FRAMES | {"svitt", "videoclip"},
}
jobs_of = functools.cache(graph.jobs)  # of the profiles as they are


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A function (notebook, **changes) -> {job: keys it asks `cached` for} with parameters of smoke changed.

    Nothing is computed. A key is a folder, named after what was asked for, so what lies upstream enters it as in runs.
    Its `code`: (function, modules whose code counts, the system that it is asked about) of all that was asked for.
    """
    folder, real, known, calls, code = tmp_path_factory.mktemp("runs"), params.load, {}, [], set()

    def cached(function, *, profile, also=(), **inputs):
        asked = f"{function.__module__}.{function.__name__} " + json.dumps(inputs, sort_keys=True, default=str)
        made = folder / str(known.setdefault(asked, len(known)))
        if function.__name__ == "draw" and not made.exists():  # what stages read of the corpus themselves
            (made / "50salads/splits").mkdir(parents=True)
            for split in range(1, 6):
                (made / f"50salads/splits/train.split{split}.bundle").write_text("rgb-01-1.txt\nrgb-02-1.txt\n")
        calls.append(made)
        code.add((function.__name__, (function.__module__, *also), inputs.get("method")))
        return made

    @functools.cache
    def run(notebook="", **changes):
        load = functools.cache(lambda name, profile: real(name, profile, changes if name == notebook else None))
        found = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(params, "declared", functools.cache(params.declared))
            patch.setattr(params, "load", load)
            patch.setattr(stages, "cached", cached)
            patch.setattr(runs, "cached", cached)  # of the systems that read frames
            for name, job in graph.jobs("smoke").items():
                calls.clear()
                stages.run_stage(job["stage"], "smoke", **job["arguments"])
                found[name] = list(dict.fromkeys(calls))
        return found

    run.code = code
    return run


def own(asked):
    """{job: the keys that none of its needs, nor theirs, asks for}."""
    jobs = jobs_of("smoke")

    def before(name):
        return {key for need in jobs[name]["needs"] for key in {*asked[need], *before(need)}}

    return {name: [key for key in asked[name] if key not in before(name)] for name in jobs}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_need_is_a_job_and_comes_first(profile):
    jobs = jobs_of(profile)
    for name, job in jobs.items():
        assert set(job) == {"stage", "arguments", "needs", "notebook", "processes", "resources"}, name
        assert set(job["needs"]) <= set(jobs), name
    done = set()
    while left := [name for name in jobs if name not in done]:
        ready = [name for name in left if set(jobs[name]["needs"]) <= done]
        assert ready, f"a circle among {left}"
        done.update(ready)


@pytest.mark.parametrize("known", [params.notebooks(), rules.notebooks(appendices=False)])
def test_the_longest_wait_begins_first(known):
    """Or a notebook that waits for nearly all jobs would run alone at the end."""
    jobs = jobs_of("mini")
    found = rules.first(known, jobs)
    waits = {name: len(rules.stages(name, jobs)) for name in known if name != rules.SUMMARY}
    hungriest = max(waits, key=waits.get)
    assert hungriest == ("A3_svitt" if "A3_svitt" in known else "07_fine_tuning")
    assert set(rules.stages(hungriest, jobs)) <= set(found) < set(jobs) and len(set(found)) == len(found)
    assert all(set(jobs[name]["needs"]) <= set(found) for name in found), "what waits for others would wait anyway"
    assert "control_true_0" not in found


@pytest.mark.parametrize("profile", PROFILES)
def test_every_job_is_a_stage_of_a_notebook_that_exists(profile):
    for name, job in jobs_of(profile).items():
        method, _, function = job["stage"].rpartition(".")
        notebook = methods.find(method).notebook if method else stages.NOTEBOOK[function]
        assert job["notebook"] == notebook and callable(getattr(clip_stages if method else stages, function)), name
        json.dumps(job["arguments"])
    assert set(stages.NOTEBOOK.values()) <= set(params.notebooks())
    assert all(callable(getattr(stages, stage)) for stage in stages.NOTEBOOK)


@pytest.mark.parametrize("profile", PROFILES)
def test_jobs_cover_what_the_notebooks_ask_for(profile):
    jobs = jobs_of(profile)
    tuned, tested = params.load("07_fine_tuning", profile), params.load("04_baseline", profile)
    assert {f"fine_tuning_{w}_{h}" for w in ("own", "reference") for h in tuned.heads_tuned} <= set(jobs)
    assert {f"few_labels_{head}" for head in tuned.heads_tuned} <= set(jobs)
    assert {f"baseline_split{split}" for split in tested.splits} <= set(jobs)
    control = params.load("06_zero_shot", profile)
    expected = {f"control_permuted_{seed}" for seed in control.control_seeds} | {f"control_true_{control.seed}"}
    assert expected == {name for name in jobs if name.startswith("control")}


def test_no_key_is_made_by_two_jobs(keys):
    """Two jobs side by side would wait for each other. The baseline cuts at the back: where 03 has its parameters and
    its split, one of its three runs is the baseline itself."""
    makers = {}
    for name, made in own(keys()).items():
        for key in made:
            makers.setdefault(key, set()).add(name)
    shared = [names for names in makers.values() if len(names) > 1]
    assert shared in ([], [{"cropping_back", "baseline_split1"}])


def test_unknown_names_are_errors_of_one_line():
    with pytest.raises(ValueError, match=r"^no stage 'fine_tunning': expected one of corpus, .*planted$"):
        stages.run_stage("fine_tunning", "smoke")
    with pytest.raises(ValueError, match="no recipe 'best': expected one of reference, own"):
        stages.pretraining(params.load("05_pretraining", "smoke"), "best")
    with pytest.raises(ValueError, match="no profile 'smokey'"):
        stages.run_stage("corpus", "smokey")


def changed(keys, notebook, **values):
    """The jobs that make something else, whatever is made before them."""
    before, after = own(keys()), own(keys(notebook, **values))
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_key_of_a_stage_has_the_networks_that_it_uses_and_no_other(keys, networks):
    keys()
    trained = {name: NETWORKS[f"{method.recipe}.train"] for name, method in methods.METHODS.items()}
    expected = NETWORKS | {f"seconds.extract_vectors {name}": used for name, used in trained.items()}
    expected |= {f"clip_tuning.train {name}": used for name, used in trained.items()}
    found = set()
    for function, modules, method in keys.code:
        name = f"{modules[0].rpartition('.')[2]}.{function}" + f" {method}" * bool(method)
        assert networks(*modules) == expected[name], name
        found.add(name)
    assert found == set(expected)


def test_a_parameter_of_fine_tuning_changes_fine_tuning_alone(keys):
    expected = {name for name in jobs_of("smoke") if name.startswith(("fine_tuning", "few_labels"))}
    assert changed(keys, "07_fine_tuning", lr=0.5) == expected


def test_a_parameter_of_pretraining_reaches_control_and_fine_tuning_but_no_features(keys):
    expected = {name for name in jobs_of("smoke") if name.startswith(("pretraining", "compared", "control"))}
    expected |= {name for name in jobs_of("smoke") if name.startswith(("fine_tuning", "few_labels", "videoclip"))}
    assert changed(keys, "05_pretraining", lr=0.5) == expected


def test_the_network_of_frames_does_not_touch_that_of_seconds(keys):
    expected = {"i3d_weights", "i3d_features"}
    expected |= {name for name in jobs_of("smoke") if name.startswith(("baseline", "cropping"))}
    assert changed(keys, "02_feature_extraction", i3d_lr=0.5) == expected
    s3d = changed(keys, "02_feature_extraction", s3d_lr=0.5)
    assert s3d == set(jobs_of("smoke")) - expected - of_frames() - {"corpus", "planted", *films()}
    assert changed(keys, "02_feature_extraction", s3d_train_fps=5.0) == s3d


def films():
    """The jobs that decode the narrated videos."""
    return {name for name, job in jobs_of("smoke").items() if job["stage"] == "films"}


def of_frames():
    """The jobs of the systems that read frames."""
    return {name for name, job in jobs_of("smoke").items() if "." in job["stage"]}


@pytest.mark.parametrize("method", methods.there())
def test_a_system_that_reads_frames_is_on_its_own(keys, method):
    found = changed(keys, methods.find(method).notebook, num_steps=99)
    alike = methods.of_notebook(methods.find(method).notebook)
    assert {f"{method}_weights", f"{method}_fine_tuning", f"{method}_frozen"} <= found
    jobs = {name for name in of_frames() if name.startswith(tuple(f"{one}_" for one in alike))}
    compared = {name for name in jobs if name.startswith(f"{alike[0]}_changed")}
    assert found == jobs - compared - {f"{one}_clips" for one in alike}
    assert len(compared) == len(params.load(methods.find(method).notebook, "smoke").compared)
    assert compared == changed(keys, methods.find(method).notebook, compared_steps=98)


def test_another_corpus_is_another_everything(keys):
    assert changed(keys, "01_data_audit", corpus_seed=99) == set(jobs_of("smoke")) - {"planted"}


def test_baseline_and_cropping_have_parameters_of_their_own(keys):
    jobs = jobs_of("smoke")
    found = changed(keys, "04_baseline", num_epochs=99)
    assert found == {name for name in jobs if name.startswith("baseline") or name.endswith("_frozen")}
    assert changed(keys, "06_zero_shot", control_steps=99) == {name for name in jobs if name.startswith("control")}


@pytest.mark.parametrize("profile", PROFILES)
def test_few_labels_are_every_combination_once(profile):
    p = params.load("07_fine_tuning", profile)
    for head in p.heads_tuned:
        found = [tuple(run.items()) for run in stages.few_labels_runs(p, head)]
        every = itertools.product(("reference", "scratch"), (head,), p.few_videos, p.few_seeds)
        expected = {tuple(zip(("weights", "head", "videos", "seed"), one, strict=True)) for one in every}
        assert set(found) == expected and len(found) == len(expected)


def test_few_labels_take_as_many_steps_on_any_number_of_videos(monkeypatch, tmp_path):
    """One video is one step, so epochs times videos is the number of steps, up to the rest of the last epoch."""
    p, asked = params.load("07_fine_tuning", "smoke"), []
    (tmp_path / "splits").mkdir()
    for split, names in enumerate(("abcd", "a", "abc", "a", "ab"), 1):
        (tmp_path / f"splits/train.split{split}.bundle").write_text("".join(f"{name}.txt\n" for name in names))
    monkeypatch.setattr(stages, "salads", lambda p: tmp_path)
    monkeypatch.setattr(stages, "fine_tuning", lambda p, split, weights, head, **more: asked.append((split, more)))
    for videos, seed, count, split in ((2, 0, 2, 1), (0, 7, 3, 3), (0, 4, 2, 5)):  # 0: all of the split
        stages.few_labels(p, "reference", "text", videos, seed)
        found, more = asked.pop()
        assert 0 <= more["num_epochs"] * count - p.few_steps < count
        assert more["evaluate_every"] == more["num_epochs"] and more["seed"] == seed
        assert more["num_videos"] == videos and found == split


def test_every_switch_of_extraction_changes_the_frames_and_what_rests_on_them(keys):
    frames = {"i3d_features"} | {name for name in jobs_of("smoke") if name.startswith(("baseline", "cropping"))}
    switches = dict(color="bgr", padding="edge", last_frame="unseen", head="window", i3d_mode="dense")
    for name, value in switches.items():
        assert changed(keys, "02_feature_extraction", **{name: value}) == frames, name
    sized = changed(keys, "02_feature_extraction", i3d_size=40)
    assert sized == frames | {"i3d_weights"}, "the small network is trained at the size of the frames it will see"
    seconds = changed(keys, "02_feature_extraction", s3d_output="mixed_5c")
    assert {"s3d_salads", "s3d_howto"} <= seconds and not seconds & (frames | {"s3d_weights"})


def test_shares_are_jobs_of_one_folder_and_all_are_waited_for(keys, monkeypatch):
    real = params.load
    changes = {"extraction_shares": 3}

    def load(name, profile):
        return real(name, profile, changes if name == "02_feature_extraction" else None)

    monkeypatch.setattr(params, "load", load)
    jobs = graph.jobs("smoke")
    for name in ("i3d_features", "s3d_salads", "s3d_howto"):
        shares = [f"{name}_{share}" for share in range(3)]
        assert name not in jobs and [jobs[share]["arguments"]["share"] for share in shares] == [0, 1, 2]
        assert len({jobs[share]["stage"] for share in shares}) == 1
        waiting = [job for job in jobs.values() if set(job["needs"]) & set(shares)]
        assert waiting and all(set(shares) <= set(job["needs"]) for job in waiting)
    changes["howto_features_root"] = str(paths.ROOT / "params")
    assert "s3d_howto" in graph.jobs("smoke"), "a folder that is given needs no shares"

    asked = []
    monkeypatch.setattr(stages, "cached", lambda function, **inputs: asked.append((function, inputs)) or paths.RUNS)
    for share in (0, 2):
        stages.i3d_features(load("02_feature_extraction", "smoke"), share=share)
    features = [inputs for function, inputs in asked if function.__name__ == "extract_i3d"]
    assert features[0] == features[1] and features[0]["shared"] is True


def test_networks_that_are_not_trained_here_need_their_files():
    for backbone, lacking in (("inception", "i3d_path"), ("two_stream", "i3d_path and flow_path")):
        p = params.load("02_feature_extraction", "smoke", {"i3d_backbone": backbone})
        with pytest.raises(ValueError, match=f"i3d_backbone: '{backbone}': only r50 is trained here, set {lacking}$"):
            stages.i3d_features(p)


@pytest.mark.parametrize("root", ["i3d_features_root", "s3d_features_root", "howto_features_root"])
def test_folders_given_must_hold_what_is_asked(root, tmp_path):
    def use(**changes):
        p = params.load("02_feature_extraction", "smoke", {root: str(tmp_path), **changes})
        if root == "i3d_features_root":
            return stages.i3d_features(p)
        return stages.s3d_features(p, "howto" if root == "howto_features_root" else "salads")

    about = {"color": "rgb", "size": 48 if root.startswith("i3d") else 32, "precision": "fp16", "version": "another"}
    (tmp_path / "features.json").write_text(json.dumps(about))
    assert use(extraction_precision="auto") == tmp_path
    with pytest.raises(ValueError, match="features.json: precision is 'fp16', 'fp32' is asked: change the parameters"):
        use()
    with pytest.raises(ValueError, match=r"features.json: size is \d+, 64 is asked"):
        use(i3d_size=64, s3d_size=64, extraction_precision="auto")
    weights = tmp_path / "released.pth"
    weights.write_bytes(b"weights")
    (tmp_path / "features.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    assert use() == tmp_path, "no weights asked for"
    with pytest.raises(ValueError, match="weights_sha256 is '0000"):
        use(i3d_path=str(weights), s3d_path=str(weights))


def test_folders_given_take_the_place_of_stages(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "cached", lambda *a, **k: pytest.fail("nothing is to be computed"))
    p = params.load("02_feature_extraction", "smoke", {"i3d_features_root": str(tmp_path), "data_root": str(tmp_path)})
    assert stages.i3d_features(p) == tmp_path and stages.salads(p) == tmp_path
    assert stages.fps(p) == 30.0, "50Salads, which has no corpus.json"
    (tmp_path / "corpus.json").write_text('{"fps": 8}')
    assert stages.fps(p) == 8.0


def test_a_changed_setting_is_a_run_of_its_own(keys):
    jobs = jobs_of("smoke")
    settings = {name: job["arguments"]["changed"] for name, job in jobs.items() if "changed" in job["arguments"]}
    notebooks = ("04_baseline", "07_fine_tuning", *dict.fromkeys(one.notebook for one in methods.METHODS.values()))
    assert list(settings.values()) == [one for name in notebooks for one in params.load(name, "smoke").compared]
    assert all(own(keys())[name] for name in settings), "each computes something"


def test_variants_are_parameters_read_as_on_a_command_line():
    p = params.load("07_fine_tuning", "smoke", {"seed": 5})
    changed = stages.variant("fine_tuning", p, "stride_train:16 prompts:raw lr:0.5")
    assert (changed.stride_train, changed.prompts, changed.lr, changed.seed) == (16, "raw", 0.5, 5)
    assert vars(stages.variant("fine_tuning", p, "")) == vars(p)
    for text, message in (
        ("stride_train", "expected parameters as name:value"),
        ("strid_train:8", "no such parameter, did you mean 'stride_train'"),
        ("stride_train:near", "expected int"),
    ):
        with pytest.raises(ValueError, match=message):
            stages.variant("fine_tuning", p, text)


def test_other_features_take_the_place_of_those_of_frames(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "i3d_features", lambda p: pytest.fail("nothing is to be extracted"))
    p = params.load("04_baseline", "smoke", {"features_root": str(tmp_path), "feature_rate": 15})
    assert stages.asformer_features(p) == tmp_path
    asked = {}
    monkeypatch.setattr(stages, "cached", lambda function, **inputs: asked.update(inputs) or tmp_path)
    monkeypatch.setattr(stages, "salads", lambda p: tmp_path)
    stages.baseline(p, 1, changed="attention_window:official")
    assert (asked["features"], asked["feature_rate"], asked["window"]) == (tmp_path, 15.0, "official")


def test_vectors_one_a_second_are_all_seen_whatever_the_rate_of_the_baselines_own(monkeypatch, tmp_path):
    """Every second frame can be left out; every second second cannot."""
    asked = []
    monkeypatch.setattr(stages, "cached", lambda function, **inputs: asked.append(inputs) or tmp_path)
    monkeypatch.setattr(stages, "salads", lambda p: tmp_path)
    p = params.load("04_baseline", "smoke", {"features_root": str(tmp_path), "feature_rate": 15, "sample_rate": 4})
    stages.on_seconds(p, 2, tmp_path / "seconds"), stages.baseline(p, 2)
    vectors, frames = asked
    assert (vectors["sample_rate"], vectors["feature_rate"], vectors["features"]) == (1, 1.0, tmp_path / "seconds")
    assert (frames["sample_rate"], frames["feature_rate"], frames["features"]) == (4, 15.0, tmp_path)
    same = vectors.keys() - {"sample_rate", "feature_rate", "features"}
    assert {name: vectors[name] for name in same} == {name: frames[name] for name in same}


@pytest.mark.parametrize("method, notebook", [("alpro", "A2_alpro"), ("svitt", "A3_svitt"), ("svitt_ego", "A3_svitt")])
def test_published_starts_enter_the_key_by_their_content(method, notebook, monkeypatch, tmp_path):
    real, given = params.load, {}
    monkeypatch.setattr(params, "load", lambda name, profile: real(name, profile, given if name == notebook else None))
    monkeypatch.setattr(stages, "cached", lambda *a, **k: tmp_path)
    monkeypatch.setattr(runs, "cached", lambda function, profile, **inputs: runs._canonical(inputs, "pretraining"))
    (tmp_path / "vocab.txt").touch()
    bert, vit = tmp_path / "bert", tmp_path / "vit.pth"
    bert.mkdir()
    (bert / "model.safetensors").write_bytes(b"weights")
    vit.write_bytes(b"weights")
    found = [clip_stages.weights(SimpleNamespace(profile="smoke"), method)]
    given |= {"vision_path": str(vit), "bert_root": str(bert)}
    for changed in (None, vit, bert / "model.safetensors"):
        if changed:
            changed.write_bytes(b"other weights")
            runs._outside.cache_clear()
        found.append(clip_stages.weights(SimpleNamespace(profile="smoke"), method))
    assert len(set(found)) == 4, "without, with, and with either of them changed"
    plain = json.loads(found[0])
    assert (plain["vision"], plain["bert"]) == ("", "")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What stages ask `cached` for, in order; nothing is computed, an answer is a folder named after its inputs."""
    found = []

    def cached(function, *, profile, also=(), **inputs):
        found.append((function.__name__, inputs))
        folder = tmp_path / str([str(one) for one in found].index(str(found[-1])))
        (folder / "50salads/splits").mkdir(parents=True, exist_ok=True)
        return folder

    monkeypatch.setattr(stages, "cached", cached)
    monkeypatch.setattr(runs, "cached", cached)
    return found


@pytest.mark.parametrize("method", methods.there())
def test_what_is_overridden_in_a_notebook_reaches_its_stages(method, asked):
    """As by `papermill -p`, or by hand in JupyterLab: the profile says something else."""
    notebook = methods.find(method).notebook
    changes = {"num_steps": "7", "compared_steps": "5", "compared_epochs": "3", "tuned_lr": "0.125"}
    p = params.load(notebook, "smoke", changes)
    clip_stages.weights(p, method), clip_stages.vectors(p, method, "features"), clip_stages.frozen_splits(p, method)
    trained = [inputs for function, inputs in asked if function == "train" and "howto" in inputs]
    assert trained and {inputs["num_steps"] for inputs in trained} == {7}
    asked.clear()
    clip_stages.comparison(p, method, "")
    trained = [inputs["num_steps"] for function, inputs in asked if function == "train" and "howto" in inputs]
    assert 5 in trained and set(trained) == {5, 7}
    (tuned,) = (inputs for function, inputs in asked if function == "train" and "pretrained" in inputs)
    assert (tuned["num_epochs"], tuned["epochs"], tuned["lr"]) == (3, [3], 0.125)


def test_the_class_names_of_the_salads_reach_ego_nce(asked, tmp_path):
    (tmp_path / "mapping.txt").touch()
    for given in ({}, {"data_root": str(tmp_path)}):
        clip_stages.weights(params.load("A3_svitt", "smoke", given), "svitt_ego")
    found = [inputs["classes"] for function, inputs in asked if function == "train"]
    assert found == ["", tmp_path / "mapping.txt"]


def test_what_is_overridden_in_notebook_07_reaches_the_system_it_shows(asked):
    p = params.load("07_fine_tuning", "smoke", {"method": "svitt", "epochs": "[1, 9]", "prompts": "raw"})
    clip_stages.fine_tuning_splits(p, "svitt"), stages.fine_tuning(p, 2, "reference", "classifier")
    tuned = [inputs for function, inputs in asked if function == "train" and "pretrained" in inputs]
    assert len(tuned) == len(p.splits) + 1
    assert all((one["epochs"], one["num_epochs"], one["prompts"]) == ([1, 9], 9, "raw") for one in tuned)


@pytest.mark.parametrize(("notebook", "changes"), [("A3_svitt", {}), ("07_fine_tuning", {"method": "svitt"})])
def test_clips_and_labels_are_of_the_same_videos_on_the_same_device(notebook, changes, asked, tmp_path):
    """Other notebooks have parameters of their own, but not data of their own: their seeds they keep."""
    place = tmp_path / "elsewhere"
    (place / "splits").mkdir(parents=True)
    p = params.load(notebook, "smoke", changes | {"data_root": str(place), "device": "meta", "seed": 5})
    tuned = clip_stages.tuned if notebook.startswith("07") else clip_stages.fine_tuning
    tuned(p, *((1, "reference", "text") if notebook.startswith("07") else ("svitt", 1, "text")))
    (clips,) = (inputs for function, inputs in asked if function == "extract_clips")
    (fine,) = (inputs for function, inputs in asked if function == "train" and "pretrained" in inputs)
    pretrained = next(inputs for function, inputs in asked if function == "train" and "howto" in inputs)
    assert clips["root"] == fine["root"] == place and fine["device"] == pretrained["device"] == "meta"
    own, other = (fine, pretrained) if notebook.startswith("07") else (pretrained, fine)
    assert (own["seed"], other["seed"]) == (5, 0)


def test_a_record_is_that_of_one_notebook_alone():
    """`params.of` tells by the names."""
    with_stages = {*stages.NOTEBOOK.values(), *(methods.find(method).notebook for method in methods.there())}
    assert len({frozenset(params.declared(notebook)) for notebook in with_stages}) == len(with_stages)
    p = params.load("A2_alpro", "smoke", {"planted_steps": "9"})
    assert params.of("A2_alpro", p) is p and stages.of("planted", p) is p
    assert params.of("A3_svitt", p) == params.load("A3_svitt", "smoke")


def test_a_system_is_pretrained_by_as_many_processes_as_asked(monkeypatch):
    real, changes = params.load, {"A2_alpro": {"processes": 4}}
    monkeypatch.setattr(params, "load", lambda name, profile: real(name, profile, changes.get(name)))
    jobs = graph.jobs("smoke")
    assert jobs["alpro_weights"]["processes"] == 4 and jobs["svitt_weights"]["processes"] == 1
    assert jobs["alpro_fine_tuning"]["processes"] == 1
