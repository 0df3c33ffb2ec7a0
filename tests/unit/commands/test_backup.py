"""inv backup.list and backup.verify as people type them, over real HTTP: text, JSON, codes."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from invoke.collection import Collection

from fabfile.commands import backup
from tests.unit.command_line import runner
from tests.unit.s3_server import BUCKET, refuse, write_hosts

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ARCHIVE = gzip.compress(b"PGDMP" + random.Random(1).randbytes(30_000) + b"END", 1)
PLACE = "s3://test-bucket/postgres/nocodb/"

PG_RESTORE = """#!/bin/sh
[ "$(tail -c 3)" = END ] || { echo "pg_restore: error: end of file" >&2; exit 1; }
"""


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def server(server, monkeypatch, tmp_path):
    monkeypatch.setenv("SWARMKEEP_HOSTS", str(write_hosts(tmp_path, server.url)))
    return server


@pytest.fixture
def inv(capsys):
    return runner(Collection(Collection.from_module(backup)), capsys)


@pytest.fixture
def good(server):
    """Eight daily backups; returns the key of the newest."""
    keys = [server.put(now() - HOUR - i * DAY, ARCHIVE) for i in range(8)]
    return keys[0]


def failed(document) -> list[str]:
    return [check["name"] for check in document["checks"] if not check["ok"]]


# --- verify ------------------------------------------------------------------------------------


def test_a_good_backup_is_exit_code_0(good, inv):
    code, out, err = inv("backup.verify")
    assert code == 0
    assert err == ""
    assert good in out
    assert len(re.findall(r"^ *ok ", out, re.M)) == 9
    assert "FAILED" not in out
    assert f"{PLACE}: 5 requests" in out


def test_json_is_one_document_and_nothing_else(good, inv):
    code, out, err = inv("backup.verify", "--json")
    document = json.loads(out)
    assert code == 0
    assert err == ""
    assert document["ok"] is True
    assert document["bucket"] == BUCKET
    assert document["key"] == good
    assert document["requests"] == 5
    assert 0 < document["seconds"] < 60
    assert [check["name"] for check in document["checks"]] == [
        "found", "fresh", "size", "shrunk", "complete", "proven", "project",
        "cluster", "clock",
    ]  # fmt: skip


def test_an_empty_bucket_fails(server, inv):
    code, out, err = inv("backup.verify")
    assert code == 4
    assert f"no backup in {PLACE}" in out
    assert f"error: the backup of nocodb in {PLACE} failed 1 of 1 checks: found" in err
    assert "next: inv backup.logs" in err


def test_an_empty_bucket_fails_in_json_too(server, inv):
    code, out, _ = inv("backup.verify", "--json")
    document = json.loads(out)
    assert code == 4
    assert document["ok"] is False
    assert document["key"] is None


def put_stale(server):
    for i in range(8):
        server.put(now() - (i + 2) * DAY, ARCHIVE)


def put_small(server):
    for i in range(8):
        server.put(now() - HOUR - i * DAY, b"x" * 100)


def put_shrunk(server):
    for i in range(8):
        server.put(now() - HOUR - i * DAY, b"x" * (20_000 if i == 0 else 50_000))


def put_truncated(server):
    keys = [server.put(now() - HOUR - i * DAY) for i in range(8)]
    server.put_object(keys[0].replace("manifest.json", "dump.gz"), b"x" * 19_999)


def put_without_globals(server):
    for i in range(8):
        server.put(now() - HOUR - i * DAY, without=("globals",) if i == 0 else ())


def put_future(server):
    for i in range(8):
        server.put(now() - HOUR - i * DAY)
    server.put(now() + HOUR)


def outcome(**changes) -> bytes:
    """What a drill or a deep read writes beside a set."""
    good = {"format": 1, "outcome": "ok", "finished": "2026-11-22T10:00:00Z", "seconds": 12.5}
    return json.dumps(good | changes).encode()


def put_failed(server, part: str) -> None:
    keys = [server.put(now() - HOUR - i * DAY) for i in range(8)]
    failed = outcome(outcome="failed", reason="public.t: 3 rows instead of 4")
    server.put_object(keys[0].replace("manifest", part), failed)


def put_failed_drill(server):
    put_failed(server, "drill")


def put_failed_deep_read(server):
    put_failed(server, "deep")


@pytest.mark.parametrize(
    ("prepare", "check"),
    [
        (put_stale, "fresh"),
        (put_small, "size"),
        (put_shrunk, "shrunk"),
        (put_truncated, "complete"),
        (put_without_globals, "complete"),
        (put_future, "clock"),
        (put_failed_drill, "proven"),
        (put_failed_deep_read, "proven"),
    ],
)
def test_each_fault_fails_its_own_check_only(server, inv, prepare, check):
    prepare(server)
    code, out, err = inv("backup.verify", "--json")
    assert code == 4
    assert failed(json.loads(out)) == [check]
    assert f"failed 1 of 9 checks: {check}" in err
    code, out, err = inv("backup.verify")
    assert code == 4
    assert re.search(rf"^ *FAILED +{check} ", out, re.M)
    assert "next: " in out


def test_verify_and_list_say_the_same_of_a_failed_drill(server, inv):
    put_failed_drill(server)
    code, out, err = inv("backup.verify", "--json")
    document = json.loads(out)
    assert code == 4
    assert document["proven"] == "failed drill"
    assert document["proofs"]["drill"]["reason"] == "public.t: 3 rows instead of 4"
    assert document["requests"] == 6
    assert "next: keep the older backups; inv backup.drill" in err
    said = "failed drill 2026-11-22, 12s: public.t: 3 rows instead of 4"
    assert said in inv("backup.verify")[1]
    assert said in inv("backup.list")[1]


def test_verify_shows_when_the_newest_was_drilled_and_how_long_it_took(good, server, inv):
    for part in ("deep", "drill"):
        server.put_object(good.replace("manifest", part), outcome())
    code, out, _ = inv("backup.verify")
    assert code == 0
    assert re.search(r"^ *ok +proven +drilled 2026-11-22, 12s$", out, re.M)
    assert f"{PLACE}: 7 requests" in out


def test_garbage_among_the_keys_changes_nothing(good, server, inv):
    names = ("zzz", "2026garbage", "29990101", "old/x", "20261399T000000Z.dump.gz")
    server.put_garbage(*(f"postgres/nocodb/backup_{name}" for name in names))
    code, out, _ = inv("backup.verify", "--json")
    assert code == 0
    assert json.loads(out)["key"] == good


def test_a_late_max_age_of_the_hosts_file_counts(good, server, inv, tmp_path):
    hosts = write_hosts(tmp_path, server.url, max_age="30m")
    code, out, _ = inv("backup.verify", "--json", "--hosts", str(hosts))
    assert code == 4
    assert failed(json.loads(out)) == ["fresh"]


def test_escape_sequences_in_a_key_do_not_reach_the_terminal(server, inv):
    server.put_garbage("postgres/nocodb/backup_zzz\x1b[2J[red]")
    for command in ("backup.verify", "backup.list"):
        _, out, err = inv(command)
        assert "\x1b" not in out + err
        assert "[red]" in out


# --- what keeps it from looking ----------------------------------------------------------------


@pytest.mark.parametrize("command", ["backup.verify", "backup.list"])
def test_denied_is_exit_code_3(server, inv, command):
    server.fault = refuse(403, "AccessDenied", "Access Denied")
    code, out, err = inv(command)
    assert code == 3
    assert out == ""
    assert err.splitlines()[0].startswith(f"error: bucket {BUCKET} at {server.url} denies access")
    assert err.splitlines()[1].startswith("  next: ")


@pytest.mark.parametrize("command", ["backup.verify", "backup.list"])
def test_unreachable_is_exit_code_3(server, inv, tmp_path, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, out, err = inv(command, "--json", "--hosts", str(write_hosts(tmp_path, url)))
    assert code == 3
    assert out == ""
    assert "cannot be reached" in err


def test_no_credentials_are_exit_code_2(server, inv, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, err = inv("backup.verify")
    assert code == 2
    assert "no usable AWS credentials" in err


def test_a_wrong_hosts_file_is_exit_code_2(server, inv, tmp_path):
    hosts = tmp_path / "wrong.yaml"
    hosts.write_text("hosts: {}\n")
    code, _, err = inv("backup.verify", "--hosts", str(hosts))
    assert code == 2
    assert "s3_bucket_name" in err
    assert server.requests == []


# --- verify --deep -----------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """PATH with nothing but the basics and this folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "tail"):
        (folder / name).symlink_to(f"/bin/{name}" if name == "sh" else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def pg_restore(programs):
    program = programs / "pg_restore"
    program.write_text(PG_RESTORE)
    program.chmod(0o755)
    return program


def test_deep_reads_the_newest_object_once(good, server, inv, pg_restore):
    code, out, _ = inv("backup.verify", "--deep", "--json")
    document = json.loads(out)
    assert failed(document) == []
    assert code == 0
    assert [check["name"] for check in document["checks"]][-4:] == [
        "sha256", "gzip", "archive", "globals",
    ]  # fmt: skip
    start = good.removesuffix("manifest.json")
    *asked, oldest = [line for line in server.requests if "?" not in line]
    assert oldest.endswith(".manifest.json")
    assert oldest < f"GET /{BUCKET}/{good}"
    assert asked == [
        f"GET /{BUCKET}/{good}",
        f"GET /{BUCKET}/{start}dump.gz",
        f"GET /{BUCKET}/{start}globals.sql.gz",
        f"PUT /{BUCKET}/{start}deep.json",
        f"GET /{BUCKET}/postgres/nocodb/drill.json",
    ]
    kept = json.loads(server.get_object(f"{start}deep.json"))
    assert (kept["outcome"], kept["reason"]) == ("ok", "")
    _, out, _ = inv("backup.list", "--limit", "1")
    assert re.search(r" deep-read \d{4}-\d\d-\d\d, 0\.\ds$", out, re.M)


def test_deep_without_the_right_to_write_says_that_it_is_not_kept(good, server, inv, pg_restore):
    server.fault = refuse(403, "AccessDenied", method="PUT")
    code, _, err = inv("backup.verify", "--deep")
    assert code == 0
    assert err.startswith("not kept as proof: bucket test-bucket")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (ARCHIVE[:-10], ["proven", "gzip", "archive"]),
        (ARCHIVE + b"junk" * 200, ["proven", "gzip"]),
        (gzip.compress(b"PGDMP cut off", 1), ["proven", "archive"]),
        (gzip.compress(b"SELECT 1;", 1), ["proven", "archive"]),
    ],
    ids=["cut off", "trailing garbage", "truncated archive", "no archive"],
)
def test_deep_finds_what_the_size_does_not_show(server, inv, pg_restore, tmp_path, body, wrong):
    server.put(now() - HOUR, body)
    hosts = write_hosts(tmp_path, server.url, min_size=1)
    code, out, _ = inv("backup.verify", "--deep", "--json", "--hosts", str(hosts))
    assert code == 4
    assert failed(json.loads(out)) == wrong


