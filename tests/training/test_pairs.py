"""Each rule of the positive pairs as a property over random videos, and videos at the edge."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from thesis_lib.data.howto100m import Captions
from thesis_lib.training import pairs
from thesis_lib.training.pairs import SpanLimits

LIMITS = SpanLimits()


def random_video(rng):
    """Captions, their numbers of word pieces and the length of the video; some captions lie outside of it."""
    count, seconds = int(rng.integers(1, 30)), int(rng.integers(1, 120))
    starts = np.sort(rng.uniform(-5, seconds + 10, count))
    ends = starts + rng.uniform(0, 8, count)
    texts = [f"text {number}" for number in range(count)]
    return Captions(starts, ends, texts), rng.integers(1, 20, count).tolist(), seconds


def draws(count=500, limits=LIMITS, make=pairs.overlapped_pair, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        captions, lengths, seconds = random_video(rng)
        yield captions, lengths, seconds, make(captions, lengths, seconds, rng, limits)


@pytest.mark.parametrize("make", [pairs.overlapped_pair, pairs.aligned_pair])
def test_both_spans_lie_within_captions_and_video(make):
    for captions, _, seconds, pair in draws(make=make):
        assert 0 <= pair.first < pair.last <= len(captions)
        assert 0 <= pair.start < pair.end <= seconds
        assert pair.end - pair.start <= LIMITS.max_seconds


def test_text_grows_to_a_random_number_of_tokens_and_not_further():
    """No caption more than needed: without one of the two at its ends the span has less than wanted."""
    for captions, lengths, _, pair in draws():
        tokens = sum(lengths[pair.first : pair.last])
        whole = pair.last - pair.first == len(captions)
        assert tokens >= LIMITS.min_tokens or whole
        if pair.last - pair.first > 1:
            fewest = tokens - max(lengths[pair.first], lengths[pair.last - 1])
            assert fewest < LIMITS.max_tokens

    rng = np.random.default_rng(0)
    ones = Captions(np.arange(200.0), np.arange(200.0) + 1, [""] * 200)
    spans = [pairs.text_span(ones, [1] * 200, rng, LIMITS) for _ in range(3000)]
    sizes = Counter(last - first for first, last in spans)
    assert set(sizes) == set(range(8, 65))  # one token a caption: exactly the drawn number, every number, about evenly
    assert max(sizes.values()) < 2.5 * min(sizes.values())


def test_text_grows_to_both_sides():
    rng = np.random.default_rng(0)
    ones = Captions(np.arange(101.0), np.arange(101.0) + 1, [""] * 101)
    limits = SpanLimits(min_tokens=11, max_tokens=11)
    firsts = [pairs.text_span(ones, [1] * 101, rng, limits) for _ in range(4000)]
    assert all(last - first == 11 for first, last in firsts)
    middles = np.array([(first + last - 1) / 2 for first, last in firsts])
    assert abs(middles.mean() - 50) < 2


def test_text_stops_at_its_longest_duration():
    limits = SpanLimits(min_tokens=64, max_text_seconds=20)
    captions = Captions(np.arange(0.0, 500, 5), np.arange(5.0, 505, 5), [""] * 100)
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, last = pairs.text_span(captions, [1] * 100, rng, limits)
        assert captions.ends[last - 1] - captions.starts[first] == 20


def test_video_lasts_a_random_number_of_seconds_around_a_moment_of_the_text():
    for captions, _, seconds, pair in draws():
        assert pair.end - pair.start >= min(LIMITS.min_seconds, seconds)
        low = min(max(math.floor(captions.starts[pair.first]), 0), seconds - 1)
        high = min(max(math.ceil(captions.ends[pair.last - 1]), 0), seconds - 1)
        assert pair.start <= high and low <= pair.end  # it reaches a moment of the text

    captions = Captions(np.array([500.0]), np.array([504.0]), ["a"])
    rng = np.random.default_rng(1)
    found = [pairs.overlapped_pair(captions, [20], 1000, rng, LIMITS) for _ in range(3000)]
    assert set(Counter(pair.end - pair.start for pair in found)) == set(range(3, 33))
    centres = np.array([(pair.start + pair.end) / 2 for pair in found])
    assert abs(centres.mean() - 502) < 0.5 and centres.std() > 1  # around the text, not always in its middle


def walk(centre, length, seconds):
    """Probability of each span of the released second-by-second growth (VideoClipSamplingProcessor)."""
    spans = {(centre, centre): 1.0}
    for _ in range(min(length, seconds)):
        grown = Counter()
        for (start, end), chance in spans.items():
            if start <= 0:
                grown[start, end + 1] += chance
            elif end >= seconds:
                grown[start - 1, end] += chance
            else:
                grown[start, end + 1] += chance / 2
                grown[start - 1, end] += chance / 2
        spans = grown
    return spans


def grow_text(captions, lengths, wanted, limits):
    """Probability of each text span for a wanted number of tokens (TextClipSamplingProcessor)."""
    count, done = len(captions), Counter()
    growing = Counter({(first, first + 1): 1 / count for first in range(count)})
    while growing:
        (first, last), chance = growing.popitem()
        enough = sum(lengths[first:last]) >= wanted
        if (
            enough
            or captions.ends[last - 1] - captions.starts[first] >= limits.max_text_seconds
            or last - first == count
        ):
            done[first, last] += chance
        elif first == 0 or last == count:
            growing[(first, last + 1) if first == 0 else (first - 1, last)] += chance
        else:
            growing[first, last + 1] += chance / 2
            growing[first - 1, last] += chance / 2
    return done


def all_pairs(captions, lengths, seconds, limits):
    """Probability of every pair that OverlappedAligner can draw."""
    found = Counter()
    tokens, durations = (
        range(limits.min_tokens, limits.max_tokens + 1),
        range(limits.min_seconds, limits.max_seconds + 1),
    )
    for wanted in tokens:
        for (first, last), chance in grow_text(captions, lengths, wanted, limits).items():
            low, high = math.floor(captions.starts[first]), math.ceil(captions.ends[last - 1])
            for moment in range(low, high + 1):
                for length in durations:
                    share = chance / len(tokens) / (high - low + 1) / len(durations)
                    for span, part in walk(max(0, min(seconds - 1, moment)), length, seconds).items():
                        found[pairs.Pair(first, last, *span)] += share * part
    assert math.isclose(sum(found.values()), 1)
    return found


def p_value(drawn, expected):
    """Of a chi-square test of draws against probabilities; 0 if something impossible was drawn."""
    if set(drawn) - set(expected):
        return 0.0
    total = sum(drawn.values())
    usual = [outcome for outcome, chance in expected.items() if chance * total >= 5]
    seen, awaited = [drawn[outcome] for outcome in usual], [expected[outcome] * total for outcome in usual]
    rest = 1 - sum(awaited) / total
    if rest > 1e-9:
        seen, awaited = [*seen, total - sum(seen)], [*awaited, rest * total]
    return chisquare(seen, awaited).pvalue if len(seen) > 1 else 1.0


@pytest.mark.parametrize(
    "centre, length, seconds",
    [(10, 6, 40), (1, 8, 40), (38, 8, 40), (2, 7, 8), (3, 9, 5), (0, 1, 1), (0, 5, 9), (8, 5, 9), (20, 32, 60)],
)
def test_video_span_grows_as_the_official_walk_does(centre, length, seconds):
    """One binomial number has the distribution of the walk, borders on both sides included."""
    rng = np.random.default_rng(0)
    drawn = Counter(pairs.video_span(centre, length, seconds, rng) for _ in range(20_000))
    assert p_value(drawn, walk(centre, length, seconds)) > 1e-3


@pytest.mark.parametrize("wanted, longest", [(3, 256), (4, 256), (9, 3)])
def test_text_grows_as_the_official_walk_does(wanted, longest):
    rng, limits = np.random.default_rng(0), SpanLimits(wanted, wanted, longest)
    captions, lengths = Captions(np.arange(7.0), np.arange(7.0) + 1, [""] * 7), [1, 2, 1, 0, 1, 2, 1]
    drawn = Counter(pairs.text_span(captions, lengths, rng, limits) for _ in range(20_000))
    assert p_value(drawn, grow_text(captions, lengths, wanted, limits)) > 1e-3


@pytest.mark.parametrize(
    "starts, ends, lengths, seconds",
    [
        ([1.5, 4.0, 7.2], [3.5, 6.9, 9.9], [2, 3, 1], 12),  # in the middle
        ([-4.0, 0.5], [-2.5, 2.0], [1, 4], 6),  # before the first second
        ([2.0, 9.0], [3.0, 14.0], [3, 1], 8),  # after the last one
        ([3.0], [3.0], [9], 20),  # a single caption, without duration
        ([0.0, 2.0, 2.0, 5.0], [6.0, 3.0, 8.0, 6.0], [1, 1, 1, 1], 7),  # they overlap, and one stops growth: 6 s
        ([0.2], [0.7], [1], 1),  # a video of one second
    ],
)
def test_pairs_have_the_distribution_of_the_released_sampler(starts, ends, lengths, seconds):
    captions = Captions(np.array(starts), np.array(ends), [""] * len(starts))
    for limits in (SpanLimits(2, 5, 6.0, 3, 6), SpanLimits(1, 1, 256.0, 1, 3)):
        rng = np.random.default_rng(0)
        drawn = Counter(pairs.overlapped_pair(captions, lengths, seconds, rng, limits) for _ in range(8_000))
        assert p_value(drawn, all_pairs(captions, lengths, seconds, limits)) > 1e-3


CAPTION = st.tuples(st.floats(-20, 150), st.floats(0, 40), st.integers(0, 20))
LIMIT = st.builds(
    lambda tokens, more, longest, low, high: SpanLimits(tokens, tokens + more, longest, low, low + high),
    *(st.integers(1, 20), st.integers(0, 60), st.floats(0, 256), st.integers(0, 10), st.integers(0, 32)),
)


@given(st.lists(CAPTION, min_size=1, max_size=15), st.integers(1, 130), LIMIT, st.integers(0, 2**31))
@settings(deadline=None)
def test_every_rule_for_any_video(rows, seconds, limits, seed):
    rows = sorted(rows)
    captions = Captions(np.array([a for a, *_ in rows]), np.array([a + b for a, b, _ in rows]), [""] * len(rows))
    lengths = [tokens for *_, tokens in rows]
    pair = pairs.overlapped_pair(captions, lengths, seconds, np.random.default_rng(seed), limits)

    # The text is a run of captions. It stopped when it was due, and not later: some order of growth leads to it.
    assert 0 <= pair.first < pair.last <= len(rows)
    wanted = range(limits.min_tokens, limits.max_tokens + 1)
    assert any((pair.first, pair.last) in grow_text(captions, lengths, tokens, limits) for tokens in wanted)
    # The video has as many seconds as were drawn, or all; none of them lies outside, and one at the least is shown.
    length = pair.end - pair.start
    assert 0 <= pair.start < pair.end <= seconds
    assert min(max(1, limits.min_seconds), seconds) <= length <= max(1, limits.max_seconds)
    # It touches a moment of the text, moved into the video.
    low, high = math.floor(captions.starts[pair.first]), math.ceil(captions.ends[pair.last - 1])
    assert pair.start <= max(0, min(seconds - 1, high)) and max(0, min(seconds - 1, low)) <= pair.end

    again = pairs.overlapped_pair(captions, lengths, seconds, np.random.default_rng(seed), limits)
    assert pair == again
    aligned = pairs.aligned_pair(captions, lengths, seconds, np.random.default_rng(seed), limits)
    assert (aligned.first, aligned.last) == (pair.first, pair.last)  # the same text from the same numbers
    assert aligned.start == max(0, min(seconds - 1, low))
    assert aligned.end == max(aligned.start + 1, min(high, seconds, aligned.start + max(1, limits.max_seconds)))


def test_from_0_seconds_as_the_thesis_says_still_shows_one():
    limits = SpanLimits(min_seconds=0, max_seconds=2)
    assert {pair.end - pair.start for *_, pair in draws(limits=limits)} == {1, 2}


def test_aligned_pair_is_what_is_said_when_it_is_said():
    captions = Captions(np.array([2.4, 6.0, 50.0]), np.array([4.2, 9.5, 58.0]), ["a", "b", "c"])
    rng, limits = np.random.default_rng(0), SpanLimits(min_tokens=1, max_tokens=1)
    found = {pairs.aligned_pair(captions, [1, 1, 1], 55, rng, limits) for _ in range(100)}
    assert found == {pairs.Pair(0, 1, 2, 5), pairs.Pair(1, 2, 6, 10), pairs.Pair(2, 3, 50, 55)}
    long = Captions(np.array([3.0]), np.array([100.0]), ["a"])
    assert pairs.aligned_pair(long, [1], 200, rng, limits) == pairs.Pair(0, 1, 3, 35)


@pytest.mark.parametrize("make", [pairs.overlapped_pair, pairs.aligned_pair])
def test_videos_at_the_edge(make):
    rng = np.random.default_rng(0)
    one = Captions(np.array([1.0]), np.array([2.5]), ["a"])
    for seconds in (1, 2, 3):
        for _ in range(20):
            pair = make(one, [2], seconds, rng, LIMITS)
            assert (pair.first, pair.last) == (0, 1) and 0 <= pair.start < pair.end <= seconds
    beyond = Captions(np.array([-9.0, 80.0]), np.array([-7.0, 90.0]), ["a", "b"])
    for _ in range(20):
        make(beyond, [9, 9], 5, rng, LIMITS)
    with pytest.raises(ValueError, match="without captions"):
        make(Captions(np.empty(0), np.empty(0), []), [], 10, rng, LIMITS)
    with pytest.raises(ValueError, match="without seconds"):
        make(one, [2], 0, rng, LIMITS)


def test_the_same_seed_draws_the_same_pairs():
    first, again, other = ([pair for *_, pair in draws(50, seed=seed)] for seed in (1, 1, 2))
    assert first == again != other


def test_limits_are_checked():
    with pytest.raises(ValueError, match="min_tokens <= max_tokens"):
        SpanLimits(min_tokens=9, max_tokens=8)


def test_permuted_texts_keep_slots_and_texts_and_lose_their_order():
    rng = np.random.default_rng(0)
    captions = {f"v{number}": random_video(rng)[0] for number in range(40)}
    captions = {v: Captions(s.starts, s.ends, [f"{v} {n}" for n in range(len(s))]) for v, s in captions.items()}
    permuted = pairs.permute_texts(captions, seed=3)
    assert sorted(t for s in permuted.values() for t in s.texts) == sorted(
        t for s in captions.values() for t in s.texts
    )
    for video, said in captions.items():
        assert np.array_equal(permuted[video].starts, said.starts) and np.array_equal(permuted[video].ends, said.ends)
    slots = [(v, n, text) for v, said in permuted.items() for n, text in enumerate(said.texts)]
    assert np.mean([text.startswith(f"{v} ") for v, _, text in slots]) < 0.1  # of their own video
    first = [int(text.split()[1]) for _, n, text in slots if n == 0]
    assert np.mean(first) > 3  # what was said first is not said first
    assert (
        pairs.permute_texts(captions, seed=3) and permuted["v0"].texts == pairs.permute_texts(captions, 3)["v0"].texts
    )
