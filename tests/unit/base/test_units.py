"""Durations, sizes, cron schedules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabfile.base.units import check_cron, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("26h", 93600),
        ("1d 2h", 93600),
        ("1d2h", 93600),
        (" 10 m ", 600),
        ("2w", 1209600),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "h", "1.5h", "-1h", "1h,", "1y", "1H", "1h x", "x1h", "9" * 400 + "h", "٣h"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="want a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("10MiB", 10 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("1 kB", 1000),
        ("2TiB", 2 * 2**40),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "1,5GB", "-1", "1mib", "1PB", "1e9", "inf", "9" * 400, "9" * 400 + "TiB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="want a size"):
        parse_size(text)


@given(st.text() | st.text("0123456789 .hmdsBGi*,/-@"))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    for parse in (parse_duration, parse_size, check_cron):
        reason = "none needed"
        try:
            parse(text)
        except ValueError as error:
            reason = str(error)
        assert reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (200, "3m 20s"),
        (93600, "1d 2h"),
        (93661, "1d 2h"),
        (86460, "1d 1m"),
        (-200, "-3m 20s"),
    ],
)
def test_durations_are_shown(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=10, max_value=10**9))
def test_a_shown_duration_is_never_longer_and_nearly_the_same(seconds: int) -> None:
    shown = parse_duration(format_duration(seconds))
    assert shown <= seconds
    assert seconds - shown < max(1, seconds / 23)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (12_897_485, "12.3 MiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_sizes_are_shown(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=2**50))
def test_a_shown_size_reads_back_nearly_the_same(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= max(1, size * 0.05)


@pytest.mark.parametrize(
    "text",
    [
        "15 2 * * *",
        "* * * * *",
        "*/5 0-23/2 1,15 jan-mar MON-FRI",
        "0 0 * * 7",
        "59 23 31 12 0",
        "@daily",
        "@hourly",
    ],
)
def test_schedules(text: str) -> None:
    assert check_cron(text) == text


def test_a_schedule_is_written_with_single_spaces() -> None:
    assert check_cron("  15   2 * *  * ") == "15 2 * * *"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "five cron fields"),
        ("15 2 * *", "five cron fields"),
        ("15 2 * * * root", "five cron fields"),
        ("@reboot", "five cron fields"),
        ("@Daily", "five cron fields"),
        ("60 2 * * *", "minute: want 0 to 59"),
        ("0 24 * * *", "hour: want 0 to 23"),
        ("0 0 0 * *", "day of month: want 1 to 31"),
        ("0 0 * 13 *", "month: want 1 to 12"),
        ("0 0 * foo *", "month: want 1 to 12"),
        ("0 0 * * 8", "day of week: want 0 to 7"),
        ("0 0 * * jan", "day of week: want 0 to 7"),
        ("30-10 0 * * *", "it is empty"),
        ("*/0 0 * * *", "it is empty"),
        ("5/2 0 * * *", "a step needs a range"),
        ("1,,2 0 * * *", "is not a cron minute"),
        ("-1 0 * * *", "is not a cron minute"),
        ("% 0 * * *", "is not a cron minute"),
        ("0 $(id) * * *", "is not a cron hour"),
        ("² 0 * * *", "is not a cron minute"),
    ],
)
def test_no_schedules(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_cron(text)
    assert problem in str(caught.value)