def test_deep_compares_the_hash(server, inv, pg_restore):
    key = server.put(now() - HOUR, ARCHIVE)
    flipped = bytearray(ARCHIVE)
    flipped[-4] ^= 1  # in the gzip stream's recorded length
    server.put_object(key.replace("manifest.json", "dump.gz"), bytes(flipped))
    code, out, _ = inv("backup.verify", "--json")
    assert code == 0, "sizes do not show one flipped bit"
    code, out, _ = inv("backup.verify", "--deep", "--json")
    assert code == 4
    assert "sha256" in failed(json.loads(out))
    assert json.loads(out)["proven"] == "failed deep read"
    assert json.loads(server.get_object(key.replace("manifest", "deep")))["outcome"] == "failed"
    assert "failed deep read" in inv("backup.list")[1]
    code, out, _ = inv("backup.verify", "--json")
    assert (code, failed(json.loads(out))) == (4, ["proven"]), "it is not forgotten"
    server.put_object(key.replace("manifest.json", "dump.gz"), ARCHIVE)
    assert inv("backup.verify", "--deep")[0] == 0, "what counts is the last reading"
    assert inv("backup.verify")[0] == 0


def test_a_changed_byte_is_kept_as_proof_without_any_pg_restore_too(server, inv, programs):
    key = server.put(now() - HOUR, ARCHIVE)
    flipped = bytearray(ARCHIVE)
    flipped[-4] ^= 1
    server.put_object(key.replace("manifest.json", "dump.gz"), bytes(flipped))
    assert inv("backup.verify", "--deep")[0] == 4
    kept = json.loads(server.get_object(key.replace("manifest", "deep")))
    assert kept["outcome"] == "failed"
    assert "sha256: differs" in kept["reason"]
    assert "not checked" not in kept["reason"]


