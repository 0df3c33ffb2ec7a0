"""Filling in compose files: nothing in a value can change the structure or reach a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fabfile.base.errors import ConfigError
from fabfile.deploy import compose_file


def docker_interpolates(text: str) -> str:
    """What `docker stack deploy` makes of $$; any other dollar would be a variable."""
    assert "$" not in text.replace("$$", "")
    return text.replace("$$", "$")


def walk(data, change):
    if isinstance(data, dict):
        return {change(k): walk(v, change) for k, v in data.items()}
    if isinstance(data, list):
        return [walk(v, change) for v in data]
    return change(data) if isinstance(data, str) else data


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_any_value_arrives_as_it_is(value):
    filled = compose_file.fill({"a": "${x}", "b": ["pre ${x} post"]}, {"x": value}, "t")
    seen = walk(yaml.safe_load(compose_file.to_stack_input(filled)), docker_interpolates)
    assert seen == {"a": value, "b": [f"pre {value} post"]}


def test_a_whole_value_keeps_its_type():
    assert compose_file.fill({"replicas": "${n}"}, {"n": 3}, "t") == {"replicas": 3}


def test_none_leaves_the_entry_out():
    filled = compose_file.fill(
        {"env": {"A": "${a}", "B": "b"}, "l": ["${a}", "x"]}, {"a": None}, "t"
    )
    assert filled == {"env": {"B": "b"}, "l": ["x"]}


def test_names_in_keys_and_escaped_dollars():
    assert compose_file.fill({"${s}": "$$HOME"}, {"s": "db"}, "t") == {"db": "$HOME"}


def test_unknown_name_says_where_and_what_is_known():
    with pytest.raises(ConfigError) as caught:
        compose_file.fill(
            {"services": {"db": {"image": "${imgae}"}}}, {"image": "x"}, "compose-db.yml"
        )
    assert caught.value.message == "compose-db.yml.services.db.image: unknown name ${imgae}"
    assert "image" in caught.value.hint


def test_lone_dollar_is_refused():
    with pytest.raises(ConfigError, match="a lone"):
        compose_file.fill({"a": "cost $5"}, {}, "t")


@pytest.mark.parametrize("text", ["", "- a\n", "services: 3\n", "a: [", "services:\n  - x\n"])
def test_broken_files_are_refused(tmp_path: Path, text):
    path = tmp_path / "compose.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"compose\.yml"):
        compose_file.load(path)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such compose file"):
        compose_file.load(tmp_path / "gone.yml")
