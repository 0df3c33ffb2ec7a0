"""YAML text -> data: strict, and only one kind of error."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fabfile.base import yaml_text

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_what_yaml_writes_is_read_back(value: object) -> None:
    assert yaml_text.parse(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "x:\n  - {a: 1, 'a': 2}", "{a: 1, ? a : 2}", "1: a\n1: b"]
)
def test_a_key_that_is_there_twice_is_an_error(text: str) -> None:
    with pytest.raises(yaml_text.YamlTextError, match=r"is not valid YAML \(line \d+") as caught:
        yaml_text.parse(text)
    assert any("the same key is there twice" in line for line in caught.value.details)


def test_equal_keys_in_two_mappings_and_merged_keys_are_fine() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a, x: 4}\nd: *a"
    assert yaml_text.parse(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 4, "y": 2},
        "d": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    "text",
    [
        "a: 2026-99-99",
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!int ''",
        "a: !!float ''",
        "a: !!int [1]",
        "a: 0b_",
        "a: 0o9\nb: !!int 0o9",
        "a: " + "9" * 5000,
        "? [a]\n: 1",
        "a: !unknown x",
        "a: *nobody",
        "a: =",
        "a: @x",
        "a: %x",
        "a: [",
        "a: 'x",
        "a:\tb: c",
        "a: \x07",
        "\x00",
        "a: 1\n---\na: 2",
        "[" * 600,
        "<<: 1",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_odd_texts_are_one_kind_of_error(text: str) -> None:
    with pytest.raises(yaml_text.YamlTextError, match="is not valid YAML"):
        yaml_text.parse(text)


def test_the_message_itself_never_quotes_the_text() -> None:
    for text in ("a: @geheim", "a: *geheim", "a: !geheim x", "geheim: 1\ngeheim: 2", "a: 'geheim"):
        with pytest.raises(yaml_text.YamlTextError) as caught:
            yaml_text.parse(text)
        assert "geheim" not in str(caught.value)


# Pieces that take YAML's parser into its corners more often than plain random text does.
pieces = st.sampled_from(
    ["a", ":", " ", "\n", "- ", "? ", "&a", "*a", "!!", "!!int ", "!!set ", "<<: *a", "[", "]",
     "{", "}", "|", ">", "'", '"', "\\", "#", "%", "@", "0x", "1_", "~", "---", "...", "\t",
     "2026-13-45", "!!binary ", "!!omap ", "!!pairs ", "!vault ", "1:99", ".inf", "="]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)))
@example("!!set {a, [b]}")
@example("!!omap [{a: 1, b: 2}]")
@example("&a {? *a : *a}")
@example("&a [*a]")
def test_any_text_is_data_or_the_one_error(text: str) -> None:
    problem = "is not valid YAML"
    try:
        yaml_text.parse(text)
    except yaml_text.YamlTextError as error:
        problem = str(error)
    assert problem.startswith("is not valid YAML")
