"""Section: every getter records a mistake with its path and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabfile.base.schema import Section


def section(value: object) -> tuple[Section, list[str]]:
    errors: list[str] = []
    return Section(value, "top", errors), errors


def test_good_values_are_returned_without_a_mistake() -> None:
    top, errors = section(
        {"text": "a b", "number": 5, "flag": True, "word": "x", "time": "2h", "size": "1kB"}
    )
    assert top.text("text") == "a b"
    assert top.integer("number", 1, low=1, high=9) == 5
    assert top.flag("flag", False) is True
    assert top.choice("word", "y", ("x", "y")) == "x"
    assert top.duration("time", 1) == 7200
    assert top.size("size", 1) == 1000
    top.finish()
    assert errors == []


def test_missing_and_null_values_are_the_defaults() -> None:
    top, errors = section({"number": None})
    assert top.text("text", "t") == "t"
    assert top.integer("number", 1, low=1, high=9) == 1
    assert top.flag("flag", True) is True
    assert top.choice("word", "y", ("x", "y")) == "y"
    assert top.duration("time", 7) == 7
    assert top.size("size", 8) == 8
    assert "number" not in top
    top.finish()
    assert errors == []


def test_whole_numbers_are_seconds_and_bytes() -> None:
    top, errors = section({"time": 90, "size": 0})
    assert (top.duration("time", 1), top.size("size", 1), errors) == (90, 0, [])


@pytest.mark.parametrize(
    ("value", "read", "problem"),
    [
        (None, lambda s: s.text("k"), "is missing"),
        ("", lambda s: s.text("k"), "is empty"),
        (8080, lambda s: s.text("k"), "want a text, got 8080 (put it in quotes)"),
        (False, lambda s: s.text("k"), "want a text, got False (put it in quotes)"),
        (["x"], lambda s: s.text("k"), "want a text, got a list"),
        ({}, lambda s: s.text("k"), "want a text, got a mapping"),
        ("a\nb", lambda s: s.text("k"), "must not contain line breaks"),
        ("a\x1b[31m", lambda s: s.text("k"), "must not contain line breaks"),
        ("a\u2028b", lambda s: s.text("k"), "must not contain line breaks"),
        ("\ud800", lambda s: s.text("k"), "must not contain line breaks"),
        ("ab\n", lambda s: s.text("k", pattern="ab"), "must not contain line breaks"),
        ("abc", lambda s: s.text("k", pattern="ab", want="ab"), "'abc' is not valid: want ab"),
        (
            "a" * 500,
            lambda s: s.text("k", pattern="b"),
            "'" + "a" * 76 + "... is not valid: want ",
        ),
        ("5", lambda s: s.integer("k", 1, low=0, high=9), "want a whole number, got '5'"),
        (True, lambda s: s.integer("k", 1, low=0, high=9), "want a whole number, got True"),
        (1.5, lambda s: s.integer("k", 1, low=0, high=9), "want a whole number, got 1.5"),
        (10, lambda s: s.integer("k", 1, low=0, high=9), "10 is out of range: want 0 to 9"),
        pytest.param(
            10**5000,
            lambda s: s.integer("k", 1, low=0, high=9),
            "a huge number is out of range: want 0 to 9",
            id="huge",
        ),
        ("yes", lambda s: s.flag("k", False), "want true or false, got 'yes'"),
        (1, lambda s: s.flag("k", False), "want true or false, got 1"),
        (
            "vipp",
            lambda s: s.choice("k", "vip", ("vip", "dnsrr")),
            "'vipp' is not one of vip, dnsrr, did you mean 'vip'?",
        ),
        ("", lambda s: s.choice("k", "vip", ("vip",)), "'' is not one of vip"),
        (5, lambda s: s.choice("k", "vip", ("vip",)), "want a text, got 5 (put it in quotes)"),
        ("26x", lambda s: s.duration("k", 1), "'26x': want a duration such as"),
        (True, lambda s: s.duration("k", 1), "True: want a text such as '26h'"),
        (1.5, lambda s: s.duration("k", 1), "1.5: want a text such as '26h'"),
        (-1, lambda s: s.duration("k", 1), "-1 is out of range: want 0 to"),
        (59, lambda s: s.duration("k", 61, low=60, high=90), "out of range: want 60 to 90 seconds"),
        ("2m", lambda s: s.duration("k", 61, low=60, high=90), "'2m' is out of range"),
        ("99999w", lambda s: s.duration("k", 1), "'99999w' is out of range"),
        ("10XB", lambda s: s.size("k", 1), "'10XB': want a size such as"),
        ([1], lambda s: s.size("k", 1), "a list: want a text such as"),
        ("2000TiB", lambda s: s.size("k", 1), "is out of range: want 0 to 1 PiB"),
        ("x", lambda s: s.section("k"), "want a mapping (key: value), got 'x'"),
        ([1], lambda s: s.section("k"), "want a mapping (key: value), got a list"),
    ],
)
def test_a_bad_value_is_one_mistake_with_its_path(value: object, read: Any, problem: str) -> None:
    top, errors = section({"k": value})
    read(top)
    top.finish()
    assert len(errors) == 1
    assert errors[0].startswith("top.k: ")
    assert problem in errors[0]


def test_after_a_mistake_the_default_goes_on() -> None:
    top, _ = section({"a": 1, "b": "x", "c": "x", "d": "x", "e": "x", "f": []})
    assert top.text("a", "t") == "t"
    assert top.integer("b", 3, low=1, high=9) == 3
    assert top.flag("c", True) is True
    assert top.choice("d", "y", ("y",)) == "y"
    assert top.duration("e", 5) == 5
    assert top.size("f", 6) == 6


def test_unknown_keys_come_with_a_suggestion() -> None:
    top, errors = section({"adress": "x", "zzz": 1, 5: 1, "a\nb": 1, None: 2})
    top.text("address", "")
    top.finish()
    assert errors == [
        "top.adress: unknown key, did you mean 'address'?",
        "top.zzz: unknown key",
        "top.5: unknown key",
        "top.'a\\nb': unknown key",
        "top.None: unknown key",
    ]


def test_names_must_be_texts() -> None:
    top, errors = section({"a": {}, 1: {}, "b": 5})
    assert [name for name, _ in top.sections()] == ["a", "b"]
    assert errors == ["top.1: want a name, got 1", "top.b: want a mapping (key: value), got 5"]


def test_a_small_file_with_enormous_data_is_refused_quickly() -> None:
    bomb: list[object] = ["x"]
    for _ in range(60):  # 2**60 leaves, if anybody ever wrote them out
        bomb = [bomb, bomb]
    top, errors = section({"a": bomb, "b": bomb, "c": bomb, "d": bomb})
    top.text("a", "")
    top.duration("b", 1)
    top.section("c")
    top.flag("d", False)
    assert len(errors) == 4


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from("abcdef"), json_like) | json_like)
def test_no_value_makes_a_getter_raise_and_every_mistake_is_one_line(value: object) -> None:
    top, errors = section(value)
    assert isinstance(top.text("a", ""), str)
    assert 1 <= top.integer("b", 1, low=1, high=9) <= 9
    assert isinstance(top.flag("c", False), bool)
    assert top.choice("d", "x", ("x", "y")) in ("x", "y")
    assert 1 <= top.duration("e", 5, low=1, high=10) <= 10
    assert top.size("f", 0) >= 0
    list(top.sections())
    top.finish()
    for line in errors:
        assert line.startswith("top")
        assert len(line.splitlines()) == 1
        assert line.isprintable()
