"""Switches of extraction: every other value once, differences of a known size, what cannot run is not run."""

import numpy as np
import pytest

from thesis_lib import extraction, extraction_switches

SETTINGS = dict(backbone="r50", flow="tvl1", window=5, size=32, color="rgb", head="adaptive", mode="exact")
SETTINGS |= dict(padding="grey", last_frame="seen")


def test_each_switch_takes_each_of_its_other_values_once():
    found = extraction_switches.alternatives(SETTINGS)
    others = {name: [other for switch, _, other in found if switch == name] for name, _, _ in found}
    assert others == {
        "color": ["bgr"],
        "padding": ["black", "edge"],
        "last_frame": ["unseen"],
        "size": [28],
        "head": ["window"],
    }
    assert all(value == SETTINGS[name] for name, value, _ in found)
    assert ("padding", "edge", "grey") in extraction_switches.alternatives(SETTINGS | {"padding": "edge"})
    assert "head" not in [name for name, *_ in extraction_switches.alternatives(SETTINGS | {"backbone": "inception"})]


def test_differences_are_of_the_vectors_that_changed():
    before = np.array([[3.0, 0.0, 1.0, 1.0], [4.0, 2.0, 0.0, 0.0]])
    after = before.copy()
    after[:, 1] = [2.0, 0.0]  # turned by a right angle
    assert extraction_switches.difference(before, before) == {"changed": 0, "cosine": 1.0, "relative": 0}
    found = extraction_switches.difference(before, after)
    assert found["changed"] == 0.25 and found["cosine"] == 0
    assert found["relative"] == pytest.approx(np.sqrt(2)), "of the one vector that changed"


def test_a_row_a_value_over_all_videos_and_nan_where_it_cannot_run():
    asked = []

    def extractor(**settings):
        def extract(video):
            asked.append((video, settings))
            if settings["head"] == "window":
                raise ValueError("too small")
            vectors = np.ones((2, 3))
            vectors[0, 0] += settings["padding"] != "grey"
            return vectors

        return extract

    rows = extraction_switches.measure(extractor, ["a", "b"], SETTINGS)
    changed = dict(zip(zip(rows["switch"], rows["changed to"], strict=True), rows["changed"], strict=True))
    assert changed["color", "bgr"] == 0 and changed["padding", "edge"] == pytest.approx(1 / 3)
    assert np.isnan(changed["head", "window"]) and rows.dropna().shape[0] == len(rows) - 1
    one_at_a_time = [sum(settings[name] != SETTINGS[name] for name in SETTINGS) for _, settings in asked]
    assert max(one_at_a_time) == 1 and {video for video, _ in asked} == {"a", "b"}


def test_choices_of_the_protocol_are_all_in_the_table():
    known = {name for name, *_ in extraction_switches.alternatives(SETTINGS)}
    assert known == set(SETTINGS) - {"backbone", "flow", "window", "mode"} and extraction.PADDINGS[0] == "grey"
