"""The bucket over real HTTP: what is found, what is asked, and every way it can refuse."""

from __future__ import annotations

import hashlib
import random
import re
import socket
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.wrappers import Response

from fabfile.backup.bucket import Bucket
from fabfile.base.errors import CONFIG, UNREACHABLE, SwarmkeepError
from fabfile.config import hosts_file
from fabfile.s3.error_messages import failure, refusal
from tests.unit.s3_server import BUCKET, own_credentials, refuse, write_hosts

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def module_bucket(module_server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        own_credentials(patch)
        yield open_bucket(tmp_path_factory.mktemp("hosts"), module_server.url)


@pytest.fixture
def bucket(server, module_bucket):
    """One for all tests, since making boto3's client takes 0.2 s; it remembers nothing."""
    module_bucket.requests = 0
    module_bucket._seen.clear()
    return module_bucket


def open_bucket(folder, endpoint, **backup) -> Bucket:
    return Bucket(hosts_file.load(write_hosts(folder, endpoint, **backup)).backup)


# --- what is found -----------------------------------------------------------------------------


def test_finds_the_newest_with_its_manifest_in_two_requests(server, bucket):
    keys = [server.put(NOW - i * DAY) for i in range(12)]
    holding = bucket.newest("nocodb", NOW)
    assert [landed.key for landed in holding.backups] == keys[:8]
    newest = holding.backups[0]
    assert newest.timestamp == NOW
    assert newest.size == 20_000
    assert newest.flaw == ""
    assert newest.manifest.parts["dump"].sha256 == hashlib.sha256(b"x" * 20_000).hexdigest()
    assert newest.manifest.rows == {"public.nc_users_v2": 1, "p1.notes": 3}
    assert holding.place == "s3://test-bucket/postgres/nocodb/"
    assert bucket.requests == len(server.requests) == 2


def test_an_empty_bucket_holds_nothing(server, bucket):
    holding = bucket.newest("nocodb", NOW)
    assert holding.backups == holding.future == holding.others == ()
    assert bucket.requests == len(server.requests) <= 4


def test_other_databases_and_garbage_do_not_count(server, bucket):
    server.put(NOW, database="nocodb2")
    server.put(NOW, database="other")
    mine = server.put(NOW - DAY)
    folder = "postgres/nocodb/"
    server.put_garbage(
        f"{folder}backup_zzz",
        f"{folder}backup_2026garbage",
        f"{folder}backup_20261122T080000Z.dump.gz.partial",
        f"{folder}backup_20261122T080000Z.manifest.json.gz",
        f"{folder}backup_20261399T000000Z.dump.gz",
        f"{folder}backup_/backup_20261122T080000Z.dump.gz",
        f"{folder}backup_20261122T080000Z.dump.gz/",
        f"{folder}zzz/backup_20261122T080000Z.dump.gz",
        "backup_20261122T080000Z.dump.gz",
    )
    holding = bucket.newest("nocodb", NOW)
    assert [landed.key for landed in holding.backups] == [mine]
    assert holding.others


def test_stale_backups_are_found_by_grouping_days(server, bucket):
    newest = server.put(NOW - 100 * DAY)
    for i in range(1, 1200):
        server.put(NOW - 100 * DAY - i * timedelta(minutes=5), b"x")
    holding = bucket.newest("nocodb", NOW)
    assert holding.backups[0].key == newest
    assert len(holding.backups) == 8
    assert bucket.requests == len(server.requests) <= 5


@pytest.mark.parametrize("way", ["refuses", "ignores"])
def test_a_store_that_cannot_group_by_day_still_gives_the_newest(server, bucket, way):
    keys = [server.put(NOW - (100 + i) * DAY) for i in range(3)]

    def fault(request):
        if "delimiter" not in request.args:
            return None
        if way == "refuses":
            return refuse(501, "NotImplemented")(request)
        listed = server.client.list_objects_v2(Bucket=BUCKET)["Contents"]
        entries = "".join(
            f"<Contents><Key>{o['Key']}</Key><Size>{o['Size']}</Size><ETag>e</ETag>"
            "<LastModified>2026-11-01T00:00:00.000Z</LastModified></Contents>"
            for o in listed
        )
        return Response(
            "<ListBucketResult><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(listed)}</KeyCount>{entries}</ListBucketResult>",
            mimetype="application/xml",
        )

    server.fault = fault
    holding = bucket.newest("nocodb", NOW)
    assert [landed.key for landed in holding.backups] == keys


def test_an_answer_that_is_empty_but_not_the_end_is_followed(server, bucket):
    key = server.put(NOW)

    def fault(request):
        if request.method == "GET" and "continuation-token" not in request.args:
            return Response(
                "<ListBucketResult><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount>"
                "<NextContinuationToken>dGVzdA==</NextContinuationToken></ListBucketResult>",
                mimetype="application/xml",
            )
        if "continuation-token" in request.args:
            return Response(
                "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>"
                f"<Contents><Key>{key}</Key><Size>20000</Size><ETag>e</ETag>"
                "<LastModified>2026-11-22T09:00:00.000Z</LastModified></Contents>"
                "</ListBucketResult>",
                mimetype="application/xml",
            )
        return None

    server.fault = fault
    assert bucket.newest("nocodb", NOW).backups[0].key == key


def test_a_backup_of_the_future_is_kept_apart(server, bucket):
    future, present = server.put(NOW + DAY), server.put(NOW + timedelta(minutes=4))
    holding = bucket.newest("nocodb", NOW)
    assert [landed.key for landed in holding.future] == [future]
    assert [landed.key for landed in holding.backups] == [present]


def test_the_latest_are_as_many_as_asked_for(server, bucket):
    keys = [server.put(NOW - i * i * DAY) for i in range(30)]
    assert [landed.key for landed in bucket.latest("nocodb", NOW, 25).backups] == keys[:25]
    assert [landed.key for landed in bucket.latest("nocodb", NOW, 0).backups] == keys
    assert [landed.key for landed in bucket.latest("nocodb", NOW, 99).backups] == keys


# --- reading an object -------------------------------------------------------------------------

BODY = random.Random(3).randbytes(1_500_000)


def read(bucket: Bucket) -> bytes:
    return b"".join(bucket.read(bucket.newest("nocodb", NOW).backups[0].parts["dump"]))


def test_reads_an_object_in_one_request(server, bucket):
    server.put(NOW, BODY)
    assert read(bucket) == BODY
    assert [line for line in server.requests if "?" not in line] == [
        f"GET /{BUCKET}/postgres/nocodb/backup_20261122T090000Z.{part}"
        for part in ("manifest.json", "dump.gz")
    ]


def test_an_empty_object_is_read_without_a_request(server, bucket):
    server.put(NOW, b"")
    assert read(bucket) == b""
    assert not any("dump.gz" in line for line in server.requests)


def broken_off(start: int, count: int, *, announced: int | None = None) -> Response:
    """`count` bytes of BODY from `start` on, where more of them were announced."""
    rest = len(BODY) - start if announced is None else announced
    return Response(
        # Not a list: werkzeug would correct the length.
        (block for block in [BODY[start : start + count]]),
        status=206 if start else 200,
        headers={
            "Content-Length": str(rest),
            "Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}",
        },
    )


def is_get(request) -> bool:
    """Of the dump, not of the manifest."""
    return request.method == "GET" and request.path.endswith(".dump.gz")


def start_of(request) -> int:
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    return int(wanted[1]) if wanted else 0


@pytest.mark.parametrize("announced", [None, 400_000], ids=["cut", "short"])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, bucket, announced):
    server.put(NOW, BODY)
    starts = []

    def fault(request):
        if not is_get(request) or len(starts) == 3:
            return None
        starts.append(start_of(request))
        return broken_off(starts[-1], 400_000, announced=announced)

    server.fault = fault
    assert read(bucket) == BODY
    assert starts[0] == 0 < starts[1] < starts[2]


