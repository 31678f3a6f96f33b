"""Memory of a pretraining step of VideoCLIP at full size, counted: what autograd keeps for the backward pass.

    python -m benchmarks.memory --pairs 64 512

Weights, gradients and Adam's two averages cost 16 bytes a parameter. Activations grow linearly with the pairs that are
encoded at once, so that two small numbers of pairs tell all others. Counted in bf16 autocast on a CPU, with texts of 63
word pieces and 32 seconds of video, the longest there are; a GPU adds its context and what is free between tensors.
"""

import argparse

import torch

from thesis_lib.models.videoclip import VideoCLIP

FEW, MORE = 2, 6


def kept(model: VideoCLIP, pairs: int) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, parameters not counted."""
    features, seconds = torch.randn(pairs, 32, model.config.video_dim), torch.ones(pairs, 32, dtype=torch.bool)
    ids, words = torch.full((pairs, 63), 5), torch.ones(pairs, 63, dtype=torch.bool)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes(), tensor  # held, or its place would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        outputs = model(features, seconds, ids, words)
    assert all(output.requires_grad for output in outputs)
    return sum(size for size, _ in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[64, 512], help="encoded at once")
    asked = parser.parse_args().pairs
    model = VideoCLIP().train()
    few, more = kept(model, FEW), kept(model, MORE)
    pair = (more - few) / (MORE - FEW)
    fixed = few - FEW * pair + 16 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"weights, gradients, Adam and bf16 copies: {fixed / 2**30:.1f} GiB; a pair: {pair / 2**20:.0f} MiB\n")
    print("| pairs at once | GiB |\n|---|---|")
    for pairs in asked:
        print(f"| {pairs} | {(fixed + pairs * pair) / 2**30:.1f} |")


if __name__ == "__main__":
    main()
