"""The picture of pseudo-labels shows the box, the names and which boxes the loss passes over."""

import matplotlib as mpl
import numpy as np

from thesis_lib.entity_charts import regions
from thesis_lib.figures import to_svg
from thesis_lib.palette import FAINT, OURS


def test_boxes_and_bars():
    frames = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3)).astype(np.uint8)
    boxes = np.array([[2, 4, 4, 4], [0, 0, 4, 6]])
    entities = [[("oil", 0.6), ("salt", 0.3)], [("cut_bread", 0.15), ("bowl", 0.1)]]
    figure = regions(frames, boxes, entities)
    pictures, charts = figure.axes[:2], figure.axes[2:]
    for picture, frame, (left, top, wide, high) in zip(pictures, frames, boxes, strict=True):
        shown = picture.images[0].get_array()
        inside = np.s_[top : top + high, left : left + wide]
        assert np.array_equal(shown[inside], frame[inside])
        outside = np.ones((8, 8), dtype=bool)
        outside[inside] = False
        assert (shown[outside] >= frame[outside]).all() and shown[outside].min() >= 170, "dimmed"
        outline = picture.patches[0]
        assert (*outline.get_xy(), outline.get_width(), outline.get_height()) == (left - 0.5, top - 0.5, wide, high)
    colors = [mpl.colors.to_hex(chart.patches[0].get_facecolor()) for chart in charts]
    assert colors == [OURS, FAINT], "grey below the threshold"
    assert [bar.get_width() for bar in charts[0].patches] == [0.6, 0.3]
    assert [text.get_text() for text in charts[1].texts] == ["cut bread", "bowl"]
    assert to_svg(figure) == to_svg(regions(frames, boxes, entities))