def test_a_connection_that_always_breaks_ends_in_an_error(server, bucket):
    server.put(NOW, BODY)
    server.fault = lambda request: broken_off(start_of(request), 5) if is_get(request) else None
    with pytest.raises(SwarmkeepError, match="cannot be reached") as caught:
        read(bucket)
    assert caught.value.exit_code == UNREACHABLE


def test_an_object_that_stays_shorter_than_listed_ends_in_an_error(server, bucket):
    server.put(NOW, BODY)
    server.fault = lambda request: (
        broken_off(start_of(request), 0, announced=0) if is_get(request) else None
    )
    with pytest.raises(SwarmkeepError, match="after 0 of 1500000 bytes") as caught:
        read(bucket)
    assert caught.value.exit_code == UNREACHABLE


def test_a_store_that_cannot_go_on_in_the_middle_is_not_believed(server, bucket):
    server.put(NOW, BODY)
    server.fault = lambda request: broken_off(0, 400_000) if is_get(request) else None
    with pytest.raises(SwarmkeepError, match="cannot resume at byte"):
        read(bucket)


def test_an_object_replaced_while_it_is_read_is_not_mixed(server, bucket):
    server.put(NOW, BODY)
    newest = bucket.newest("nocodb", NOW).backups[0]
    server.put(NOW, b"another")
    with pytest.raises(SwarmkeepError, match="replaced"):
        b"".join(bucket.read(newest.parts["dump"]))


