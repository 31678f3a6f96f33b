"""One pretraining step of VideoCLIP, ours and the official one in turns: forward, loss, backward; time and peak memory.

    python -m benchmarks.videoclip [--official PATH_TO_MMPT] [--pairs 512] [--width 768] [--threads 1]

Both load one checkpoint and see the same pairs, as long as how2.yaml of MMPT makes them: 8 to 61 word pieces, 3 to 32
seconds. MMPT pads texts to 63 pieces and clips to 32 seconds; ours pads rows of like length to their longest. Prints
a Markdown table. Memory is that of weights, gradients and all that a step keeps, of each in a process of its own where
there is no GPU. Without MMPT (--official, or the wheel of fairseq) ours runs alone.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import mmpt
from benchmarks.measure import MEGABYTE, alternate, machine, peak_memory, ratio
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.official import load_official
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig, save_official_videoclip

WORDS, SECONDS = (8, 61), (3, 32)
PAD = 0


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    names = ["ours"]
    try:
        mmpt.load(options.official)
        names = ["official", "ours"]
    except mmpt.Missing as reason:
        if options.official:
            raise SystemExit(str(reason)) from None
        print(f"ours alone: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        options.config = _write_weights(options, with_bert=len(names) == 2)
        memory = {name: _memory(name, options) for name in names}
        steps = {name: _step(name, options) for name in names}
    losses = [step(train=False) for step in steps.values()]
    seconds = alternate(steps, options.repeats)
    print(machine())
    sizes = f"width {options.width}, {options.video_layers} + {options.text_layers} layers, {options.precision}"
    print(f"{options.pairs} pairs, {sizes}; loss " + " and ".join(f"{loss:.6f}" for loss in losses))
    print("\n| VideoCLIP | seconds a step | pairs a second | peak memory, MB |\n|---|---|---|---|")
    for name in names:
        typical = median(seconds[name])
        print(f"| {name} | {typical:.3f} | {options.pairs / typical:.1f} | {memory[name] / MEGABYTE:.0f} |")
    if len(names) == 2:
        faster, share = ratio(seconds, "official", "ours"), memory["ours"] / memory["official"]
        print(f"\nours: {faster:.2f} times as fast, {share:.2f} of the memory")


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", help="folder that holds mmpt: examples/MMPT of a clone of fairseq")
    for name, value, help in (
        ("pairs", 512, "of one cluster; how2.yaml has 32 videos with 16 clips each"),
        ("width", 768, "of both towers, a head for each 64"),
        ("video-layers", 6, ""),
        ("text-layers", 12, ""),
        ("threads", 1, "of torch, on CPUs"),
        ("repeats", 5, "of each, after one to warm up"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{help} (default {value})".strip())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    options = parser.parse_args(arguments)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def _write_weights(options, with_bert):
    """weights.pt, random, in MMPT's layout; and a folder bert, from which MMPT takes its sizes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": options.width, "intermediate_size": 4 * options.width}
    sizes["num_attention_heads"] = max(1, options.width // 64)
    layers = {"video_layers": options.video_layers, "text_layers": options.text_layers}
    config = VideoCLIPConfig(**sizes, **layers)
    save_official_videoclip(VideoCLIP(config), options.folder / "weights.pt")
    if with_bert:
        mmpt.write_bert(options.folder / "bert", config.vocab_size, num_hidden_layers=options.text_layers, **sizes)
    return config


def _step(name, options):
    """step(train=True) does forward, loss and backward; with train=False the loss alone, without dropout."""
    weights = options.folder / "weights.pt"
    if name == "ours":
        model, loss_of, batch = load_official("videoclip", weights)[0], contrastive_loss, _ours(options)
        forward = model
    else:
        packages = mmpt.load(options.official)
        task = packages.tasks.Task(mmpt.settings(options.folder / "bert", options.video_layers))
        model, criterion, batch = task.build_model(weights), task.build_loss(), _official(options)

        def forward(*batch):
            return model(*batch).values()

        def loss_of(video, text):
            return criterion(pooled_video=video, pooled_text=text)

    model.to(options.device)

    def step(train=True):
        model.train(train)
        with torch.set_grad_enabled(train):
            with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
                loss = loss_of(*forward(*batch))
            if train:
                loss.backward()
                model.zero_grad()
        return loss.item()

    return step


def _pairs(options):
    """Texts and clips of the lengths that pretraining has: ids [n] and features [seconds, 512]."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(WORDS[0], WORDS[1] + 1, (options.pairs,), generator=draw).tolist()
    seconds = torch.randint(SECONDS[0], SECONDS[1] + 1, (options.pairs,), generator=draw).tolist()
    texts = [torch.randint(1000, options.config.vocab_size, (count,), generator=draw).tolist() for count in words]
    return texts, [torch.randn(count, 512, generator=draw) for count in seconds]


def _ours(options):
    """features, mask, ids, mask, padded to the longest of the batch."""
    texts, clips = _pairs(options)
    texts = [torch.tensor([options.config.cls_id, *text, options.config.sep_id]) for text in texts]
    batch = [part for rows in (clips, texts) for part in _padded(rows, max(map(len, rows)))]
    return [part.to(options.device) for part in batch]


def _official(options):
    """caps, cmasks, vfeats, vmasks as MMPT's Aligner packs them: 64 and 32 long, a second [SEP] for the video."""
    texts, clips = _pairs(options)
    frame, sep = [options.config.cls_id, options.config.sep_id], [options.config.sep_id]
    texts = [torch.tensor(frame + text + sep) for text in texts]
    return [part.to(options.device) for part in (*_padded(texts, 64), *_padded(clips, 32))]


def _padded(rows, length):
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    missing = length - padded.shape[1]
    padded = torch.cat([padded, padded.new_full((len(rows), missing, *padded.shape[2:]), PAD)], dim=1)
    return padded, torch.arange(length) < lengths[:, None]


def _memory(name, options):
    """Bytes that a model and a step of it need at most."""
    if options.device == "cpu":
        return peak_memory(_one_step, name, options)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _step(name, options)()
    return torch.cuda.max_memory_allocated() - before


def _one_step(name, options):
    torch.set_num_threads(options.threads)
    if name == "official":
        mmpt.load(options.official)  # what imports need is not the model's
    yield
    _step(name, options)()


if __name__ == "__main__":
    main()
