"""Sparse attention: the official numbers where the official code is right, dense attention under a mask everywhere."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from thesis_lib.models.sparse_attention import (
    RelativePositionBias,
    SparseSelfAttention,
    count_edges,
    inflate,
    keep_rows,
    keep_tokens,
    regrid,
    sparse_pattern,
    stretch,
)

FOLDER = Path(__file__).parents[1] / "golden" / "svitt"
GOLDEN = [f"{name}_a" for name in ("dense", "sparse", "sparse_pruned", "defect_kl3", "defect_pad")]


@pytest.fixture(scope="module")
def case(golden):
    def case(name):
        """(the case, attention with its weights, x, positions)."""
        found = golden.load(f"svitt/{name}")
        spec, window = found.spec, found.spec["window"]
        module = SparseSelfAttention(32, 4, window, spec["block"]).eval()
        weights = found.weights()
        index = "relative_position_bias.relative_position_index"
        weights[index] = module.state_dict()[index]
        module.load_state_dict(weights)
        x = golden.ramp((spec["B"], 1 + spec.get("L", math.prod(window)), 32), spec["seed"])
        kept = found.arrays.get("in_token_idx")
        return found.arrays, module, x, None if kept is None else torch.from_numpy(kept)

    return case


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_dense_attention_under_a_mask(case, golden, name):
    official, module, x, positions = case(name)
    pattern = torch.from_numpy(official["out_pattern"])
    sparse, from_cls = module.attend(x, pattern, positions)
    assert golden.deviation(sparse, official["out_own_masked_dense"]) < 5e-6
    assert golden.deviation(from_cls, official["out_cls_attention"]) < 5e-6
    assert golden.deviation(module(x, None, positions), official["out_dense"]) < 5e-6
    assert count_edges(x.shape[1] - 1, pattern, module.block) == official["out_edges_per_head"]
    assert count_edges(x.shape[1] - 1) == official["out_edges_dense"]


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_official_code_where_it_is_right(case, golden, name):
    official, module, x, positions = case(name)
    sparse = module(x, torch.from_numpy(official["out_pattern"]), positions)
    if "defect" in name:
        assert golden.deviation(sparse, official["out_official_DEFECT"]) > 0.05
    else:
        assert golden.deviation(sparse, official["out_official_sparse"]) < 5e-6


def test_all_blocks_are_dense_attention(case, golden):
    """Divisible by the block or not, one local block or three: where the released code fails twice."""
    _, module, _, _ = case("defect_pad_a")
    for count in (64, 30, 61, 4, 3):
        x, blocks = golden.ramp((2, 1 + count, 32), count), -(-count // 4)
        pattern = torch.arange(blocks).repeat(blocks, 1)
        shifted = (pattern + torch.arange(blocks)[:, None] - 1) % blocks  # the local blocks first, in their order
        assert golden.deviation(module(x, pattern), module(x)) < 1e-5
        assert golden.deviation(module(x, shifted), module(x)) < 1e-5


def masked_dense(module, x, pattern, positions):
    """Dense attention under a boolean mask: the meaning of the pattern, without any gather."""
    count = x.shape[1] - 1
    block_of = torch.arange(count) // module.block
    allowed = torch.zeros(1 + count, 1 + count, dtype=torch.bool)
    allowed[0] = allowed[:, 0] = True
    for row in range(count):
        allowed[1 + row, 1:] = torch.isin(block_of, pattern[block_of[row]])
    query, key, value = (
        layer(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for layer in (module.query, module.key, module.value)
    )
    places = F.pad(positions + 1, (1, 0))
    bias = module.relative_position_bias(places, places).masked_fill(~allowed, -torch.inf)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    block=st.integers(1, 9),
    local=st.sampled_from([1, 3, 5]),
    random=st.integers(0, 4),
    seed=st.integers(0, 999),
    shuffled=st.booleans(),
)
def test_the_gather_is_the_mask_forward_and_backward(count, block, local, random, seed, shuffled):
    torch.manual_seed(seed)
    module = SparseSelfAttention(8, 2, (3, 4, 4), block).double()
    torch.nn.init.normal_(module.relative_position_bias.relative_position_bias_table)
    positions = torch.arange(count)[None]
    if shuffled:
        positions = torch.stack([torch.randperm(48)[:count].sort().values for _ in range(2)])
    pattern = sparse_pattern(-(-count // block), local, random, seed)
    x = torch.randn(2, 1 + count, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1 + count, 8, dtype=torch.float64)
    found = {}
    for name, function in {"gather": module, "mask": lambda *a: masked_dense(module, *a)}.items():
        output = function(x, pattern, positions)
        inputs = [x, *module.parameters()]
        gradients = torch.autograd.grad((output * weight).sum(), inputs, allow_unused=True)
        found[name] = [output, *gradients]
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_pattern_of_other_blocks_is_refused():
    with pytest.raises(ValueError, match="a pattern of 3 blocks for 10 patches, which are 5 of 2"):
        SparseSelfAttention(8, 2, (1, 4, 4), 2)(torch.zeros(1, 11, 8), sparse_pattern(3, 1, 1, 0))
    with pytest.raises(ValueError, match="dim 10 is no multiple of num_heads 4"):
        SparseSelfAttention(10, 4, (1, 4, 4), 2)


# -- edges -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.sampled_from([1, 3, 5]), st.integers(0, 6), st.integers(0, 99))
def test_rows_of_a_pattern(blocks, local, random, seed):
    pattern = sparse_pattern(blocks, local, random, seed)
    assert pattern.shape == (blocks, min(blocks, local + random))
    assert all(len(set(row)) == len(row) and set(row) <= set(range(blocks)) for row in pattern.tolist())
    if local + random < blocks:
        for number, row in enumerate(pattern.tolist()):
            assert row[:local] == [(number + r) % blocks for r in range(-(local // 2), local // 2 + 1)]
            assert row[local:] == sorted(row[local:])


def test_a_pattern_follows_from_its_seed():
    first = sparse_pattern(28, 1, 3, 7).clone()
    sparse_pattern.cache_clear()
    assert torch.equal(sparse_pattern(28, 1, 3, 7), first)
    assert not torch.equal(sparse_pattern(28, 1, 3, 8), first)
    assert not torch.equal(sparse_pattern(28, 1, 3, (7, 1)), sparse_pattern(28, 1, 3, (7, 2)))
    with pytest.raises(ValueError, match="2 local and 3 random blocks: local must be odd"):
        sparse_pattern(28, 2, 3, 7)


def test_random_blocks_are_spread_evenly():
    counts = sum(np.bincount(sparse_pattern(8, 1, 3, seed)[0, 1:].numpy(), minlength=8) for seed in range(2000))
    assert counts[0] == 0 and counts.sum() == 6000
    assert np.abs(counts[1:] - 6000 / 7).max() < 5 * math.sqrt(6000 / 7)


def test_edges_are_those_of_the_official_configuration():
    """Linear in the frames where dense attention is quadratic; released: 1 local, 3 random blocks of 56 patches."""
    counted = json.loads((FOLDER / "edge_counts.json").read_text())
    for name, numbers in counted.items():
        random = int(name[name.index("K") + 1 : name.index("_G")]) - 1
        pattern = sparse_pattern(numbers["tokens"] // 56, 1, random, 0)
        assert count_edges(numbers["tokens"], pattern, 56) == numbers["sparse"]
        assert count_edges(numbers["tokens"]) == numbers["dense"]
    edges = [counted[f"frames{frames}_K4_G56"] for frames in (4, 8, 16, 32)]
    for few, many in pairwise(edges):
        assert many["sparse"] / few["sparse"] == pytest.approx(2, abs=1e-4)
        assert many["dense"] / few["dense"] == pytest.approx(4, abs=0.01)


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_the_kept_patches_are_the_official_ones(golden):
    case = golden.load("svitt/prune_a")
    kept = keep_tokens(torch.from_numpy(case.arrays["in_cls_attention"]), case.spec["keep"])
    assert np.array_equal(kept, case.arrays["out_keep_idx"])
    rows = keep_rows(golden.ramp((2, 33, 32), case.spec["seed"]), kept)[..., :4]
    assert np.array_equal(rows, case.arrays["out_kept_tokens"])


@given(st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 99))
def test_how_many_stay_and_in_which_order(count, rate, seed):
    attention = torch.rand(2, 3, 1, 1 + count, generator=torch.Generator().manual_seed(seed))
    attention[..., 0] = 9  # what [CLS] gives itself does not count
    attention[:, :, :, 1 + seed % count] += 1  # a patch that stands out
    kept = keep_tokens(attention, rate)
    assert kept.shape == (2, math.ceil(rate * count)) and (kept.diff(dim=1) > 0).all()
    assert (kept == seed % count).any(dim=1).all() and kept.max() < count
    left = attention.mean(1)[:, 0, 1:]
    lowest = left.gather(1, kept).min(1).values
    assert all((left[row] > lowest[row]).sum() < kept.shape[1] for row in range(2))


def test_a_rate_outside_its_range_is_refused():
    for rate in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            keep_tokens(torch.rand(1, 1, 1, 5), rate)


# -- positions ---------------------------------------------------------------------------------------------------------


def test_the_index_of_files_is_the_official_one(golden):
    case = golden.load("svitt/bias_a")
    for window in (case.spec["window"], [3, 2, 5]):
        bias = RelativePositionBias(window, 2)
        index = bias.state_dict()["relative_position_index"]
        assert set(bias.state_dict()) == {"relative_position_bias_table", "relative_position_index"}
        if window == case.spec["window"]:
            assert np.array_equal(index, case.arrays["out_relative_position_index"])
            assert len(bias.relative_position_bias_table) == case.arrays["out_num_relative_distance"]
        places = list(np.ndindex(*window))
        apart = {}
        for i, one in enumerate(places):
            for k, other in enumerate(places):
                apart.setdefault(tuple(np.subtract(one, other)), set()).add(index[1 + i, 1 + k].item())
        assert all(len(rows) == 1 for rows in apart.values()), "a row for each distance"
        assert len(set.union(*apart.values())) == len(apart) == bias.num_distances
        assert index[0, 1:].unique().tolist() == [len(apart)] and index[1:, 0].unique().tolist() == [len(apart) + 1]
        assert index[0, 0] == len(apart) + 2
        bias.load_state_dict(bias.state_dict())  # strict, although the index is nowhere in memory


def test_inflation_repeats_over_time():
    table = torch.arange(9 * 2 + 3 * 2.0).reshape(12, 2)
    inflated = inflate(table, 3)
    assert inflated.shape == (5 * 9 + 3, 2)
    assert all(torch.equal(inflated[9 * k : 9 * k + 9], table[:9]) for k in range(5))
    assert torch.equal(inflated[-3:], table[-3:])


@pytest.mark.parametrize("old, new", [(6, 8), (14, 24), (6, 30), (8, 5)])
def test_another_grid_follows_the_published_distances(old, new):
    """Biases that are a polynomial of the old places, as the official loop finds them, stay the same polynomial."""
    left, right = 1.01, 1.5
    while right - left > 1e-9:
        ratio = (left + right) / 2
        if (1 - ratio ** (old - 1)) / (1 - ratio) > new - 1:
            right = ratio
        else:
            left = ratio
    steps = [0.0]
    for number in range(old - 1):
        steps.append(steps[-1] + ratio**number)
    places = torch.tensor([-step for step in steps[:0:-1]] + steps, dtype=torch.float64)

    def biases(places):
        y, x = places[:, None] / new, places / new
        return torch.stack([1 + x - 2 * y + x * y**2, y**3 - 0.5 * x**2 * y], dim=-1).flatten(0, 1)

    wanted = torch.arange(1 - new, new, dtype=torch.float64).clamp(places[0], places[-1])
    found = regrid(torch.cat([biases(places), torch.eye(3, 2).double()]), new)
    torch.testing.assert_close(found, torch.cat([biases(wanted), torch.eye(3, 2).double()]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="a bias table of 11 rows, which no square image has"):
        regrid(torch.zeros(11, 2), new)


def test_stretching_keeps_what_is_constant_and_is_symmetric():
    frames, distances = torch.arange(-3.0, 4), 27 * 27
    table = torch.cat([frames.repeat_interleave(distances)[:, None], torch.tensor([[70.0], [80], [90]])])
    longer = stretch(table, 4, 8)
    assert longer.shape == (15 * distances + 3, 1) and torch.equal(longer[-3:], table[-3:])
    of_time = longer[:-3].reshape(15, distances)
    assert (of_time == of_time[:, :1]).all()
    of_time = of_time[:, 0]
    assert torch.equal(of_time, -of_time.flip(0)) and of_time[0] == -3 and of_time[7] == 0
    assert (of_time.diff() >= 0).all()
    official = stretch(table, 4, 8, mode="nearest")[:-3].reshape(15, distances)[:, 0]
    assert official[8] == 0 and official[6] == -1, "one frame ahead is none, one frame back is one"
    flat = inflate(torch.randn(12, 2), 4)
    assert torch.equal(stretch(flat, 4, 8), inflate(torch.cat([flat[:9], flat[-3:]]), 8))
    assert torch.equal(stretch(table, 4, 4), table)


def test_a_pattern_first_made_for_evaluation_can_be_trained_with():
    layer, tokens = SparseSelfAttention(8, 2, (4, 4, 4), 8), torch.randn(1, 65, 8)
    sparse_pattern.cache_clear()
    with torch.inference_mode():
        layer(tokens, sparse_pattern(8, 1, 3, 5))
    layer(tokens, sparse_pattern(8, 1, 3, 5)).sum().backward()