def test_deep_reads_every_part_that_the_manifest_records(good, server, inv, pg_restore):
    key = good.replace("manifest.json", "globals.sql.gz")
    whole = server.get_object(key)
    flipped = bytearray(whole)
    flipped[-4] ^= 1
    server.put_object(key, bytes(flipped))
    assert inv("backup.verify")[0] == 0, "sizes do not show one flipped bit"
    code, out, _ = inv("backup.verify", "--deep", "--json")
    assert code == 4
    assert failed(json.loads(out)) == ["proven", "globals"]
    assert "differs" in json.loads(out)["checks"][-1]["detail"]
    kept = json.loads(server.get_object(good.replace("manifest", "deep")))
    assert (kept["outcome"], kept["reason"][:17]) == ("failed", "globals: differs:")
    server.put_object(key, whole)
    assert inv("backup.verify", "--deep")[0] == 0


def test_deep_reads_what_is_there_of_a_set_that_lacks_a_part(server, inv, pg_restore):
    server.put(now() - HOUR, ARCHIVE, without=("globals",))
    code, out, _ = inv("backup.verify", "--deep", "--json")
    assert code == 4
    assert failed(json.loads(out)) == ["complete"]


def test_deep_without_any_pg_restore_is_not_passed(good, inv, programs):
    code, out, _ = inv("backup.verify", "--deep", "--json")
    document = json.loads(out)
    assert code == 4
    assert failed(document) == ["archive"]
    archive = next(check for check in document["checks"] if check["name"] == "archive")
    assert "not checked" in archive["detail"]
    assert "db1" in archive["detail"]
    assert "pg_restore" in archive["hint"]


