"""Reading a backup completely: every way the bytes can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabfile.backup.deep_read import Gunzip, Reading, Verdict, inspect, inspect_other
from fabfile.backup.sets import Recorded

ARCHIVE = b"PGDMP\x01\x0f\x00" + random.Random(7).randbytes(50_000) + b"rows " * 400_000
PACKED = gzip.compress(ARCHIVE, 1)


def in_blocks(data: bytes, size: int = 65_536):
    return [data[i : i + size] for i in range(0, len(data), size)]


def landed(data: bytes, sha256: str | None = None, size: int | None = None) -> Recorded:
    digest = hashlib.sha256(data).hexdigest() if sha256 is None else sha256
    return Recorded("key", len(data) if size is None else size, digest)


class Sink:
    """Takes everything as plain or packed blocks, and says what pg_restore would."""

    def __init__(self, *, packed: bool = False, most: int | None = None, ok: bool = True):
        self.packed, self.most, self.verdict = packed, most, Verdict(ok, "read")
        self.got = b""

    def __call__(self, reading: Reading) -> Verdict:
        for count, block in enumerate(reading.packed() if self.packed else reading.plain(), 1):
            self.got += block
            if count == self.most:
                break
        return self.verdict


def inspected(data: bytes, sink: Sink | None = None, of: Recorded | None = None):
    chosen = sink or Sink()
    checks = inspect(of or landed(data), Reading(in_blocks(data)), lambda _head: chosen)
    assert [check.name for check in checks] == ["sha256", "gzip", "archive"]
    assert all(check.ok or check.hint for check in checks)
    return {check.name: check for check in checks}


def failed(checks):
    return [name for name, check in checks.items() if not check.ok]


@pytest.mark.parametrize("packed", [False, True])
def test_a_good_backup_passes_and_reaches_the_sink_whole(packed):
    sink = Sink(packed=packed)
    assert failed(inspected(PACKED, sink)) == []
    assert sink.got == (PACKED if packed else ARCHIVE)


@pytest.mark.parametrize("packed", [False, True])
def test_a_sink_that_stops_early_does_not_spoil_hash_and_gzip(packed):
    sink = Sink(packed=packed, most=1, ok=False)
    assert failed(inspected(PACKED, sink)) == ["archive"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("missing", [1, 8, 9, 30_000])
def test_a_cut_off_stream_fails(packed, missing):
    cut = PACKED[:-missing]
    checks = inspected(cut, Sink(packed=packed), landed(PACKED))
    assert failed(checks) == ["sha256", "gzip"]
    assert "cut off" in checks["gzip"].detail


def test_an_object_uploaded_cut_off_has_the_right_hash_and_still_fails():
    assert failed(inspected(PACKED[:-100])) == ["gzip"]


def test_another_hash_than_recorded_fails():
    checks = inspected(PACKED, of=landed(PACKED, "b" * 64))
    assert failed(checks) == ["sha256"]
    assert "b" * 64 in checks["sha256"].detail


def test_no_recorded_hash_fails():
    assert failed(inspected(PACKED, of=landed(PACKED, ""))) == ["sha256"]


def test_fewer_bytes_than_listed_fail():
    assert failed(inspected(PACKED, of=landed(PACKED, size=len(PACKED) + 1))) == ["sha256"]


@pytest.mark.parametrize("place", [3000, -5, -2])
def test_a_flipped_bit_fails(place):
    damaged = bytearray(PACKED)
    damaged[place] ^= 1
    assert "gzip" in failed(inspected(bytes(damaged)))


@pytest.mark.parametrize("junk", [b"junk", b"\0" * 600, b"\x1f\x8bnot gzip"])
def test_trailing_garbage_fails(junk):
    checks = inspected(PACKED + junk)
    assert failed(checks) == ["gzip"]
    assert "follow its end" in checks["gzip"].detail


@pytest.mark.parametrize("size", [1, 777, 65_536])
def test_several_members_are_one_stream(size):
    members = b"".join(gzip.compress(part) for part in in_blocks(ARCHIVE, 300_000))
    sink = Sink()
    checks = inspect(landed(members), Reading(in_blocks(members, size)), lambda _head: sink)
    assert all(check.ok for check in checks)
    assert sink.got == ARCHIVE


def test_a_second_member_cut_off_fails():
    assert failed(inspected(PACKED + gzip.compress(b"more")[:-3])) == ["gzip"]


@pytest.mark.parametrize(
    "data",
    [b"", gzip.compress(b""), b"SELECT 1;", gzip.compress(b"SELECT 1;"), b"\x1f\x8b"],
    # The bytes would be the names, and gzip writes the time: no two processes would agree on them.
    ids=["nothing", "packed nothing", "text", "packed text", "gzip's first bytes"],
)
def test_what_is_no_archive_fails_without_a_sink(data):
    sink = Sink()
    assert "archive" in failed(inspected(data, sink))
    assert sink.got == b""


def test_an_empty_object_is_no_gzip_stream():
    assert "gzip" in failed(inspected(b""))


def test_the_sink_is_chosen_by_the_archives_first_bytes():
    heads = []

    def choose(head):
        heads.append(head)
        return Sink()

    inspect(landed(PACKED), Reading(in_blocks(PACKED)), choose)
    assert heads == [ARCHIVE[:4096]]


def test_progress_counts_the_bytes_read():
    counts = []
    reading = Reading(in_blocks(PACKED), counts.append)
    inspect(landed(PACKED), reading, lambda _head: Sink())
    assert counts == sorted(counts)
    assert counts[-1] == len(PACKED)


def test_an_error_of_the_source_is_raised_and_marked():
    def blocks():
        yield PACKED[:40_000]
        raise OSError("gone")

    reading = Reading(blocks())
    with pytest.raises(OSError, match="gone"):
        inspect(landed(PACKED), reading, lambda _head: Sink())
    assert reading.failed


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=4), st.binary(max_size=20), st.integers(1, 900))
def test_agrees_with_the_gzip_module(parts, junk, size):
    stream = b"".join(map(gzip.compress, parts)) + junk
    gunzip = Gunzip()
    out = b"".join(piece for block in in_blocks(stream, size) for piece in gunzip.feed(block))
    gunzip.close()
    if not junk:
        assert gunzip.problem == ("" if parts else "it is empty")
        assert out == b"".join(parts)
    else:
        assert gunzip.problem


def test_memory_stays_bounded_however_much_comes_out():
    bomb = zlib.compressobj(9, wbits=31)
    packed = bomb.compress(b"PGDMP" + bytes(64 * 1024 * 1024)) + bomb.flush()
    assert len(packed) < 100_000
    tracemalloc.start()
    try:
        reading = Reading([packed])
        checks = inspect(landed(packed), reading, lambda _head: _drain)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(check.ok for check in checks)
    assert peak < 8 * 1024 * 1024


def _drain(reading: Reading) -> Verdict:
    for _ in reading.plain():
        pass
    return Verdict(True, "read")


@pytest.mark.parametrize(
    ("data", "of", "said"),
    [
        (PACKED, PACKED, "as recorded, over "),
        (PACKED[:-4] + b"????", PACKED, "differs: "),
        (b"plain text", b"plain text", "broken: "),
        (PACKED[:-9], PACKED[:-9], "cut off"),
    ],
    ids=["good", "changed", "no gzip", "cut off"],
)
def test_a_part_that_is_no_archive(data, of, said):
    check = inspect_other("globals", landed(of), Reading(in_blocks(data)))
    assert check.name == "globals"
    assert check.ok is (said == "as recorded, over ")
    assert said in check.detail