def test_a_manifest_deleted_in_between_is_a_flaw(server, bucket):
    key = server.put(NOW)
    server.fault = lambda request: (
        refuse(404, "NoSuchKey")(request) if key in request.path else None
    )
    newest = bucket.newest("nocodb", NOW).backups[0]
    assert newest.flaw == "its manifest was deleted while this ran"
    assert newest.rung == "landed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "has format 2, known is 1"),
        ({"rows": {"public.t": -1}}, "-1 where a count belongs"),
        ({"rows": {"public.t": True}}, "True where a count belongs"),
        ({"parts": {"globals": {"key": "k", "bytes": 1, "sha256": "a" * 64}}}, "lacks 'dump'"),
        ({"parts": {"dump": {"key": "k", "bytes": 1, "sha256": "A" * 64}}}, "is no SHA-256"),
        ({"parts": []}, "where a mapping belongs"),
        ({"size": "8"}, "'8' where a count belongs"),
        ({"tool": "x\x1b[2J"}, "where a text belongs"),
    ],
)
def test_a_manifest_that_is_none_is_a_flaw(server, bucket, changes, said):
    server.put(NOW, **changes)
    newest = bucket.newest("nocodb", NOW).backups[0]
    assert said in newest.flaw
    assert newest.manifest is None


def test_a_dump_without_a_manifest_does_not_count(server, bucket):
    server.put(NOW, without=("manifest",))
    before = server.put(NOW - DAY)
    holding = bucket.newest("nocodb", NOW)
    assert [one.key for one in holding.backups] == [before]
    assert holding.incomplete == (NOW,)
    assert holding.others == ()


def test_proofs_are_read_with_their_sets(server, bucket):
    for i in range(4):
        server.put(NOW - i * DAY)
    good = {"format": 1, "outcome": "ok", "finished": "2026-11-22T10:00:00Z", "seconds": 12.5}
    bad = good | {"outcome": "failed", "reason": "public.t: 3 rows instead of 4"}
    backups = bucket.latest("nocodb", NOW, 4).backups
    bucket.record(backups[0], "drill", good)
    bucket.record(backups[1], "deep", good)
    bucket.record(backups[2], "drill", bad)
    server.put_object(backups[3].key.replace("manifest", "drill"), b"not json")
    seen = bucket.with_proofs("nocodb", bucket.latest("nocodb", NOW, 4).backups)
    assert [one.rung for one in seen] == ["drilled", "deep-read", "failed drill", "failed drill"]
    assert seen[0].proofs["drill"].seconds == 12.5
    assert seen[2].proofs["drill"].reason == "public.t: 3 rows instead of 4"


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, {}),
        ({"encryption": "AES256"}, {"": "AES256"}),
        (
            {"encryption": "aws:kms", "kms_key_id": "alias/backups"},
            {"": "aws:kms", "-aws-kms-key-id": "alias/backups"},
        ),
    ],
)
def test_an_outcome_is_encrypted_as_the_backups_are(server, tmp_path, settings, asked):
    own = open_bucket(tmp_path, server.url, **settings)
    seen = {}

    def fault(request):
        if request.method == "PUT":
            seen.update(request.headers)
        return

    server.put(NOW)
    server.fault = fault
    own.record(own.latest("nocodb", NOW, 1).backups[0], "deep", {"format": 1})
    start = "x-amz-server-side-encryption"
    found = {name.lower(): value for name, value in seen.items()}
    assert {k: v for k, v in found.items() if k.startswith(start)} == {
        f"{start}{end}": value for end, value in asked.items()
    }


