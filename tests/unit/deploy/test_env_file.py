"""Environment files, as Docker 20.10 and its client 28 were seen to read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabfile.base.errors import ConfigError
from fabfile.deploy import env_file

PATH = Path("/x/nc.env")
CONTENT = (
    b'\xef\xbb\xbf# comment\n  A=1 \nB="quoted"\r\nC=\n\tD=x=y # no comment\nA=second\n\n'
    b"   \nHOME\n"
    b"F$G=${H}\n\xc2\xa0N=nbsp\nAT\x0bX=vt\nZ\xc2\xa0=9\n"
)


def test_a_file_is_read_as_docker_reads_it():
    assert env_file.parse(CONTENT, PATH, {"HOME": "/root"}) == {
        "A": "second",
        "B": '"quoted"',
        "C": "",
        "D": "x=y # no comment",
        "HOME": "/root",
        "F$G": "${H}",
        "N": "nbsp",
        "AT\x0bX": "vt",
        "Z\xa0": "9",
    }


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b"A=1\n=secret\n", 2, "no name"),
        (b"export A=secret\n", 1, "a blank"),
        (b"A =secret", 1, "a blank"),
        (b"A=1\r\n\r\nB=\xff", 3, "not UTF-8"),
        (b"ONLY_A_NAME", 1, "ONLY_A_NAME has no value"),
    ],
)
def test_what_docker_would_not_take_names_the_line_and_not_the_value(content, line, what):
    with pytest.raises(ConfigError) as caught:
        env_file.parse(content, PATH, {})
    assert caught.value.message.startswith(f"{PATH}: line {line}: ")
    assert what in caught.value.message
    assert caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint
