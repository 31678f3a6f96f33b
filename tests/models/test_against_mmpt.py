"""VideoCLIP beside the official one, on the same weights: fairseq's examples/MMPT runs in the same process.

What reaches the models, what they make of it, what a training step makes of them, and checkpoints in both directions.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks import mmpt
from thesis_lib import segmentation
from thesis_lib.data.captions import Captions
from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.official import load_official
from thesis_lib.models.videoclip import save_official_videoclip
from thesis_lib.training import loop
from thesis_lib.training.pairs import Pair
from thesis_lib.training.tracks import Collate, Track

CLOSE = 1e-5  # of the largest official value
HEADS = {"num_attention_heads": 4, "dropout": 0.0}  # a file does not tell
SECONDS = (1, 5, 32, 40, 9, 31, 2, 17)  # of clips; MMPT cuts at 32
WORDS = (1, 12, 61, 80, 0, 60, 2, 30)  # of texts; MMPT cuts at 61


@pytest.fixture(scope="module")
def packages():
    try:
        return mmpt.load()
    except mmpt.Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def official(packages, tmp_path):
    """A function that builds an official model of three text and two video layers, every parameter of it random."""

    def build(segmentation=False, video_dim=512, checkpoint=None, **dataset):
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        torch.manual_seed(0)
        bert = mmpt.write_bert(tmp_path / "bert", input_dim=video_dim, **sizes, **dropout)
        config = mmpt.settings(bert, 2, segmentation, tmp_path, **dataset)
        task = packages.tasks.Task.config_task(config)
        task.build_model(checkpoint)
        task.build_loss()
        if checkpoint is None:
            for parameter in task.model.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
        return SimpleNamespace(
            task=task,
            model=task.model.eval(),
            config=config,
            vocabulary=Vocabulary(bert / "vocab.txt"),
            aligner=packages.processors.Aligner(config.dataset),
        )

    return build


@pytest.fixture
def ours(tmp_path):
    """A function that loads an official model's weights into ours, through a file."""

    def load(model):
        path = tmp_path / "official.pt"
        torch.save({"model": {f"mmmodel.{name}": value for name, value in model.state_dict().items()}}, path)
        return load_official("videoclip", path, **HEADS)[0]

    return load


def clips(seed, dim=512):
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((seconds, dim), dtype=np.float32) for seconds in SECONDS]
    return features, [rng.integers(5, 200, words).tolist() for words in WORDS]


def packed(official, features, texts):
    """As MMPT's Aligner packs them: caps [B, 64], cmasks, vfeats [B, 32, D], vmasks."""
    videos = [official.aligner._build_video_seq(video) for video in features]
    captions = [official.aligner._build_text_seq(text) for text in texts]
    names = ("vfeats", "vmasks"), ("caps", "cmasks")
    return {
        name: torch.stack(parts)
        for group, rows in zip(names, (videos, captions), strict=True)
        for name, parts in zip(group, zip(*rows, strict=True), strict=True)
    }


def collated(official, features, texts):
    """As ours packs them: features, mask, ids, mask, each padded to the longest."""
    captions = Captions(starts=np.zeros(1), ends=np.ones(1), texts=[""])
    picks = [
        (Track("", video, captions, [text], [len(text)]), Pair(0, 1, 0, len(video)))
        for video, text in zip(features, texts, strict=True)
    ]
    return Collate(official.vocabulary, 32)(picks)


# -- what reaches the models, and what they make of it ----------------------------------------------------------------


def test_the_same_pairs_reach_both(official):
    official = official()
    seen = []
    official.model.text_encoder.embeddings.word_embeddings.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    features, texts = clips(0)
    theirs = packed(official, features, texts)
    official.model(**theirs)
    video, video_mask, ids, mask = collated(official, features, texts)
    assert torch.equal(video, theirs["vfeats"]) and torch.equal(video_mask, theirs["vmasks"])
    assert torch.equal(ids, seen[0]) and ids.shape == (8, 63)
    assert torch.equal(mask, theirs["cmasks"][:, 1:]), "without the [SEP] of the video"
    named = [" ".join(f"word{number - 5}" for number in text) for text in texts]
    encoded = official.vocabulary.encode(named)
    assert np.array_equal(encoded[0], seen[0]) and np.array_equal(encoded[1], mask)


