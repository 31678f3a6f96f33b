"""Questions over narrated videos: what is asked, what is compared, who is a positive of whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from thesis_lib import narrated_questions
from thesis_lib.data.captions import Captions
from thesis_lib.data.egoclip import INTER, INTRA, Question, write_egomcq
from thesis_lib.data.video import write_video
from thesis_lib.training.films import Film, around

TEXTS = ["cut the tomato", "cutting tomatoes", "cut the cheese", "peel a tomato", "pour oil", "pour oil"]


class Corpus:
    """Six videos of six captions of ten seconds, one frame a second that holds 40 * video + 6 * caption."""

    frames, seconds = 2, 2.0

    def __init__(self, unreadable=()):
        self.names = [f"v{number}" for number in range(6)]
        starts = 10.0 * np.arange(6)
        self.said = {
            name: Captions(starts, starts + 10, [f"{number} {caption}" for caption in range(6)])
            for number, name in enumerate(self.names)
        }
        self.films = {name: self.film(number, name in unreadable) for number, name in enumerate(self.names)}

    def film(self, number, broken):
        values = torch.arange(60) // 10 * 6 + 40 * number
        shown = values.byte()[:, None, None, None].expand(60, 3, 4, 4)
        return Film(60, 1.0, lambda start, count: None if broken else shown[start : start + count])


class Reader(torch.nn.Module):
    """Knows both: the direction of a clip is its value as an angle, that of a text the same."""

    frames, seconds = 2, 2.0

    def embed(self, clips):
        angle = clips.mean(dim=(1, 2, 3, 4)) * 3
        return torch.stack([angle.cos(), angle.sin()], 1)

    def embed_texts(self, texts):
        values = [40 * int(text[0]) + 6 * int(text[2]) for text in texts]
        angle = torch.tensor(values) / 255 * 3
        return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.fixture
def asked():
    return narrated_questions.draw(Corpus(), 30, np.random.default_rng(0))


def test_who_knows_clips_and_texts_answers_all(asked):
    scores = narrated_questions.similarities(Reader(), Corpus().films, asked)
    assert scores.shape == (60, 5) and narrated_questions.accuracy(scores, asked) == {"inter": 1.0, "intra": 1.0}
    assert [question.type for question in asked] == [INTER] * 30 + [INTRA] * 30
    assert np.allclose(scores[range(60), [question.answer for question in asked]], 1, atol=1e-5)


def test_few_clips_at_once_are_all_clips(asked, monkeypatch):
    whole = narrated_questions.similarities(Reader(), Corpus({"v2"}).films, asked)
    monkeypatch.setattr(narrated_questions, "AT_ONCE", 4)
    assert np.array_equal(narrated_questions.similarities(Reader(), Corpus({"v2"}).films, asked), whole)


def test_a_clip_that_cannot_be_read_is_like_nothing(asked):
    scores = narrated_questions.similarities(Reader(), Corpus(unreadable=("v3",)).films, asked)
    broken = np.array([[clip[0] == "v3" for clip in question.choices] for question in asked])
    assert broken.any() and (scores[broken] == -1).all() and (scores[~broken] > -1).all()
    assert narrated_questions.accuracy(scores, asked)["inter"] < 1
    blind = np.full_like(scores, -1)
    assert narrated_questions.accuracy(blind, asked) == {"inter": 0, "intra": 0}, "the first of equals is no answer"


def test_the_last_clip_of_a_video_is_not_moved(tmp_path):
    """On demand a film is as long as what is asked of it needs: a clip of half a second at its end is in the middle."""
    frames = np.broadcast_to(np.arange(0, 240, 4, np.uint8)[:, None, None, None], (60, 16, 16, 3))
    (tmp_path / "videos").mkdir()
    clips = []
    for number in range(5):
        write_video(tmp_path / f"videos/v{number}.avi", frames, fps=4.0)
        clips.append((f"v{number}", 9.5, 10.0, f"says {number}"))
    write_egomcq(tmp_path / "egomcq.json", [Question("says 2", clips, 2, INTER)])
    about = dict(frames=4, seconds=4.0, size=16)
    for on_demand in (False, True):
        _, films = narrated_questions.of_file(tmp_path, **about, on_demand=on_demand)
        seen = around(films["v2"], 9.75, 4, 4.0).float().mean(dim=(1, 2, 3))
        assert abs(seen.mean() / 4 / 4 - 9.75) < 0.6, "seconds"


@pytest.mark.parametrize("on_demand", [False, True])
def test_questions_of_a_file_are_those_that_were_drawn(asked, tmp_path, on_demand):
    """The corpus as files, but for a video that is not there: what asks about it is left out, all others as before."""
    corpus = Corpus()
    (tmp_path / "videos").mkdir()
    write_egomcq(tmp_path / "egomcq.json", [replace(one, query=f"#C C {one.query}") for one in asked])
    for name in corpus.names[:5]:
        frames = corpus.films[name].clip(0, 60).permute(0, 2, 3, 1).repeat(1, 4, 4, 1).numpy()
        write_video(tmp_path / f"videos/{name}.avi", frames, fps=1.0)
    found, films = narrated_questions.of_file(tmp_path, frames=2, seconds=2.0, size=16, on_demand=on_demand)
    whole = [question for question in asked if all(clip[0] != "v5" for clip in question.choices)]
    assert found == whole and 0 < len(whole) < len(asked) and sorted(films) == corpus.names[:5]
    scores = narrated_questions.similarities(Reader(), films, found)
    expected = narrated_questions.similarities(Reader(), corpus.films, whole)
    assert np.abs(scores - expected).max() < 0.03, (
        "but for the two levels of grey that JPEG changes: captions are six apart"
    )


def test_two_rows_are_alike_in_a_verb_a_noun_or_both():
    found = narrated_questions.positives(TEXTS).set_index("alike")
    assert found["pairs"].to_dict() == pytest.approx(
        {
            "verb": (2 + 2 + 2 + 0 + 1 + 1) / 6,
            "noun": (2 + 2 + 0 + 2 + 1 + 1) / 6,
            "verb and noun": 4 / 6,
            "text": 2 / 6,
        }
    )
    assert found["rows"].to_dict() == pytest.approx(
        {"verb": 5 / 6, "noun": 5 / 6, "verb and noun": 4 / 6, "text": 2 / 6}
    )


def test_negatives_that_tell_of_the_same_action():
    assert narrated_questions.scene_positives(TEXTS) == 0, "tomato and peel, cheese and oil, ..."
    assert narrated_questions.scene_positives([TEXTS[0], TEXTS[4], TEXTS[1], TEXTS[3]]) == 0.5