def test_deep_with_nothing_there_is_only_nothing_found(server, inv):
    code, out, _ = inv("backup.verify", "--deep", "--json")
    assert code == 4
    assert failed(json.loads(out)) == ["found"]


def test_a_bucket_that_fails_while_reading_is_exit_code_3(good, server, inv, pg_restore):
    server.fault = lambda request: (
        refuse(403, "AccessDenied")(request) if "list-type" not in request.args else None
    )
    code, out, err = inv("backup.verify", "--deep", "--json")
    assert code == 3
    assert out == ""
    assert f"reading {good}" in err


# --- list --------------------------------------------------------------------------------------


def test_list_shows_the_newest_first(server, inv):
    keys = [server.put(now() - HOUR - i * DAY) for i in range(30)]
    code, out, err = inv("backup.list")
    assert code == 0
    assert err == ""
    stamps = [re.search(r"\d{8}T\d{6}Z", key)[0] for key in keys]
    assert re.findall(r"^ *(\d{8}T\d{6}Z) ", out, re.M) == stamps[:20]
    line = next(line for line in out.splitlines() if stamps[1] in line)
    assert line.endswith(" complete")
    assert "1d 1h" in line
    assert "19.5 KiB" in line


@pytest.mark.parametrize(("limit", "count"), [("3", 3), ("0", 30), ("99", 30)])
def test_list_limit(server, inv, limit, count):
    keys = [server.put(now() - HOUR - i * DAY, b"x") for i in range(30)]
    _, out, _ = inv("backup.list", "--json", "--limit", limit)
    document = json.loads(out)
    assert [entry["key"] for entry in document["backups"]] == keys[:count]
    assert document["requests"] <= 4 + count, "a listing or four, and each manifest"


