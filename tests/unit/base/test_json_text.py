"""JSON from outside: one kind of error, whatever is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabfile.backup import set_parsing
from fabfile.base import json_text

BAD = [
    b"", b"{", b"NaN", b"[Infinity]", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000,
    b"1" * 5000, b'"\x00"', b"{} {}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_everything_wrong_is_a_value_error(text):
    with pytest.raises(ValueError):
        json_text.parse(text)


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_manifest_that_cannot_be_parsed_is_damaged_and_no_more(text):
    """Seen: 100,000 brackets ended list, verify and restore with a RecursionError."""
    for parse in (
        lambda: set_parsing.parse_manifest(text, "nocodb"),
        lambda: set_parsing.parse_proof(text),
        lambda: set_parsing.parse_files_state(text),
    ):
        with pytest.raises(ValueError):
            parse()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_what_is_json_is_read(value):
    assert json_text.parse(json.dumps(value)) == value
