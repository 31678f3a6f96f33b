"""Layer-wise learning rates against the published rule, written down for VideoMAE's names."""

import pytest
import torch

from thesis_lib.models.alpro import Alpro, AlproConfig
from thesis_lib.models.svitt import SViTT, SViTTConfig
from thesis_lib.models.videomae import VideoMAE
from thesis_lib.training.layer_decay import heights, parameter_groups

SMALL = dict(hidden_size=192, num_hidden_layers=3)


def official(name: str, layers: int) -> int:
    """Layer numbers of a fine-tuned VideoMAE: 0 below the blocks, layers + 1 above them; here counted from the top."""
    if name.startswith(("patch_embed.", "cls_token", "pos_embed")):
        return layers + 1
    if name.startswith("blocks."):
        return layers + 1 - (int(name.split(".")[1]) + 1)
    return 0


def test_a_fine_tuned_videomae_has_the_published_numbers():
    names = [name for name, _ in VideoMAE(**SMALL, num_classes=5).named_parameters()]
    found = heights(names)
    assert found == {name: official(name, 3) for name in names}
    assert sorted(set(found.values())) == [0, 1, 2, 3, 4]
    assert (found["head.weight"], found["fc_norm.bias"], found["blocks.2.mlp.fc1.weight"]) == (0, 0, 1)


def test_the_encoder_of_pretraining_has_them_too_whatever_the_decoder_has():
    model = VideoMAE(**SMALL, decoder_hidden_size=192, decoder_num_hidden_layers=2)
    found = heights([f"encoder.model.{name}" for name, _ in model.named_parameters()])
    own = "encoder.model.encoder."
    encoder = {name.removeprefix(own): height for name, height in found.items() if name.startswith(own)}
    assert encoder == {name: official(name, 3) for name in encoder} and max(encoder.values()) == 4
    assert found["encoder.model.decoder.blocks.0.norm1.weight"] == 2, "the decoder's own count"


def test_every_stack_of_the_others_is_counted_by_itself():
    sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=20, embed_dim=8)
    svitt = SViTT(
        SViTTConfig(frames=2, image_size=16, patch_size=8, video_layers=4, text_layers=3, fusion_layer=2, **sizes)
    )
    found = heights([name for name, _ in svitt.named_parameters()])
    assert found["vision_encoder.embeddings.cls_token"] == 5
    assert found["vision_encoder.embeddings.patch_embeddings.projection.weight"] == 5
    tables = [name for name in found if name.endswith("relative_position_bias_table")]
    assert sorted(found[name] for name in tables) == [1, 2, 3, 4], "a bias is part of its layer"
    assert found["text_encoder.bert.embeddings.word_embeddings.weight"] == 4
    assert found["text_encoder.bert.encoder.layer.2.crossattention.self.query.weight"] == 1
    assert all(found[name] == 0 for name in ("vision_layernorm.weight", "vision_proj.weight", "temp"))

    config = AlproConfig(
        size=16, patch_size=8, num_frames=2, hidden_size=16, num_attention_heads=2, intermediate_size=16, video_layers=3
    )
    model = Alpro(config)
    found = heights([name for name, _ in model.named_parameters()])
    video = "visual_encoder.model."
    assert {found[f"{video}{name}"] for name in ("cls_token", "pos_embed", "time_embed", "patch_embed.proj.bias")} == {
        4
    }
    assert [found[f"{video}blocks.{number}.temporal_fc.weight"] for number in range(3)] == [3, 2, 1]
    assert found[f"{video}norm.weight"] == 0


def test_rates_fall_by_the_power_of_the_height_and_without_decay_nothing_changes():
    model = VideoMAE(**SMALL, num_classes=5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.01, 0.75)
    assert groups[0]["lr"] == 0.01, "the head's comes first: it is the one of history.csv"
    found = {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}
    assert found == pytest.approx({name: 0.01 * 0.75 ** official(name, 3) for name in names.values()})
    (group,) = parameter_groups(model, 0.01, 1.0)
    assert group["lr"] == 0.01 and all(map(torch.equal, group["params"], model.parameters()))
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"layer_decay={wrong}"):
            parameter_groups(model, 0.01, wrong)


def test_a_model_without_layers_has_its_embeddings_below_all_else():
    assert heights(["embeddings.weight", "linear.weight"]) == {"embeddings.weight": 1, "linear.weight": 0}
