"""What the tests of training share."""

import pytest

from thesis_lib.training import loop


@pytest.fixture(autouse=True)
def every_epoch_has_a_checkpoint(monkeypatch):
    """The epochs of tests are short, and what goes on after a kill is to go on from the middle."""
    monkeypatch.setattr(loop, "SPARED", 0.0)
