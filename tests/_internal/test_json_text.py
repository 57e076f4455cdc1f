"""JSON that is corrupt, too deep or too large is refused with an error that names the file."""

import pytest

from edmfast._internal.json_text import parse_json, shortened


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "3",
        "{",
        '{"a": 1}x',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": ' + "[" * 70 + "]" * 70 + "}",
        '{"a": ' + '{"a": ' * 70 + "1" + "}" * 70 + "}",
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "9" * 30 + "}",
    ],
)
def test_bad_text(text):
    with pytest.raises(ValueError, match="the-file has corrupt metadata"):
        parse_json("the-file", text)


def test_good_text():
    content = {"a": [1, 2.5, None, True, {"b": "c"}], "seed": 2**64 - 1, "low": -(2**63)}
    text = '{"a": [1, 2.5, null, true, {"b": "c"}], "seed": 18446744073709551615, "low": -9223372036854775808}'
    assert parse_json("the-file", text) == content


def test_long_values_are_cut():
    assert shortened([1, 2]) == "[1, 2]"
    assert len(shortened("x" * 1000)) == 201
