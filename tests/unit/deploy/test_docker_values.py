"""Values as Docker's client reads them; the expected ones are what it was seen to make of them."""

from __future__ import annotations

import pytest

from fabfile.deploy import docker_values as values
from fabfile.deploy.service_spec_parts import capabilities, hosts, ports


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"), (3.0, "3"), (1e21, "1e+21"), (1e20, "100000000000000000000"),
        (0.0001, "0.0001"), (0.00001, "1e-05"), (-2.5e-7, "-2.5e-07"), (0.1, "0.1"),
        (float("inf"), "+Inf"), (float("nan"), "NaN"), (0.0, "0"), (None, ""), (True, "true"),
        ("x", "x"), (12, "12"), (123456789.125, "123456789.125"),
    ],
)  # fmt: skip
def test_scalars_are_printed_as_go_prints_them(value, text):
    assert values.text(value) == text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("a b", ["a", "b"]), ("a#b # c\nd", ["a#b", "d"]), (r'"a\nb" \'', ["anb", "'"]),
        (r"'c\d'", [r"c\d"]), ("x ''", ["x", ""]), ('a"b c"d', ["ab cd"]), ("", []),
        (["as", "it is"], ["as", "it is"]),
    ],
)  # fmt: skip
def test_commands_are_split_as_docker_splits_them(command, words):
    assert values.words(command) == words


@pytest.mark.parametrize("command", ["'open", '"open', "end\\"])
def test_unfinished_quotes_are_left_to_docker(command):
    with pytest.raises(values.CannotCompareError):
        values.words(command)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("0", 0), ("500ms", 5 * 10**8), ("1µs", 1000),
     ("1h1m1s1ms", 3661001 * 10**6)],
)  # fmt: skip
def test_durations(text, nanoseconds):
    assert values.nanoseconds(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "soon", "1", "1d", "s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=text or "^$"):
        values.nanoseconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("50M", 50 * 2**20), ("1.5gib", 3 * 2**29), ("64mb", 2**26), (1024, 1024), ("5 kB", 5120)],
)
def test_sizes(text, size):
    assert values.size(text) == size


@pytest.mark.parametrize(
    ("port", "pairs"),
    [
        ("9000-9002", [(0, 9000), (0, 9001), (0, 9002)]),
        ("8100-8101:100-101", [(8100, 100), (8101, 101)]),
        ("8200-8201:84", [(8200, 84), (8201, 84)]),
        ("127.0.0.1:8085:85", [(8085, 85)]),
        ("0.0.0.0::92", [(0, 92)]),
    ],
)
def test_ports_in_their_short_form(port, pairs):
    assert [(p["PublishedPort"], p["TargetPort"]) for p in ports([port])] == pairs


def test_ranges_of_other_lengths_are_left_to_docker():
    with pytest.raises(ValueError, match="zip"):
        ports(["8100-8102:100-101"])


def test_capabilities_that_are_added_are_not_dropped():
    assert capabilities(["sys_time", "KILL"], ["CAP_SYS_TIME", "chown"]) == (
        ["CAP_KILL", "CAP_SYS_TIME"], ["CAP_CHOWN"],
    )  # fmt: skip
    assert capabilities(["ALL", "KILL"], ["ALL"]) == (["ALL"], [])
    assert capabilities(None, ["all", "kill"]) == ([], ["ALL"])


def test_hosts_keep_the_order_of_a_list_and_sort_a_mapping():
    assert hosts(["b:10.0.0.1", "a:::1"]) == ["10.0.0.1 b", "::1 a"]
    assert hosts({"b": "10.0.0.1", "a": "::1", "c": None}) == ["::1 a", "10.0.0.1 b"]