def test_list_of_several_databases(server, inv, tmp_path):
    mine = server.put(now() - HOUR)
    other = server.put(now() - HOUR, database="other")
    hosts = write_hosts(tmp_path, server.url, databases=["nocodb", "other"])
    _, out, _ = inv("backup.list", "--json", "--hosts", str(hosts))
    found = {d["database"]: d["backups"][0]["key"] for d in json.loads(out)["databases"]}
    assert found == {"nocodb": mine, "other": other}
    _, out, _ = inv("backup.list", "--json", "--database", "other", "--hosts", str(hosts))
    assert [b["key"] for b in json.loads(out)["backups"]] == [other]
    code, _, err = inv("backup.list", "--database", "nobody", "--hosts", str(hosts))
    assert code == 2
    assert "--database nobody: pg_db in hosts.yaml does not name it" in err


def test_verify_of_several_databases_fails_if_one_does(good, server, inv, tmp_path):
    hosts = write_hosts(tmp_path, server.url, databases=["nocodb", "other"])
    code, out, err = inv("backup.verify", "--json", "--hosts", str(hosts))
    document = json.loads(out)
    assert code == 4
    assert document["ok"] is False
    assert [d["ok"] for d in document["databases"]] == [True, False]
    assert "the backup of other" in err
    code, out, _ = inv("backup.verify", "--database", "nocodb", "--hosts", str(hosts))
    assert code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no backup of its files was ever recorded"),
        (b"[]", "where a mapping belongs"),
        (b'{"format": 2}', "is of no known format"),
        (b'{"format": 1, "finished": "2026-11-22T10:00:00", "files": 1, "bytes": 1}', "no zone"),
    ],
)
def test_verify_wants_the_attachments_of_every_app_host(good, server, inv, tmp_path, text, said):
    hosts = write_hosts(tmp_path, server.url, app=True)
    if text is not None:
        server.put_object("files/appstack/state/app1.json", text)
    code, out, _ = inv("backup.verify", "--json", "--hosts", str(hosts))
    assert code == 4
    assert failed(json.loads(out)) == ["files app1"]
    assert said in json.loads(out)["checks"][-1]["detail"]
    finished = f"{now():%Y-%m-%dT%H:%M:%SZ}"
    state = {"format": 1, "finished": finished, "files": 3, "bytes": 100}
    server.put_object("files/appstack/state/app1.json", json.dumps(state).encode())
    assert inv("backup.verify", "--hosts", str(hosts))[0] == 0
    server.put_object("files/appstack/state/app1.json", b"no matter")
    without = write_hosts(tmp_path, server.url, app=True, files=False)
    assert inv("backup.verify", "--hosts", str(without))[0] == 0


def test_verify_with_max_drill_age_wants_a_young_good_drill(good, server, inv, tmp_path):
    hosts = write_hosts(tmp_path, server.url, max_drill_age="35d")
    code, out, _ = inv("backup.verify", "--json", "--hosts", str(hosts))
    assert code == 4
    assert failed(json.loads(out)) == ["drilled"]
    finished = f"{now() - 3 * DAY:%Y-%m-%dT%H:%M:%SZ}"
    text = {"format": 1, "outcome": "ok", "finished": finished, "seconds": 9}
    server.put_object("postgres/nocodb/drill.json", json.dumps(text).encode())
    code, out, _ = inv("backup.verify", "--json", "--hosts", str(hosts))
    assert code == 0
    assert json.loads(out)["requests"] == 5


