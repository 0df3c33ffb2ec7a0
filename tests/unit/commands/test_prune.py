"""inv backup.prune as people type it, over real HTTP: what is shown, and what is gone after."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from invoke.collection import Collection

from fabfile.commands import prune
from tests.unit.command_line import runner
from tests.unit.s3_server import BUCKET, refuse, write_hosts

pytestmark = pytest.mark.thorough

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = {"keep_daily": 3, "keep_weekly": 0, "keep_monthly": 0, "keep_yearly": 0, "keep_min": 1}
PLACE = "s3://test-bucket/postgres/nocodb/"
DRILL = b'{"format": 1, "outcome": "ok", "finished": "2026-11-20T10:00:00Z", "seconds": 9}'


@pytest.fixture
def server(server, monkeypatch, tmp_path):
    use(monkeypatch, write_hosts(tmp_path, server.url, **POLICY))
    return server


@pytest.fixture
def locked(server):
    """The bucket with versioning and Object Lock, which it can only have from its start."""
    server.client.delete_bucket(Bucket=BUCKET)
    server.client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    yield server
    server.empty()
    server.client.delete_bucket(Bucket=BUCKET)
    server.client.create_bucket(Bucket=BUCKET)


def use(monkeypatch, hosts):
    monkeypatch.setenv("SWARMKEEP_HOSTS", str(hosts))


@pytest.fixture
def inv(capsys):
    return runner(Collection(Collection("backup", prune.prune)), capsys)


def noon(days_ago: int) -> datetime:
    """Noon some days ago: no two of these are of one day, whenever this runs."""
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return today - DAY - days_ago * DAY


def put(server, count: int, **options) -> list[str]:
    """Daily sets; returns their stamps, newest first."""
    return [stamp(server.put(noon(i), **options)) for i in range(count)]


def stamp(key: str) -> str:
    return key.partition("backup_")[2].partition(".")[0]


def stamps(server, database="nocodb") -> set[str]:
    """The stamps of everything that is there and has one."""
    return {stamp(key) for key in everything(server) if key.startswith(f"postgres/{database}/b")}


def everything(server) -> list[str]:
    listed = server.client.list_objects_v2(Bucket=BUCKET)
    return [item["Key"] for item in listed.get("Contents", [])]


def verdicts(document) -> dict[str, str]:
    return {one["set"]: one["verdict"] for one in document["sets"]}


def changing(server) -> list[str]:
    return [request for request in server.requests if not request.startswith(("GET", "HEAD"))]


# --- showing -----------------------------------------------------------------------------------


def test_without_yes_nothing_is_changed(server, inv):
    made = put(server, 5)
    before = everything(server)
    code, out, err = inv("backup.prune")
    assert (code, err) == (0, "")
    assert f"{PLACE}: keep 3 daily, 0 weekly, 0 monthly, 0 yearly; at least 1" in out
    lines = {stamp: next(x for x in out.splitlines() if stamp in x) for stamp in made}
    assert "newest, daily 20" in lines[made[0]]
    assert "goes" in lines[made[3]]
    assert "goes" in lines[made[4]]
    assert "2 of 5 sets would be deleted" in out
    assert "nothing was changed: inv backup.prune --yes" in out
    assert everything(server) == before
    assert changing(server) == []


def test_dry_changes_nothing_either(server, inv):
    put(server, 5)
    code, out, _ = inv("--dry", "backup.prune", "--yes")
    assert code == 0
    assert "nothing was changed" in out
    assert changing(server) == []


def test_an_empty_bucket_has_nothing_to_delete(server, inv):
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert "nothing to delete" in out


# --- deleting ----------------------------------------------------------------------------------


def test_yes_deletes_what_the_policy_does_not_keep_and_a_second_run_nothing(server, inv):
    made = put(server, 6)
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert "deleted 3 of 6 sets" in out
    assert stamps(server) == set(made[:3])
    server.requests.clear()
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert "nothing to delete: all of the 3 sets stay" in out
    assert changing(server) == []


def test_all_objects_of_a_set_go_the_manifest_first(server, inv):
    made = put(server, 4)
    base = f"postgres/nocodb/backup_{made[3]}"
    server.put_object(f"{base}.deep.json", DRILL)
    server.put_object(f"postgres/nocodb/backup_{made[1]}.deep.json", DRILL)
    inv("backup.prune", "--yes")
    ends = [request.split(made[3])[1] for request in changing(server)]
    assert ends == [".manifest.json", ".dump.gz", ".globals.sql.gz", ".deep.json"]
    assert stamps(server) == set(made[:3])


def test_what_is_no_complete_set_is_never_touched(server, inv):
    made = put(server, 4)
    damaged = server.put(noon(20))
    server.put_object(damaged.replace("manifest.json", "dump.gz"), b"cut off")
    server.put(noon(21), without=("manifest",))
    server.put(datetime.now(UTC) + 2 * DAY)
    other = "postgres/nocodb/backup_20200101T000000Z.dump.gz.old"
    server.put_garbage(
        other,
        "files/appstack/data/backup_20200101T000000Z.dump.gz",
        "postgres/nocodb/drill.json",
        "postgres/nocodb/.write-check",
        "postgres/nocodb2/backup_20200101T000000Z.dump.gz",
    )
    before = set(everything(server))
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert {stamp(key) for key in before - set(everything(server))} == {made[3]}
    assert "not complete, so neither counted nor touched" in out
    assert "dated in the future" in out
    assert f"left alone: parts of {noon(21):%Y%m%dT%H%M%SZ}" in out
    assert f"left alone: what is no backup, such as {other}" in out


def test_the_newest_drilled_set_stays(server, inv):
    made = put(server, 9)
    server.put_object(f"postgres/nocodb/backup_{made[8]}.drill.json", DRILL)
    inv("backup.prune", "--yes")
    assert stamps(server) == {*made[:3], made[8]}


def test_every_database_of_the_hosts_file_and_only_one_if_asked(server, inv, monkeypatch, tmp_path):
    hosts = write_hosts(tmp_path, server.url, databases=["nocodb", "other"], **POLICY)
    use(monkeypatch, hosts)
    mine, others = put(server, 5), put(server, 4, database="other")
    code, out, _ = inv("backup.prune", "--yes", "--database", "other")
    assert code == 0
    assert stamps(server, "nocodb") == set(mine)
    assert stamps(server, "other") == set(others[:3])
    code, out, _ = inv("backup.prune", "--yes", "--json")
    assert code == 0
    document = json.loads(out)
    assert [d["database"] for d in document["databases"]] == ["nocodb", "other"]
    assert stamps(server, "nocodb") == set(mine[:3])
    assert inv("backup.prune", "--database", "nobody")[0] == 2


def test_json_says_of_each_set_what_and_why(server, inv):
    made = put(server, 4)
    code, out, err = inv("backup.prune", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert verdicts(document) == dict.fromkeys(made[:3], "keep") | {made[3]: "goes"}
    assert document["policy"]["daily"] == 3
    assert document["sets"][3]["because"] == []
    assert document["sets"][3]["deleted"] is False
    assert document["bytes"] == document["sets"][3]["bytes"] > 20_000
    document = json.loads(inv("backup.prune", "--json", "--yes")[1])
    assert document["sets"][3]["deleted"] is True


# --- what goes wrong ---------------------------------------------------------------------------


def test_a_missing_right_is_one_line_that_names_it(server, inv):
    made = put(server, 30)
    server.fault = refuse(403, "AccessDenied", method="DELETE")
    code, out, err = inv("backup.prune", "--yes")
    assert code == 3
    assert "deleted 0 of 30 sets" in out
    assert err.count("error:") == 1
    assert "27 of 27 sets could not be deleted" in err
    assert "denies s3:DeleteObject" in err
    assert "next: the key of this command needs the right s3:DeleteObject" in err
    assert stamps(server) == set(made)
    # Those that were begun at the same time, and no more.
    assert len(changing(server)) <= 10


def test_one_failure_does_not_hold_up_the_others(server, inv):
    made = put(server, 6)
    key = f"postgres/nocodb/backup_{made[4]}.dump.gz"

    def fault(request):
        return (
            refuse(500, "InternalError", method="DELETE")(request) if key in request.path else None
        )

    server.fault = fault
    code, out, err = inv("backup.prune", "--yes")
    assert code == 3
    assert "deleted 2 of 6 sets" in out
    assert "1 of 3 sets could not be deleted" in err
    assert f"deleting {key}" in err
    assert f"left of a partly deleted set: {key}" in err
    assert stamps(server) == {*made[:3], made[4]}
    # What is left counts as no backup, and stays until somebody looks.
    server.fault = None
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert f"left alone: parts of {made[4]}" in out
    assert "all of the 3 sets stay" in out


def test_a_deletion_cut_off_anywhere_leaves_no_set_that_counts(server, inv):
    from fabfile.backup.bucket import Bucket
    from fabfile.config import hosts_file

    for cut in range(1, 4):
        server.empty()
        made = put(server, 4)
        deletions = []

        def fault(request, cut=cut, deletions=deletions):
            if request.method != "DELETE":
                return None
            deletions.append(request.path)
            gone = len(deletions) > cut
            return refuse(403, "AccessDenied", method="DELETE")(request) if gone else None

        server.fault = fault
        assert inv("backup.prune", "--yes")[0] == (3 if cut < 3 else 0)
        server.fault = None
        bucket = Bucket(hosts_file.load(hosts_file.locate(None)).backup)
        found = bucket.latest("nocodb", datetime.now(UTC), 0)
        assert [one.stamp for one in found.backups] == made[:3]


def test_a_listing_that_fails_deletes_nothing(server, inv):
    put(server, 6)
    reads = []

    def fault(request):
        reads.append(request.path)
        return refuse(500, "InternalError")(request) if "backup_" in request.path else None

    server.fault = fault
    code, _, err = inv("backup.prune", "--yes")
    assert code == 3
    assert "is failing" in err
    assert changing(server) == []


def test_ctrl_c_lets_what_was_begun_end(server):
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.deletion import Removal
    from fabfile.config import hosts_file

    made = put(server, 40)
    bucket = Bucket(hosts_file.load(hosts_file.locate(None)).backup)
    sets = bucket.latest("nocodb", datetime.now(UTC), 0).backups
    removal = Removal(bucket)
    begun = threading.Event()

    def fault(request):
        if request.method == "DELETE":
            begun.set()

    server.fault = fault
    interrupt = removal._connection.translated

    def interrupted(action, *, right=""):
        # As if the signal came while the first deletions were under way.
        if begun.is_set() and "manifest" in action:
            raise KeyboardInterrupt
        return interrupt(action, right=right)

    removal._connection.translated = interrupted
    with pytest.raises(KeyboardInterrupt):
        removal.remove(sets)
    left: dict[str, int] = {}
    for key in everything(server):
        left[stamp(key)] = left.get(stamp(key), 0) + 1
    assert set(left.values()) == {3}
    assert 0 < len(left) < len(made)


# --- versions and locks ------------------------------------------------------------------------


def test_in_a_versioned_bucket_it_says_that_bytes_stay(server, inv):
    put(server, 4)
    versioning = {"Bucket": BUCKET, "VersioningConfiguration": {"Status": "Enabled"}}
    server.client.put_bucket_versioning(**versioning)
    try:
        for arguments in ((), ("--yes",)):
            out = inv("backup.prune", *arguments)[1]
            assert "versioning is on: what is deleted stays as an old version" in out
        assert len(stamps(server)) == 3
    finally:
        versioning["VersioningConfiguration"] = {"Status": "Suspended"}
        server.client.put_bucket_versioning(**versioning)


def lock(server, one: str, part: str, days: int, mode: str = "GOVERNANCE") -> datetime:
    until = datetime.now(UTC).replace(microsecond=0) + days * DAY
    server.client.put_object_retention(
        Bucket=BUCKET,
        Key=f"postgres/nocodb/backup_{one}.{part}",
        Retention={"Mode": mode, "RetainUntilDate": until},
    )
    return until


def test_what_is_locked_stays_and_says_until_when(locked, inv):
    made = put(locked, 7)
    lock(locked, made[3], "dump.gz", 3)
    until = lock(locked, made[3], "manifest.json", 9, "COMPLIANCE")
    locked.client.put_object_legal_hold(
        Bucket=BUCKET,
        Key=f"postgres/nocodb/backup_{made[5]}.globals.sql.gz",
        LegalHold={"Status": "ON"},
    )
    lock(locked, made[0], "dump.gz", 30)
    code, out, err = inv("backup.prune", "--yes")
    assert (code, err) == (0, "")
    line = next(x for x in out.splitlines() if made[3] in x)
    assert f"locked until {until:%Y-%m-%d %H:%M} UTC (COMPLIANCE/GOVERNANCE)" in line
    assert "under a legal hold" in next(x for x in out.splitlines() if made[5] in x)
    assert "deleted 2 of 7 sets" in out
    assert stamps(locked) == {*made[:3], made[3], made[5]}
    # No delete marker hides what is locked.
    markers = locked.client.list_object_versions(Bucket=BUCKET)["DeleteMarkers"]
    assert {stamp(marker["Key"]) for marker in markers} == {made[4], made[6]}
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert "nothing to delete: all of the 5 sets stay; 2 cannot be deleted yet" in out


def test_json_says_locked(locked, inv):
    made = put(locked, 4)
    lock(locked, made[3], "dump.gz", 3)
    document = json.loads(inv("backup.prune", "--json")[1])
    assert verdicts(document)[made[3]] == "locked"
    assert document["sets"][3]["because"][0].startswith("locked until 20")
    assert document["versioned"] is True


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed"])
def test_a_store_without_versioning_and_locks_is_pruned(server, inv, code):
    made = put(server, 4)

    def fault(request):
        unknown = {"versioning", "object-lock"} & set(request.args)
        return refuse(501, code)(request) if unknown else None

    server.fault = fault
    exit_code, out, _ = inv("backup.prune", "--yes")
    assert exit_code == 0
    assert "version" not in out
    assert stamps(server) == set(made[:3])


def test_whoever_may_not_ask_for_locks_deletes_nothing(server, inv):
    put(server, 4)

    def fault(request):
        return refuse(403, "AccessDenied")(request) if "object-lock" in request.args else None

    server.fault = fault
    code, _, err = inv("backup.prune", "--yes")
    assert code == 3
    assert "denies s3:GetBucketObjectLockConfiguration" in err
    assert changing(server) == []


# --- other projects, other clusters --------------------------------------------------------------


def test_sets_of_another_project_neither_go_nor_count(server, inv, monkeypatch, tmp_path):
    """Seen: prune counted another Swarm's sets together with ours."""
    path = write_hosts(tmp_path, server.url, **POLICY)
    path.write_text(f"project_id: {'a' * 16}\n{path.read_text()}")
    use(monkeypatch, path)
    ours = put(server, 5, project={"name": "", "id": "a" * 16})
    theirs = [
        stamp(server.put(noon(i) + HOUR, project={"name": "t", "id": "b" * 16})) for i in range(5)
    ]
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert f"left alone: set {theirs[0]}, which is of project t" in out
    assert stamps(server) == {*ours[:3], *theirs}
    left = json.loads(inv("backup.prune", "--json")[1])["left_alone"]
    assert left["other_projects"] == theirs


def test_the_last_sets_of_a_lost_cluster_stay_until_the_new_one_is_accepted(server, inv):
    before = [stamp(server.put(noon(i), cluster="7", expected_cluster="7")) for i in range(5, 9)]
    after = [stamp(server.put(noon(i), cluster="9", expected_cluster="7")) for i in range(5)]
    code, out, _ = inv("backup.prune", "--yes")
    assert code == 0
    assert "of the cluster before, until the new one is accepted" in out
    assert stamps(server) == {*before, *after[:3]}
    server.put_object("postgres/nocodb/cluster.json", b'{"format": 1, "cluster": "9"}')
    assert inv("backup.prune", "--yes")[0] == 0
    assert stamps(server) == set(after[:3])


def test_who_does_not_know_which_project_this_is_deletes_nothing_of_two(server, inv):
    put(server, 5, project={"name": "", "id": "a" * 16})
    for i in range(5):
        server.put(noon(i) + HOUR, project={"name": "", "id": "b" * 16})
    before = everything(server)
    code, _, err = inv("backup.prune", "--yes")
    assert code == 2
    assert "holds sets of 2 projects: aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb" in err
    assert "project_id" in err
    assert everything(server) == before
