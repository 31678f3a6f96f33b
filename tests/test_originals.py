"""The list of mistakes: complete lines, and switches that exist."""

import pytest

from thesis_lib import originals, params


def test_every_line_is_complete():
    table = originals.table()
    assert len(table) == len(originals.MISTAKES) and (table.map(len) > 0).all().all()
    assert table["mistake or contradiction"].is_unique


@pytest.mark.parametrize("switch", [switch for _, _, switch, _ in originals.MISTAKES if switch])
def test_switches_are_parameters_and_take_the_value(switch):
    number, _, setting = switch.partition(" ")
    name, equals, value = setting.partition("=")
    parameter = params.declared(params.find(number))[name]
    if equals:
        value = [value] if getattr(parameter.type, "__origin__", None) is list else value
        params.layered(params.find(number), "smoke", {name: value})


def test_a_switch_that_is_gone_is_an_error():
    assert originals.repeated("02 color=bgr") == "color = bgr in 02"
    assert originals.repeated("") == "not repeated here"
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        originals.repeated("02 colour=bgr")