def test_list_in_json_has_times_and_bytes(good, inv):
    _, out, _ = inv("backup.list", "--json", "--limit", "1")
    (entry,) = json.loads(out)["backups"]
    assert entry["key"] == good
    assert entry["size"] == len(ARCHIVE)
    assert 3600 <= entry["age_seconds"] < 3700
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])


def test_list_shows_future_ones_too(server, inv):
    keys = [server.put(now() + DAY), server.put(now() - DAY)]
    _, out, _ = inv("backup.list")
    assert re.findall(r"\d{8}T\d{6}Z", out) == [key[-30:-14] for key in keys]
    assert "in 23h 59m" in out or "in 1d" in out


def test_list_of_nothing_says_so(server, inv):
    code, out, err = inv("backup.list")
    assert code == 0
    assert out == f"no backup in {PLACE}\n"
    assert err == ""
    _, out, _ = inv("backup.list", "--json")
    assert json.loads(out)["backups"] == []


def test_list_refuses_a_negative_limit(server, inv):
    code, _, err = inv("backup.list", "--limit=-1")
    assert code == 2
    assert "--limit -1" in err
    assert server.requests == []


# --- two projects in one folder ------------------------------------------------------------------

OURS = {"name": "", "id": "a" * 16}
THEIRS = {"name": "", "id": "b" * 16}


@pytest.fixture
def we_are(server, monkeypatch, tmp_path):
    """Has hosts.yaml say which project this is."""

    def use(identity: str) -> None:
        path = write_hosts(tmp_path, server.url)
        if identity:
            path.write_text(f"project_id: {identity}\n{path.read_text()}")
        monkeypatch.setenv("SWARMKEEP_HOSTS", str(path))

    return use


def test_another_swarms_set_is_never_taken_for_our_newest(server, inv, we_are):
    """Seen: verify of the first took the second's set for its newest and called it fresh."""
    we_are("a" * 16)
    for i in range(8):
        server.put(now() - 2 * DAY - i * DAY, ARCHIVE, project=OURS)
    theirs = server.put(now() - HOUR, ARCHIVE, project=THEIRS)
    code, out, _ = inv("backup.verify", "--json")
    document = json.loads(out)
    assert code == 4
    assert failed(document) == ["fresh", "project"]
    assert document["key"] != theirs
    assert inv("backup.verify")[0] == 4


def test_many_sets_of_another_project_do_not_hide_ours(server, inv, we_are):
    we_are("a" * 16)
    ours = server.put(now() - 2 * HOUR, ARCHIVE, project=OURS)
    for i in range(20):
        server.put(now() - HOUR - i * timedelta(minutes=1), ARCHIVE, project=THEIRS)
    document = json.loads(inv("backup.verify", "--json")[1])
    assert document["key"] == ours
    assert failed(document) == ["project"]


def test_a_folder_of_another_project_only_is_nothing_found(server, inv, we_are):
    we_are("a" * 16)
    server.put(now() - HOUR, ARCHIVE, project=THEIRS)
    code, out, _ = inv("backup.verify", "--json")
    assert code == 4
    assert failed(json.loads(out)) == ["found", "project"]


def test_list_says_which_are_another_projects(server, inv, we_are):
    we_are("a" * 16)
    server.put(now() - 2 * HOUR, ARCHIVE, project=OURS)
    server.put(now() - HOUR, ARCHIVE, project={"name": "x", "id": "b" * 16})
    code, out, _ = inv("backup.list")
    assert code == 0
    assert out.count("of project x (bbbbbbbbbbbbbbbb)") == 1
    documents = json.loads(inv("backup.list", "--json")[1])["backups"]
    assert [one["project"]["id"] for one in documents] == ["b" * 16, "a" * 16]


