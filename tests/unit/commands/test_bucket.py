"""inv bucket.check, setup and policies as people type them, over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invoke.collection import Collection

from fabfile.commands import bucket
from fabfile.config.hosts_file import load
from fabfile.s3 import bucket_settings, policies
from fabfile.s3.bucket_settings import Settings, judge
from tests.unit.command_line import runner
from tests.unit.s3_server import BUCKET, S3Server, own_credentials, refuse, write_hosts

GOOD_BLOCK = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)


def rule(prefix: str = "", **actions) -> dict:
    return {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": prefix}, **actions}


ABORT = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}
OLD = {"NoncurrentVersionExpiration": {"NoncurrentDays": 9}}


@pytest.fixture
def server(monkeypatch, tmp_path):
    own_credentials(monkeypatch)
    with S3Server().running() as made:
        monkeypatch.setenv("SWARMKEEP_HOSTS", str(write_hosts(tmp_path, made.url)))
        yield made


@pytest.fixture
def backup(tmp_path):
    def make(**changes):
        return load(write_hosts(tmp_path, "http://127.0.0.1:1", **changes)).backup

    return make


@pytest.fixture
def inv(capsys):
    return runner(
        Collection(Collection("bucket", bucket.check, bucket.setup, bucket.policies)), capsys
    )


def changing(server) -> list[str]:
    return [request for request in server.requests if not request.startswith(("GET", "HEAD"))]


def test_a_plain_bucket_fails_by_name_and_with_the_next_step(server, inv):
    code, out, err = inv("bucket.check")
    assert code == 4
    assert "versioning, public access" in err
    assert "next: inv bucket.setup shows what it would set" in err
    assert "whoever gets a node's key can overwrite every backup" in out
    assert changing(server) == []


def test_setup_shows_first_then_sets_then_has_nothing_to_do(server, inv):
    code, out, _ = inv("bucket.setup")
    assert code == 0
    assert "switch versioning on" in out
    assert "nothing was changed: inv bucket.setup --yes does this" in out
    assert changing(server) == []
    code, out, _ = inv("bucket.setup", "--yes", "--old-versions", "12")
    assert (code, "set; next: inv bucket.check" in out) == (0, True)
    server.requests.clear()
    code, out, _ = inv("bucket.setup", "--yes")
    assert (code, changing(server)) == (0, [])
    assert "nothing to change" in out
    code, out, _ = inv("bucket.check", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["ok"]
    assert {c["name"] for c in document["checks"]} == {
        "bucket",
        "versioning",
        "public access",
        "encryption",
        "aborted uploads",
        "old versions",
        "expiry",
    }
    rules = server.client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert {r["ID"] for r in rules} == {bucket_settings.ABORTED, bucket_settings.OLD}
    old = next(r for r in rules if r["ID"] == bucket_settings.OLD)
    assert old["NoncurrentVersionExpiration"]["NoncurrentDays"] == 12


def test_rules_of_others_stay(server, inv):
    theirs = rule("logs/", Expiration={"Days": 90}) | {"ID": "theirs"}
    server.client.put_bucket_lifecycle_configuration(
        Bucket=BUCKET, LifecycleConfiguration={"Rules": [theirs]}
    )
    assert inv("bucket.setup", "--yes")[0] == 0
    rules = server.client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    kept = next(r for r in rules if r["ID"] == "theirs")
    assert kept["Expiration"]["Days"] == 90
    assert len(rules) >= 2


def test_a_bucket_that_is_not_there_is_made(server, inv):
    server.client.delete_bucket(Bucket=BUCKET)
    code, out, err = inv("bucket.check")
    assert (code, "does not exist" in out + err) == (4, True)
    code, out, _ = inv("bucket.setup")
    assert f"create {BUCKET} in us-east-1" in out
    assert "nothing was changed" in out
    assert inv("bucket.setup", "--yes")[0] == 0
    assert inv("bucket.check")[0] == 0


def test_a_missing_right_is_named(server, inv):
    server.fault = refuse(403, "AccessDenied", method="PUT")
    code, _, err = inv("bucket.setup", "--yes")
    assert code == 3
    assert "denies s3:PutBucketVersioning" in err
    server.fault = refuse(403, "AccessDenied")
    code, _, err = inv("bucket.check")
    assert code == 3
    assert "denies s3:GetBucket" in err


def test_a_setting_that_is_refused_holds_up_no_other(server, inv):
    from werkzeug.wrappers import Response

    def refuses(request):
        if request.method == "PUT" and "encryption" in request.args:
            return Response("<Error><Code>InvalidArgument</Code></Error>", status=400)
        return None

    server.fault = refuses
    code, out, err = inv("bucket.setup", "--yes")
    assert code == 3
    assert "answered InvalidArgument (encrypt with AES256 by default)" in err
    assert "lifecycle: remove old versions" in out
    server.fault = None
    _, out, _ = inv("bucket.setup")
    assert out.splitlines()[0] == "encrypt with AES256 by default"


def test_dry_changes_nothing(server, inv):
    assert inv("--dry", "bucket.setup", "--yes")[0] == 0
    assert changing(server) == []


def test_wrong_flags(server, inv):
    assert inv("bucket.setup", "--old-versions", "0")[0] == 2
    assert inv("bucket.policies", "--party", "everybody")[0] == 2
    assert server.requests == []


def test_policies_are_the_least(server, inv):
    code, out, _ = inv("bucket.policies")
    assert code == 0
    found = json.loads(out)
    assert set(found) == set(policies.PARTIES)
    rights = {
        party: {right for s in policy["Statement"] for right in s["Action"]}
        for party, policy in found.items()
    }
    assert not any("Delete" in right for right in rights["node"] | rights["operator"])
    assert "s3:DeleteObject" in rights["pruner"]
    assert not any("Version" in right and "Delete" in right for right in rights["pruner"])
    assert not any("*" in right for party in rights.values() for right in party)
    assert json.loads(inv("bucket.policies", "--party", "node")[1]) == found["node"]


def test_who_only_looks_with_prune_may_ask_what_it_asks(server, inv):
    [right] = (
        s
        for s in json.loads(inv("bucket.policies", "--party", "operator")[1])["Statement"]
        if "s3:GetObjectRetention" in s["Action"]
    )
    assert set(right["Action"]) == {"s3:GetObjectRetention", "s3:GetObjectLegalHold"}
    assert right["Resource"] == [f"arn:aws:s3:::{BUCKET}/{kind}/*" for kind in ("postgres", "wal")]


ALIAS = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/backups"}}


@pytest.mark.parametrize(
    ("key", "resource", "condition"),
    [
        ("1234-ab", "arn:aws:kms:eu-west-1:*:key/1234-ab", None),
        ("key/1234-ab", "arn:aws:kms:eu-west-1:*:key/1234-ab", None),
        ("arn:aws:kms:us-east-2:111:key/1234-ab", "arn:aws:kms:us-east-2:111:key/1234-ab", None),
        ("alias/backups", "arn:aws:kms:eu-west-1:*:key/*", ALIAS),
        ("arn:aws:kms:us-east-2:111:alias/backups", "arn:aws:kms:us-east-2:111:key/*", ALIAS),
    ],
)
def test_a_kms_key_is_named_as_policies_name_keys(key, resource, condition):
    found = policies.policies("b", "eu-west-1", key)
    for party in ("node", "operator", "pruner"):
        allowed = found[party]["Statement"][-1]
        assert allowed["Action"] == ["kms:GenerateDataKey", "kms:Decrypt"]
        assert allowed["Resource"] == [resource]
        assert allowed.get("Condition") == condition
    assert "kms" not in json.dumps(found["owner"])
    assert "kms" not in json.dumps(policies.policies("b", "eu-west-1"))


def test_the_nodes_policy_is_the_one_in_the_documentation():
    text = (Path(__file__).parents[3] / "docs" / "backup.md").read_text()
    shown = text.partition("## Permissions")[2].partition("```json")[2].partition("```")[0]
    assert json.loads(shown) == policies.policies("BUCKET", "us-east-1")["node"]


@pytest.mark.parametrize(
    ("changes", "name", "ok"),
    [
        ({"versioning": "Enabled"}, "versioning", True),
        ({"versioning": "Suspended"}, "versioning", False),
        ({"public_block": GOOD_BLOCK}, "public access", True),
        ({"public_block": GOOD_BLOCK | {"IgnorePublicAcls": False}}, "public access", False),
        ({"encryption": "AES256"}, "encryption", True),
        ({"encryption": ""}, "encryption", False),
        ({"rules": [rule(**ABORT)]}, "aborted uploads", True),
        ({"rules": [rule("postgres/", **ABORT)]}, "aborted uploads", False),
        (
            {"rules": [rule("postgres/", **ABORT), rule("files/", **ABORT)]},
            "aborted uploads",
            True,
        ),
        ({"rules": [rule(**ABORT) | {"Status": "Disabled"}]}, "aborted uploads", False),
        (
            {"rules": [rule(**ABORT) | {"Filter": {"Tag": {"Key": "a"}}}]},
            "aborted uploads",
            False,
        ),
        ({"versioning": "Enabled"}, "old versions", False),
        ({"versioning": "Enabled", "rules": [rule(**OLD)]}, "old versions", True),
        ({"versioning": ""}, "old versions", True),
        ({"rules": [rule("files/", Expiration={"Days": 30})]}, "expiry", False),
        ({"rules": [rule(Expiration={"Days": 30})]}, "expiry", False),
        ({"rules": [rule("logs/", Expiration={"Days": 30})]}, "expiry", True),
    ],
)
def test_each_verdict(backup, changes, name, ok):
    found = {c.name: c for c in judge(Settings(exists=True, **changes), backup())}
    assert found[name].ok is ok
    assert found[name].detail
    assert ok or found[name].hint


def test_another_encryption_than_hosts_yaml_wants(backup):
    wanted = backup(encryption="aws:kms")
    found = {c.name: c for c in judge(Settings(exists=True, encryption="AES256"), wanted)}
    assert not found["encryption"].ok
    assert "backup.encryption in hosts.yaml is aws:kms" in found["encryption"].detail


def test_a_store_that_lacks_a_setting_is_no_failure_of_ours(server, inv):
    from werkzeug.wrappers import Response

    def lacks(request):
        if "encryption" in request.args or "publicAccessBlock" in request.args:
            return Response("<Error><Code>NotImplemented</Code></Error>", status=501)
        return None

    server.fault = lacks
    code, out, err = inv("bucket.check")
    assert "this store has no such setting (NotImplemented)" in out
    assert "encryption" not in err
    assert code == 4
    assert "encrypt" not in inv("bucket.setup")[1]