def test_towers_and_token_states(official, ours, golden):
    official = official()
    model = ours(official.model)
    for short in (slice(None), slice(0, 2)):  # the second batch is short: ours pads less
        features, texts = (column[short] for column in clips(1))
        theirs, mine = packed(official, features, texts), collated(official, features, texts)
        with torch.no_grad():
            pooled = official.model(**theirs)
            states = official.model(**theirs, output_hidden_states=True)
            video, text = model(*mine)
            tokens, words = model.encode_video_tokens(*mine[:2]), model.text_encoder(*mine[2:])
        assert golden.deviation(video, pooled["pooled_video"]) < CLOSE
        assert golden.deviation(text, pooled["pooled_text"]) < CLOSE
        real = mine[1]
        reference = states["pooled_video"][:, 1:-1][:, : tokens.shape[1]]
        assert golden.deviation(tokens[real], reference[real]) < CLOSE
        written = mine[3]
        reference = states["pooled_text"][:, : words.shape[1]]
        assert golden.deviation(words[written], reference[written]) < CLOSE


def test_loss_and_gradients(official, ours, golden):
    official = official()
    model = ours(official.model)
    features, texts = clips(2)
    loss = official.task.loss_fn(**official.model(**packed(official, features, texts)))
    loss.backward()
    mine = contrastive_loss(*model(*collated(official, features, texts)))
    mine.backward()
    assert golden.deviation(mine, loss) < CLOSE
    gradients = {name: p.grad for name, p in official.model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert (parameter.grad - gradients[name]).abs().max() < CLOSE * largest, name


# -- windows -----------------------------------------------------------------------------------------------------------

LENGTHS = (1, 31, 32, 33, 48, 49, 100)


class OnThisDevice:
    """MMPT's predictors move every batch to the first GPU."""

    def to_ctx(self, data, *_):
        return data


def predictor(packages, name, config):
    cls = getattr(packages.evaluators.predictor, name)
    return type(name, (OnThisDevice, cls), {})(config)


@pytest.mark.parametrize("stride", [8, 16])
def test_windows_of_fine_tuning(packages, official, ours, golden, stride):
    official = official(segmentation=True, sliding_window=stride, sliding_window_size=32)
    model = ours(official.model)
    aligner = packages.processors.COINActionSegmentationAligner(official.config.dataset)
    coin = predictor(packages, "COINPredictor", official.config)
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        features = rng.standard_normal((length, 512), dtype=np.float32)
        cuts = [0, length // 3, length // 2, length]
        steps = {"start": cuts[:-1], "end": cuts[1:], "label": [7, 778, 3]}
        sample = aligner("video", features, steps)
        window, mask = segmentation.windows(torch.from_numpy(features), 32, stride)
        assert torch.equal(window, sample["vfeats"]) and torch.equal(mask, sample["vmasks"])
        labels = sample["video_targets"]
        assert torch.equal(segmentation.window_targets(labels, 32, stride), sample["targets"])

        sample = {name: x[None] if torch.is_tensor(x) else [x] for name, x in sample.items()}  # a batch of one video
        with torch.no_grad():
            theirs = official.model(**sample)
            mine = model.classify_tokens(window, mask)
            assert golden.deviation(mine[mask], theirs["logits"][mask]) < CLOSE
            loss = official.task.loss_fn(logits=theirs["logits"], targets=sample["targets"])
            targets = segmentation.window_targets(labels, 32, stride)
            own = torch.nn.functional.cross_entropy(mine.flatten(0, 1), targets.flatten())
            merged = coin._merge_windows(sample, theirs)
            scores = segmentation.segment(
                lambda x, m: model.encode_video_tokens(x, m, attend_cls=False),
                torch.from_numpy(features),
                model.video_encoder.classifier,
                32,
                stride,
            )
        assert golden.deviation(own, loss) < CLOSE
        assert golden.deviation(scores, merged) < CLOSE and torch.equal(scores.argmax(1), merged.argmax(1))


def test_windows_of_zero_shot(packages, official, ours, golden):
    official = official(sliding_window=16, sliding_window_size=32)
    model = ours(official.model)
    aligner = packages.processors.COINActionSegmentationAligner(official.config.dataset)
    binarize = packages.processors.MetaTextBinarizer(official.config.dataset)
    coin = predictor(packages, "COINZSPredictor", official.config)
    kept, merge = [], coin._merge_windows
    coin._merge_windows = lambda *arguments: kept.append(merge(*arguments)) or kept[-1]
    names = ["word3 word9", "word100", "word7 word8 word150"]
    words = packages.processors.TextProcessor(official.config.dataset)
    rows = [binarize(words(name)) for name in names]
    with torch.no_grad():
        labels = official.model.forward_text(*(torch.stack([row[key] for row in rows]) for key in ("caps", "cmasks")))
        vectors = model.encode_text(*(torch.from_numpy(array) for array in official.vocabulary.encode(names)))
        assert golden.deviation(vectors, labels) < CLOSE
        rng = np.random.default_rng(0)
        for length in LENGTHS:
            features = rng.standard_normal((length, 512), dtype=np.float32)
            sample = aligner("video", features, {"start": [0], "end": [length], "label": [1]})
            sample = {name: x[None] if torch.is_tensor(x) else [x] for name, x in sample.items()}
            found = []
            coin(sample, labels, official.model, -torch.inf, found, [])
            scores = segmentation.segment(
                lambda x, m: model.encode_video_tokens(x, m, attend_cls=False), torch.from_numpy(features), vectors
            )
            assert golden.deviation(scores, kept[-1]) < CLOSE
            assert torch.equal(scores.argmax(1) + 1, found[0]), "0 is COIN's background"


# -- training and checkpoints by fairseq itself ------------------------------------------------------------------------


def trainer(packages, official, *flags):
    """fairseq's own Trainer of an official model, with the optimizer of how2.yaml and a short schedule."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    optimizer = ["--lr", "1e-2", "--clip-norm", "2.0"]
    if "--optimizer" not in flags:
        optimizer += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)"]
    schedule = ["--lr-scheduler", "polynomial_decay", "--warmup-updates", "2", "--total-num-update", "5"]
    kinds = ["--task", "mmtask", "--arch", "mmarch", "--criterion", "mmloss", "--cpu"]
    arguments = options.parse_args_and_arch(
        options.get_training_parser(), ["how2.yaml", *kinds, *optimizer, *schedule, *flags]
    )
    task = packages.tasks.FairseqMMTask.__new__(packages.tasks.FairseqMMTask)  # its __init__ reads the corpus
    super(type(task), task).__init__(arguments)
    task.mmtask = official.task
    model = packages.models.FairseqMMModel.build_model(arguments, task)
    return Trainer(convert_namespace_to_omegaconf(arguments), task, model, packages.losses.MMCriterion(task))


def test_training_steps(packages, official, ours):
    """Three steps over two clusters each: fairseq's update_freq is our accumulation, and clipping comes after it."""
    official = official(clip_per_video=2)
    model = ours(official.model).train()
    clusters = [[clips(10 * step + cluster) for cluster in range(2)] for step in range(3)]

    def of_videos(cluster):  # four videos with two clips each
        return {name: x.unflatten(0, (4, 2))[None] for name, x in packed(official, *cluster).items()}

    fairseq = trainer(packages, official, "--update-freq", "2", "--optimizer", "sgd")
    fairseq.begin_epoch(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained)
    for step in clusters:
        optimizer.param_groups[0]["lr"] = fairseq.get_lr()
        fairseq.train_step([of_videos(cluster) for cluster in step])
        optimizer.zero_grad()
        for cluster in step:
            (contrastive_loss(*model(*collated(official, *cluster))) / len(step)).backward()
        assert clip_grad_norm_(trained, 2.0) > 2
        optimizer.step()
    theirs = official.model.state_dict()
    assert all(torch.equal(theirs[name], before[name]) for name in before if "pooler" in name)
    moved = max((theirs[name] - value).abs().max() for name, value in before.items())
    assert moved > 1e-3
    for name, value in model.state_dict().items():
        assert (value - theirs[name]).abs().max() < 2e-5 * moved + 2**-23 * value.abs().max(), name


def test_adam(packages, golden):
    """fairseq adds its eps before the correction of the second moment, torch after it: no matter where eps is 1e-8."""
    from fairseq.optim.adam import Adam

    start, gradients = torch.randn(50), torch.randn(6, 50)
    found = []
    for kind in (torch.optim.Adam, Adam):
        parameter = start.clone().requires_grad_()
        optimizer = kind([parameter], lr=1e-2, betas=(0.9, 0.98), eps=1e-8)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        found.append((parameter - start).detach())
    assert golden.deviation(*found) < CLOSE


def test_schedule(packages, official):
    """The same line down; on the way up ours is an update ahead, as the first update of fairseq has learning rate 0."""
    theirs = trainer(packages, official()).lr_scheduler
    expected = [theirs.step_update(updates) for updates in range(5)]
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=1e-2)
    schedule = loop.polynomial_decay(optimizer, 5, 2)
    found = []
    for _ in range(5):
        found += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert expected[0] == 0 and found == pytest.approx([*expected[1:3], *expected[2:]])


@pytest.mark.parametrize("segmentation, video_dim", [(False, 512), (False, 1024), (True, 512), (True, 1024)])
@pytest.mark.parametrize("precision", [[], ["--fp16", "--memory-efficient-fp16"]], ids=["fp32", "fp16"])
def test_ours_reads_what_fairseq_wrote(packages, official, golden, tmp_path, segmentation, video_dim, precision):
    official = official(segmentation, video_dim)
    fairseq = trainer(packages, official, *precision)
    fairseq.consolidate_optimizer()
    fairseq.save_checkpoint(str(tmp_path / "checkpoint_best.pt"), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
    model, report = load_official("videoclip", tmp_path / "checkpoint_best.pt", **HEADS)
    assert not report.missing and not report.unexpected and set(report.matched) == set(model.state_dict())
    assert model.config.video_dim == video_dim and model.config.num_classes == 779 * segmentation
    halves = all(torch.equal(x, x.half().float()) for x in model.state_dict().values())
    assert halves == bool(precision), "fairseq writes the halves of fp16 training as float32"

    features, texts = clips(3, video_dim)
    theirs, mine = packed(official, features, texts), collated(official, features, texts)
    official.model.float()
    with torch.no_grad():
        if segmentation:
            sample = {name: x[None] for name, x in theirs.items()}
            logits = model.classify_tokens(*mine[:2], attend_cls=True)
            assert golden.deviation(logits, official.model(**sample)["logits"]) < CLOSE
        else:
            video, text = model(*mine)
            pooled = official.model(**theirs)
            assert golden.deviation(video, pooled["pooled_video"]) < CLOSE
            assert golden.deviation(text, pooled["pooled_text"]) < CLOSE


@pytest.mark.parametrize("segmentation, video_dim", [(False, 512), (False, 1024), (True, 512)])
@pytest.mark.parametrize("reader", ["MMPT", "fairseq"])
def test_theirs_reads_what_ours_wrote(packages, official, ours, golden, tmp_path, segmentation, video_dim, reader):
    model = ours(official(segmentation, video_dim).model)
    save_official_videoclip(model, tmp_path / "ours.pt")
    if reader == "MMPT":
        theirs = official(segmentation, video_dim, checkpoint=tmp_path / "ours.pt")
        tensors = theirs.task._trim_state_dict(torch.load(tmp_path / "ours.pt"))
        result = theirs.model.load_state_dict(tensors, strict=False)
        assert not result.missing_keys
        assert result.unexpected_keys == [  # a buffer that transformers saved until 4.30
            "video_encoder.bert.embeddings.position_ids",
            "text_encoder.embeddings.position_ids",
        ]
    else:  # as restore_file with reset_optimizer, reset_dataloader and reset_meters, which fine-tuning sets
        theirs = official(segmentation, video_dim)
        for parameter in theirs.model.parameters():
            parameter.data.zero_()
        state = trainer(packages, theirs).load_checkpoint(str(tmp_path / "ours.pt"), True, True, reset_meters=True)
        assert state["train_iterator"]["epoch"] == 1
    values = theirs.model.state_dict()
    assert values.keys() == model.state_dict().keys()
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())
    features, texts = clips(4, video_dim)
    mine = collated(theirs, features, texts)
    with torch.no_grad():
        sample = packed(theirs, features, texts)
        assert golden.deviation(model.encode_text(*mine[2:]), theirs.model.forward_text(**sample)) < CLOSE
        if segmentation:
            logits = theirs.model(**{name: x[None] for name, x in sample.items()})["logits"]
            assert golden.deviation(model.classify_tokens(*mine[:2], attend_cls=True), logits) < CLOSE
        else:
            assert golden.deviation(model.encode_video(*mine[:2]), theirs.model.forward_video(**sample)) < CLOSE
