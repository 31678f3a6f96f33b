import numpy as np

from thesis_lib.training.predictions import load_predictions, save_predictions


def test_what_was_saved_is_loaded_in_order(tmp_path):
    predictions = {"rgb-02-1": np.array([[0, 1, 2], [3, 4, 255]]), "rgb-01-1": np.array([[5], [6]])}
    targets = {"rgb-01-1": np.array([7]), "rgb-02-1": np.array([0, 0, 1]), "left-out": np.array([1])}
    save_predictions(tmp_path, predictions, targets)
    names, last, loaded_targets = load_predictions(tmp_path)
    assert names == ["rgb-02-1", "rgb-01-1"]
    assert [labels.tolist() for labels in last] == [[3, 4, 255], [6]]
    assert [labels.tolist() for labels in loaded_targets] == [[0, 0, 1], [7]]
    assert [labels.tolist() for labels in load_predictions(tmp_path, 0)[1]] == [[0, 1, 2], [5]]