def test_a_failed_deep_read_outweighs_a_good_drill(server, bucket):
    server.put(NOW)
    good = {"format": 1, "outcome": "ok", "finished": "2026-11-22T10:00:00Z", "seconds": 12.5}
    one = bucket.latest("nocodb", NOW, 1).backups[0]
    bucket.record(one, "drill", good)
    bucket.record(one, "deep", good | {"outcome": "failed", "reason": "ends early"})
    [seen] = bucket.with_proofs("nocodb", bucket.latest("nocodb", NOW, 1).backups)
    assert seen.rung == "failed deep read"


def test_databases_that_are_backed_up_together_share_times_and_nothing_else(server, bucket):
    good = {"format": 1, "outcome": "ok", "finished": "2026-11-22T10:00:00Z", "seconds": 12.5}
    server.put(NOW)
    bucket.record(bucket.latest("nocodb", NOW, 1).backups[0], "drill", good)
    server.put(NOW, database="other", without=("globals",))
    [mine] = bucket.latest("nocodb", NOW, 0).backups
    [other] = bucket.latest("other", NOW, 0).backups
    assert set(mine.parts) == {"dump", "globals", "manifest", "drill"}
    assert set(other.parts) == {"dump", "manifest"}
    assert all(part.key.startswith("postgres/other/") for part in other.parts.values())


def test_the_last_good_drill_is_one_request(server, bucket):
    assert bucket.last_drill("nocodb") is None
    text = b'{"format": 1, "outcome": "ok", "finished": "2026-11-22T10:00:00Z", "seconds": 9}'
    server.put_object("postgres/nocodb/drill.json", text)
    bucket.requests = 0
    assert bucket.last_drill("nocodb").finished == "2026-11-22T10:00:00Z"
    assert bucket.requests == 1


# --- refusals ----------------------------------------------------------------------------------


def refused(bucket: Bucket) -> SwarmkeepError:
    with pytest.raises(SwarmkeepError) as caught:
        bucket.newest("nocodb", NOW)
    error = caught.value
    assert f"bucket {bucket.name}" in error.message
    assert error.hint
    assert "\n" not in error.message
    assert "must-not-show" not in f"{error.message}{error.hint}{error.details}"
    return error


@pytest.mark.parametrize(
    ("status", "code", "said", "next_step"),
    [
        (403, "InvalidAccessKeyId", "access key", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "secret key", "backup.profile"),
        (400, "ExpiredToken", "expired", "aws sso login"),
        (400, "InvalidToken", "session token", "renew"),
        (403, "AccessDenied", "denies access", "s3:ListBucket"),
        (403, "RequestTimeTooSkewed", "clock", "date -u"),
        (301, "PermanentRedirect", "another region", "aws_region"),
        (400, "AuthorizationHeaderMalformed", "another region", "aws_region"),
        (418, "Teapot", "answered Teapot: no", "s3:ListBucket"),
    ],
)
def test_refusals_are_told_apart(server, bucket, status, code, said, next_step):
    server.fault = refuse(status, code)
    error = refused(bucket)
    assert error.exit_code == UNREACHABLE
    assert said in error.message
    assert next_step in error.hint
    assert server.url in error.message


def test_a_bucket_that_does_not_exist(server, bucket):
    server.client.delete_bucket(Bucket=BUCKET)
    try:
        error = refused(bucket)
    finally:
        server.client.create_bucket(Bucket=BUCKET)
    assert "does not exist" in error.message
    assert "s3_bucket_name" in error.hint
    assert error.exit_code == UNREACHABLE


