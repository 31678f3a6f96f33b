"""The loader of official checkpoints: what it accepts, what it reports, and one clear line for everything else."""

import argparse
import ast
import hashlib
import os
import pickle
import re
from importlib import import_module

import numpy as np
import pytest
import torch

from thesis_lib import paths
from thesis_lib.models.official import KINDS, load_official, main


class Runs:
    """Unpickling this writes a file: what a checkpoint must never do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def weights(golden):
    return golden.load("asformer/case_small_a").weights()


@pytest.fixture
def videoclip(golden):
    return golden.load("videoclip/tiny_a").weights("manifest_tiny_1024.json")


@pytest.fixture
def save(tmp_path):
    def save(content, write=torch.save, **options):
        path = tmp_path / "file.pt"
        if write is torch.save:
            torch.save(content, path, **options)
        else:
            with open(path, "wb") as file:
                write(content, file, **options)
        return path

    return save


def refusal(kind, path, **constructor):
    """The message of the error, which must be one line that begins with the path, and leave nothing behind."""
    with pytest.raises(ValueError) as caught:
        load_official(kind, path, **constructor)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ") and caught.value.__cause__ is None
    return message.removeprefix(f"{path}: ")


# -- files that load ---------------------------------------------------------------------------------------------------


WRAPPED = {
    "bare": lambda x: x,
    "model_state": lambda x: {"model_state": x, "cfg": "text"},
    "data parallel": lambda x: {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in x.items()}},
    "fairseq": lambda x: {"args": argparse.Namespace(lr=[1]), "model": {f"mmmodel.{k}": v for k, v in x.items()}},
    "half": lambda x: {name: value.half() for name, value in x.items()},
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "pickle"])
def test_wrappers_prefixes_and_precision(save, weights, wrap, new_format):
    path = save(WRAPPED[wrap](weights), _use_new_zipfile_serialization=new_format)
    model, report = load_official("asformer", path, window="official")
    assert not model.training and model.window == "official"
    assert report.matched == list(weights) and not (report.dropped + report.missing + report.unexpected)
    for name, value in model.state_dict().items():
        expected = weights[name].half().float() if wrap == "half" else weights[name]
        assert value.dtype == torch.float32 and torch.equal(value, expected)


def test_what_a_file_has_beyond_the_model_is_reported(save, weights):
    report = load_official("asformer", save(weights | {"extra.weight": torch.ones(2), "epoch": 3}))[1]
    assert report.unexpected == ["extra.weight", "epoch"] and len(report.matched) == len(weights)
    assert str(report).endswith("unexpected: 2\n    extra.weight\n    epoch")


@pytest.mark.parametrize("part", ["position_ids", "pooler"])
def test_what_nothing_computes_with_may_be_absent(save, videoclip, part):
    path = save({"model": {name: value for name, value in videoclip.items() if part not in name}})
    model, report = load_official("videoclip", path, num_attention_heads=4)
    assert all(part in name for name in report.missing) and not report.unexpected
    assert len(report.missing) == (4 if part == "pooler" else 0)
    assert len(report.dropped) == (2 if part == "pooler" else 0)
    assert model.config.video_dim == 1024 and (model.config.cls_id, model.config.sep_id) == (2, 3)


def test_arguments_that_a_file_cannot_tell(save, videoclip):
    path = save({"model": videoclip})
    model = load_official("videoclip", path, num_attention_heads=2, cls_id=7, video_dim=1024)[0]
    assert model.config.num_attention_heads == 2 and model.config.cls_id == 7


@pytest.mark.parametrize("kind", ["asformer", "videoclip"])
def test_import_prints_report_hash_and_a_forward_pass(save, golden, capsys, kind):
    if kind == "asformer":
        path = save(golden.load("asformer/case_small_a").weights())
    else:
        from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig, save_official_videoclip

        path = save(None)
        save_official_videoclip(VideoCLIP(VideoCLIPConfig(60, 16, 2, 32, 1, 1, cls_id=2, sep_id=3)), path)
    main(kind, path)
    printed = capsys.readouterr().out
    assert f"sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}" in printed
    assert re.search(rf"{kind}: \d+ tensors matched\n", printed) and "forward pass: output [" in printed


# -- files that do not -------------------------------------------------------------------------------------------------


def test_a_file_of_another_kind_says_what_it_is(save, weights, videoclip):
    path = save({"model": videoclip})
    message = "not asformer: 102 tensors in 'model' with prefix mmmodel.: looks like videoclip"
    assert refusal("asformer", path) == message
    assert refusal("s3d_howto100m", save(weights)) == "not s3d_howto100m: 256 tensors: looks like asformer"
    message = refusal("asformer", save({"layer.weight": torch.ones(2)}))
    assert message.startswith("not asformer: 1 tensors: looks like none of asformer, i3d_r50") and "layer.w" in message


def test_kind_and_arguments_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match="no official weights of kind 'resnet': expected one of asformer, i3d_r50"):
        load_official("resnet", tmp_path / "none")
    with pytest.raises(ValueError, match="asformer has no argument 'windw': expected one of .*window"):
        load_official("asformer", tmp_path / "none", windw="official")
    assert set(KINDS) >= {"asformer", "i3d_r50", "i3d_inception", "s3d_howto100m", "videoclip"}


def test_arguments_that_contradict_the_file(save, weights, videoclip):
    path = save({"model": videoclip})
    assert refusal("videoclip", path) == "hidden_size=32 does not tell the number of heads: num_attention_heads="
    message = refusal("videoclip", path, num_attention_heads=4, video_dim=512)
    assert message == "video_dim=512 was asked for, the file has video_dim=1024"
    assert "no multiple of num_attention_heads 5" in refusal("videoclip", path, num_attention_heads=5)
    assert refusal("asformer", save(weights), num_classes=19).startswith("num_classes=19 was asked for, the file has")
    assert '"centred" or "official"' in refusal("asformer", save(weights), window="fixed")


def test_incomplete_weights_give_no_model(save, weights):
    gone = dict(weights)
    del gone["decoders.0.conv_out.bias"], gone["encoder.layers.3.conv_1x1.weight"]
    expected = "not a complete asformer: lacks encoder.layers.3.conv_1x1.weight, decoders.0.conv_out.bias"
    assert refusal("asformer", save(gone)) == expected
    gone = {name: value for name, value in weights.items() if name != "encoder.conv_out.weight"}
    assert refusal("asformer", save(gone)) == "not a complete asformer: 255 tensors, lacks encoder.conv_out.weight"
    wrong = weights | {"decoders.0.conv_out.bias": torch.ones(3)}
    assert refusal("asformer", save(wrong)) == "decoders.0.conv_out.bias is [3] where the model has [7]"


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(save, weights, new_format, share):
    path = save(weights, _use_new_zipfile_serialization=new_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert refusal("asformer", path) == "truncated or damaged: download or copy it again"


def test_what_is_no_checkpoint(save, tmp_path):
    assert refusal("asformer", tmp_path) == "a folder, not a file"
    assert refusal("asformer", tmp_path / "none.pt") == "no such file"
    not_ours = "not a checkpoint: torch.save did not write it"
    assert refusal("asformer", save(b"", lambda content, file: file.write(content))) == not_ours
    assert refusal("asformer", save(b"<html>404</html>", lambda content, file: file.write(content))) == not_ours
    assert refusal("asformer", save(np.ones(3), lambda content, file: np.save(file, content))) == not_ours
    zipped = save(np.ones(3), lambda content, file: np.savez(file, content))
    assert refusal("asformer", zipped) == "not a checkpoint: a zip file that torch.save did not write"
    assert (
        refusal("asformer", save({"a": 1}, pickle.dump)) == "not a checkpoint: a pickle that torch.save did not write"
    )
    assert refusal("asformer", save(3)) == "not a model's weights: holds one int"
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 2).parameters()).state_dict()
    assert refusal("asformer", save(optimizer)) == "not a model's weights: a dictionary with state, param_groups"


@pytest.mark.parametrize("write, protocol", [(torch.save, None), (pickle.dump, 2), (pickle.dump, 4)])
def test_a_file_that_wants_to_run_code_does_not(save, weights, tmp_path, write, protocol):
    flag = tmp_path / "ran"
    path = save(weights | {"x": Runs(flag)}, write, **{"protocol": protocol} if protocol else {})
    message = refusal("asformer", path)
    assert re.match(r"refused: it wants to run code while loading \((posix|nt|torch)\.\w+", message), message
    assert "trust=True" in message and not flag.exists()


def test_trust_lets_a_file_run_its_code(save, weights, tmp_path):
    flag = tmp_path / "ran"
    model, report = load_official("asformer", save(weights | {"x": Runs(flag)}), trust=True)
    assert flag.exists() and report.unexpected == ["x"] and len(report.matched) == len(weights)


# -- kinds -------------------------------------------------------------------------------------------------------------


def loads():
    """(module, kind) of every load of an official file in the package, but for the loader's own."""
    for file in sorted((paths.ROOT / "thesis_lib").rglob("*.py")):
        module = ".".join(file.relative_to(paths.ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            loads = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load_official")
            if loads and module != "thesis_lib.models.official":
                yield module, ast.literal_eval(node.args[0])


def test_kinds_are_those_beside_the_networks():
    names = [file.stem for file in (paths.ROOT / "thesis_lib/models").glob("*.py")]
    modules = {name: import_module(f"thesis_lib.models.{name}") for name in names}
    assert KINDS == {kind: name for name, module in modules.items() for kind in getattr(module, "OFFICIAL", ())}


@pytest.mark.parametrize("module, kind", sorted(set(loads())))
def test_what_loads_a_kind_hangs_on_its_network(networks, module, kind):
    assert KINDS[kind] in networks(module)


def test_the_loader_hangs_on_no_network(networks):
    assert networks("thesis_lib.models.official") == set()