def test_without_the_vault_two_projects_are_seen_all_the_same(server, inv, we_are):
    we_are("")
    server.put(now() - 2 * HOUR, ARCHIVE, project=OURS)
    assert failed(json.loads(inv("backup.verify", "--json")[1])) == []
    server.put(now() - HOUR, ARCHIVE, project=THEIRS)
    assert failed(json.loads(inv("backup.verify", "--json")[1])) == ["project"]


def test_a_project_with_a_name_looks_into_its_own_folder(server, inv, we_are, monkeypatch):
    we_are("a" * 16)
    path = Path(os.environ["SWARMKEEP_HOSTS"])
    path.write_text(f"project: staging\n{path.read_text()}")
    server.put(now() - HOUR, ARCHIVE, project=OURS)
    code, out, _ = inv("backup.verify")
    assert code == 4
    assert "no backup in s3://test-bucket/staging/postgres/nocodb/" in out


def test_another_cluster_is_accepted_once_and_for_all(server, inv, we_are):
    we_are("a" * 16)
    server.put(now() - HOUR, ARCHIVE, cluster="9", expected_cluster="7")
    assert failed(json.loads(inv("backup.verify", "--json")[1])) == ["cluster"]
    code, _, err = inv("backup.accept")
    assert code == 2
    assert "is of cluster 9, those before of 7" in err
    code, out, _ = inv("backup.accept", "--yes")
    assert code == 0
    assert "accepted: nocodb is cluster 9 from now on" in out
    assert failed(json.loads(inv("backup.verify", "--json")[1])) == []
    said = json.loads(server.get_object("postgres/nocodb/cluster.json"))
    assert (said["cluster"], said["before"]) == ("9", "7")
    assert "nothing to accept" in inv("backup.accept")[1]


@pytest.mark.parametrize(
    "said",
    [
        {"project": "x"}, {"project": {"id": 7}}, {"cluster": 7}, {"cluster": "x"},
        {"expected_cluster": ["7"]},
    ],
)  # fmt: skip
def test_a_manifest_with_the_wrong_kind_of_project_or_cluster_is_damaged(server, inv, said):
    server.put(now() - HOUR, ARCHIVE, **said)
    assert failed(json.loads(inv("backup.verify", "--json")[1])) == ["complete"]


# --- the sentence ------------------------------------------------------------------------------


def test_the_sentence_goes_back_to_no_set_that_failed_its_drill(server, inv):
    oldest, good = now() - 3 * DAY, now() - 2 * DAY
    failed_one = server.put(oldest, ARCHIVE)
    server.put(good, ARCHIVE)
    server.put(now() - HOUR, ARCHIVE)
    outcome = {"format": 1, "outcome": "failed", "finished": "2026-11-20T03:00:00Z",
               "seconds": 8, "reason": "rows differ"}  # fmt: skip
    server.put_object(failed_one.replace("manifest", "drill"), json.dumps(outcome).encode())
    _, out, _ = inv("backup.verify")
    assert f"any backup since {good:%Y-%m-%d %H:%M} UTC" in out


def test_the_sentence_of_a_backup_that_failed_a_check_promises_nothing(server, inv):
    server.put(now() - 3 * DAY, ARCHIVE)
    code, out, _ = inv("backup.verify")
    assert code == 4
    assert "nocodb: do not rely on it: 1 checks failed (fresh)" in out
    assert "go back" not in out


def test_the_first_set_has_no_cluster_before_it(server, inv):
    known = {"cluster": "7000", "expected_cluster": "7000"}
    server.put(now() - 2 * HOUR, ARCHIVE, **known)
    assert "system identifier 7000, the first that is known" in inv("backup.verify")[1]
    server.put(now() - HOUR, ARCHIVE, **known)
    assert "system identifier 7000, as before" in inv("backup.verify")[1]
