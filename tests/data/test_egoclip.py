"""EgoClip's files, scene-aware negatives, and verbs and nouns of narrations."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib.data import egoclip
from thesis_lib.data.captions import read_captions
from thesis_lib.data.egoclip import KITCHEN, Question, Scenes, Taxonomy, verb_and_noun
from thesis_lib.losses import ego_nce_loss
from thesis_lib.palette import CLASSES

LINE = "0\tv1\t480.5\tnarration_pass_1\t3\t12.5\t11.9\t13.1\t#C C cuts the tomato\t[93, 4]\t[561]\n"
HEAD = "\t".join(egoclip.COLUMNS) + "\n"


# -- files -------------------------------------------------------------------------------------------------------------


def test_egoclip_is_read_and_written_as_it_was(tmp_path):
    path = tmp_path / "egoclip.csv"
    path.write_text(HEAD + LINE + LINE.replace("[561]", "[]").replace("v1", "007"))
    table = egoclip.read_egoclip(path)
    assert table["tag_verb"].tolist() == [[93, 4], [93, 4]] and table["tag_noun"].tolist() == [[561], []]
    assert table["video_uid"].tolist() == ["v1", "007"] and table["clip_start"].tolist() == [11.9, 11.9]
    egoclip.write_egoclip(tmp_path / "again.csv", table)
    assert (tmp_path / "again.csv").read_text() == path.read_text()
    nouns = egoclip.multi_hot(table["tag_noun"], egoclip.NUM_NOUNS)
    assert nouns.shape == (2, 582) and nouns.sum() == 1 and nouns[0, 561] == 1


def test_tags_are_found_again_by_narration(tmp_path):
    path, again = tmp_path / "egoclip.csv", LINE.replace("[93, 4]", "[7]").replace("#C C cuts", "#O cuts")
    path.write_text(HEAD + LINE + again + LINE.replace("cuts the tomato", "waits").replace("[561]", "[]"))
    table = egoclip.read_egoclip(path)
    egoclip.write_tags(tmp_path / "tags.json", table)
    egoclip.write_captions(tmp_path / "raw_caption.json", table)
    said = [text for own in json.loads((tmp_path / "raw_caption.json").read_text()).values() for text in own["text"]]
    nouns, verbs = egoclip.Tags(tmp_path / "tags.json").tags([*dict.fromkeys(said), "never said"])
    assert nouns.shape == (3, egoclip.NUM_NOUNS) and verbs.shape == (3, egoclip.NUM_VERBS)
    assert [np.flatnonzero(row).tolist() for row in nouns] == [[561], [], []]
    assert [np.flatnonzero(row).tolist() for row in verbs] == [[4, 7, 93], [4, 93], []], "of both clips of a text"
    (tmp_path / "tags.json").write_text('{"cut": [[582], []]}')
    with pytest.raises(
        ValueError, match=r"tags.json: 'cut': \[\[582\], \[\]\]: expected \[nouns below 582, verbs below 118\]"
    ):
        egoclip.Tags(tmp_path / "tags.json")


def test_what_is_wrong_with_an_egoclip_file_is_said(tmp_path):
    path = tmp_path / "egoclip.csv"
    with pytest.raises(ValueError, match="no such file"):
        egoclip.read_egoclip(path)
    path.write_text(HEAD.replace("\ttag_noun", "") + LINE.rpartition("\t")[0] + "\n")
    with pytest.raises(ValueError, match="column 'tag_noun' missing, found clip_idx, "):
        egoclip.read_egoclip(path)
    path.write_text(HEAD + LINE + LINE.replace("[93, 4]", "__import__('os')"))
    with pytest.raises(ValueError, match="line 3: tag_verb is .*: expected a list of numbers such as"):
        egoclip.read_egoclip(path)


def questions():
    clips = [(f"v{k}", 2.0 * k, 2.0 * k + 1, f"text {k}") for k in range(5)]
    same = [("v0", 9.0 * k, 9.0 * k + 1, f"other {k}") for k in range(5)]
    return [Question("text 3", clips, 3, egoclip.INTER), Question("other 0", same, 0, egoclip.INTRA)]


def test_egomcq_is_read_and_written(tmp_path):
    path = tmp_path / "egomcq.json"
    egoclip.write_egomcq(path, questions() * 6)
    content = json.loads(path.read_text())
    assert list(content["0"]) == ["answer", "query", "choices", "types"] and list(content["0"]["choices"]) == list(
        "01234"
    )
    assert content["0"]["query"]["clip_text"] == "text 3" and content["0"]["query"]["video_uid"] == "v3"
    shuffled = dict(sorted(content.items(), reverse=True))
    path.write_text(json.dumps(shuffled))
    assert egoclip.read_egomcq(path) == questions() * 6, "in the order of numbers: 2 before 10"


def test_what_is_wrong_with_a_question_is_said(tmp_path):
    path = tmp_path / "egomcq.json"
    egoclip.write_egomcq(path, questions())
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"4": {**content["0"], "answer": 5}}))
    with pytest.raises(ValueError, match="question 4: answer 5 of 5 choices, type 1"):
        egoclip.read_egomcq(path)
    del content["1"]["types"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="question 1 lacks 'types'"):
        egoclip.read_egomcq(path)


def test_drawn_questions_are_of_their_types():
    clips = [(f"v{k // 12}", k % 12, k % 12 + 1.0, f"text {k * 7 % 30}") for k in range(84)]
    drawn = egoclip.draw_questions(clips, 50, np.random.default_rng(0))
    assert [q.type for q in drawn] == [egoclip.INTER] * 50 + [egoclip.INTRA] * 50
    for question in drawn:
        assert len({text for *_, text in question.choices}) == 5 and set(question.choices) <= set(clips)
        assert question.query == question.choices[question.answer][3]
        assert len({video for video, *_ in question.choices}) == (5 if question.type == egoclip.INTER else 1)
    assert set(Counter(q.answer for q in drawn)) == set(range(5))
    assert drawn == egoclip.draw_questions(clips, 50, np.random.default_rng(0))
    with pytest.raises(ValueError, match="4 videos, 4 of them with 5 different texts: too few to ask"):
        egoclip.draw_questions(clips[:48], 1, np.random.default_rng(0))


# -- scenes ------------------------------------------------------------------------------------------------------------


def test_a_negative_is_of_the_same_video_and_minute():
    rng = np.random.default_rng(0)
    videos = [f"v{k}" for k in rng.integers(5, size=300)]
    times = rng.uniform(0, 400, size=300)
    scenes = Scenes(videos, times)
    for row in range(300):
        mates = {k for k in range(300) if videos[k] == videos[row] and times[k] // 60 == times[row] // 60} - {row}
        drawn = {scenes.partner(row, rng) for _ in range(40)}
        if mates:
            assert drawn <= mates and (len(mates) > 5 or drawn == mates)
        else:
            nearest = min(
                (k for k in range(300) if videos[k] == videos[row] and k != row),
                key=lambda k: abs(times[k] - times[row]),
            )
            assert drawn == {nearest}
    assert scenes.partner(0, np.random.default_rng(1)) == scenes.partner(0, np.random.default_rng(1))


def test_where_there_is_no_other_clip_the_choice_is_fixed():
    scenes = Scenes(["a", "a", "a", "b"], [10, 100, 190, 5])
    assert [scenes.partner(row, np.random.default_rng(row)) for row in range(4)] == [1, 0, 1, 0]
    assert Scenes(["a", "a", "b"], [1, 50, 9], seconds=10).partner(2, np.random.default_rng(0)) == 0
    with pytest.raises(ValueError, match="1 clips: a negative needs a second one"):
        Scenes(["a"], [1])


# -- verbs and nouns ---------------------------------------------------------------------------------------------------


def test_class_names_are_a_verb_and_a_noun():
    assert verb_and_noun("cut_tomato") == ("cut", "tomato")
    assert verb_and_noun("place cheese into bowl") == ("place", "cheese")
    assert verb_and_noun("serve_salad_onto_plate") == ("serve", "salad")
    assert verb_and_noun("action_start") == ("start", "action") and verb_and_noun("wait") == ("wait", "")
    names = list(CLASSES)[:19]
    assert len({verb_and_noun(name) for name in names}) == 19, "the two tell all classes apart"
    taxonomy = Taxonomy.of_names(names)
    assert set(taxonomy.verbs) == set("cut place peel add mix serve start end".split())
    assert set(taxonomy.verbs) <= set(KITCHEN.verbs)
    nouns = {"ingredients": "ingredient"}
    assert {nouns.get(noun, noun) for noun in taxonomy.nouns} <= set(KITCHEN.nouns)


@pytest.mark.parametrize("taxonomy", [KITCHEN, Taxonomy.of_names(list(CLASSES)[:19])])
def test_classes_are_positives_of_themselves_alone(taxonomy):
    names = list(CLASSES)[:19]
    nouns, verbs = taxonomy.tags(names)
    shared = (nouns @ nouns.T > 0) & (verbs @ verbs.T > 0)
    assert np.array_equal(shared, np.eye(19, dtype=bool))


def test_words_are_found_in_their_forms():
    taxonomy = Taxonomy(
        ("cut", "place", "dry", "wash", "peel", "mix"), ("tomato", "cherry", "olive oil", "oil", "olive")
    )

    def found(text):
        nouns, verbs = taxonomy.words(text)
        return [taxonomy.nouns[k] for k in nouns], [taxonomy.verbs[k] for k in verbs]

    assert found("I keep cutting the tomatoes") == (["tomato"], ["cut"])
    assert found("Placed, dried and washed: cherries!") == (["cherry"], ["place", "dry", "wash"])
    assert found("placing olive oil") == (["olive oil", "oil", "olive"], ["place"])
    assert found("#C C peels; mixing") == ([], ["peel", "mix"])
    assert found("a cute placenta, foiled") == ([], [])
    both = taxonomy | Taxonomy(("cut", "eat"), ("oil", "plum"))
    assert both.verbs == (*taxonomy.verbs, "eat") and both.nouns == (*taxonomy.nouns, "plum")
    nouns, verbs = taxonomy.tags(["cut_tomato", "nothing of it"])
    assert nouns.shape == (2, 5) and verbs.shape == (2, 6) and nouns.dtype == np.float32
    assert nouns[1].sum() == verbs[1].sum() == 0 and nouns[0, 0] == verbs[0, 0] == 1
    assert taxonomy.tags([])[0].shape == (0, 5)


def test_captions_of_one_action_are_positives_of_each_other():

    texts = ["now we cut the tomato", "keep cutting tomatoes", "place the tomato", "cut the cheese", "please subscribe"]
    nouns, verbs = map(torch.from_numpy, KITCHEN.tags(texts))
    similarities = torch.zeros(5, 5)
    together, apart = (ego_nce_loss(similarities, *words) for words in ((nouns, verbs), (nouns * 0, verbs)))
    assert apart.item() == pytest.approx(2 * np.log(5)) and together < apart
    shared = (nouns @ nouns.T > 0) & (verbs @ verbs.T > 0)
    assert shared.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [3, 3]], "chatter has no words"


def test_a_table_made_of_captions_is_an_egoclip_file(tmp_path):
    rows = [
        (0, "v1", 60.0, "asr", 0, 5.0, 4.0, 6.0, "cut the tomato", *map(list, KITCHEN.words("cut the tomato")[::-1]))
    ]
    egoclip.write_egoclip(tmp_path / "egoclip.csv", pd.DataFrame(rows, columns=egoclip.COLUMNS))
    again = egoclip.read_egoclip(tmp_path / "egoclip.csv").iloc[0]
    assert [KITCHEN.verbs[k] for k in again["tag_verb"]] == ["cut"]
    assert [KITCHEN.nouns[k] for k in again["tag_noun"]] == ["tomato"]


def test_narrations_become_captions_in_the_layout_of_howto100m(tmp_path):
    said = [("b", 4.0, 5.5, "#C C cuts a tomato"), ("a", 2.0, 3.0, "#O A man X opens a jar")]
    rows = [*said, ("b", 1.0, 2.0, "C pours oil")]
    table = pd.DataFrame(rows, columns=["video_uid", "clip_start", "clip_end", "clip_text"])
    egoclip.write_captions(tmp_path / "raw_caption.json", table)
    found = read_captions(tmp_path / "raw_caption.json")
    assert list(found) == ["a", "b"] and list(found["b"].texts) == ["pours oil", "cuts a tomato"]
    assert found["b"].starts.tolist() == [1.0, 4.0] and found["b"].ends.tolist() == [2.0, 5.5]
    assert "opens a jar" in found["a"].texts[0]