def test_no_right_to_read_the_manifest(server, bucket):
    key = server.put(NOW)
    server.fault = lambda r: refuse(403, "AccessDenied")(r) if key in r.path else None
    error = refused(bucket)
    assert "denies access" in error.message
    assert "reading postgres/nocodb/backup_2026" in error.message
    assert "s3:GetObject" in error.hint


def test_the_region_the_bucket_names_is_in_the_hint():
    error = refusal("bucket b", "listing", "PermanentRedirect", region="eu-west-1")
    assert "aws_region: eu-west-1" in error.hint


def test_a_failing_store_is_tried_again_and_every_try_is_counted(server, bucket):
    for i in range(9):
        server.put(NOW - i * DAY)
    answers = [refuse(503, "SlowDown"), refuse(500, "InternalError")]
    server.fault = lambda request: answers.pop()(request) if answers else None
    assert bucket.newest("nocodb", NOW).backups
    assert bucket.requests == len(server.requests) == 4


def test_a_store_that_keeps_failing_is_given_up(server, bucket):
    server.fault = refuse(503, "SlowDown")
    error = refused(bucket)
    assert "is failing" in error.message
    assert bucket.requests == 3


def test_no_credentials(server, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refused(open_bucket(tmp_path, server.url))
    assert "no usable AWS credentials" in error.message
    assert error.exit_code == CONFIG
    assert server.requests == []


def test_half_of_the_credentials(server, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert refused(open_bucket(tmp_path, server.url)).exit_code == CONFIG


def test_an_unknown_profile(server, tmp_path):
    error = refused(open_bucket(tmp_path, server.url, profile="nobody"))
    assert "nobody" in error.message
    assert error.exit_code == CONFIG


def test_nobody_listens(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = refused(open_bucket(tmp_path, f"http://127.0.0.1:{port}"))
    assert "cannot be reached" in error.message
    assert f"127.0.0.1:{port}" in error.message
    assert error.exit_code == UNREACHABLE


def test_a_name_that_does_not_resolve(server, tmp_path, monkeypatch):
    def no_such_name(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    error = refused(open_bucket(tmp_path, "http://s3.example.invalid"))
    assert "s3.example.invalid" in error.message
    assert error.exit_code == UNREACHABLE


def test_something_that_is_no_s3(server, bucket):
    server.fault = lambda _request: Response("<html>hello", mimetype="text/html")
    assert refused(bucket).exit_code in (CONFIG, UNREACHABLE)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("NoCredentialsError", CONFIG),
        ("ConfigParseError", CONFIG),
        ("InvalidRegionError", CONFIG),
        ("UnauthorizedSSOTokenError", UNREACHABLE),
        ("CredentialRetrievalError", UNREACHABLE),
        ("ConnectTimeoutError", UNREACHABLE),
        ("ReadTimeoutError", UNREACHABLE),
        ("ProxyConnectionError", UNREACHABLE),
        ("SSLError", UNREACHABLE),
        ("IncompleteReadError", UNREACHABLE),
        ("OSError", UNREACHABLE),
    ],
)
def test_failures_of_this_side_have_the_right_exit_code(kind, code):
    error = failure("bucket b at x", "listing y", kind, "why")
    assert error.exit_code == code
    assert "why" in error.message
    assert error.hint


def test_custom_endpoints_are_addressed_by_path_and_aws_by_name(server, bucket, tmp_path):
    bucket.newest("nocodb", NOW)
    assert all(line.startswith(f"GET /{BUCKET}?") for line in server.requests)
    asked = []
    at_aws = open_bucket(tmp_path, "")
    at_aws.client.meta.events.register_first(
        "before-send.s3", lambda request, **_: asked.append(request.url) or _no_answer()
    )
    with pytest.raises(SwarmkeepError):
        at_aws.newest("nocodb", NOW)
    assert asked[0].startswith(f"https://{BUCKET}.s3.amazonaws.com/?list-type=2")


def _no_answer():
    raise OSError("nothing is sent")
