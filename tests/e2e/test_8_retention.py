"""prune and the bucket's settings on the real S3 server, which has versions and Object Lock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from fabfile.backup.object_keys import EPOCH, Keys
from lab import s3
from tests.unit.s3_server import manifest_of

DATABASE = "prunedb"
POLICY = {"keep_daily": 2, "keep_weekly": 0, "keep_monthly": 0, "keep_yearly": 0, "keep_min": 1}
DAY = timedelta(days=1)


def put(bucket, name: str, when: datetime, **lock) -> str:
    """Put a set there as backup-pg.sh does, and return its time stamp."""
    second = int((when - EPOCH).total_seconds())
    contents = {"dump": b"x" * 20_000, "globals": b"y"}
    contents["manifest"] = json.dumps(manifest_of(DATABASE, second, contents)).encode()
    for part, content in contents.items():
        key = Keys(DATABASE).part(second, part)
        bucket.put_object(Bucket=name, Key=key, Body=content, **lock)
    return f"{when:%Y%m%dT%H%M%SZ}"


def noon(days: int) -> datetime:
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return now - DAY - days * DAY


def stamps(bucket, name: str) -> set[str]:
    found = bucket.list_objects_v2(Bucket=name, Prefix=f"postgres/{DATABASE}/").get("Contents", [])
    return {item["Key"].partition("backup_")[2][:16] for item in found}


def empty(bucket, name: str) -> None:
    """Remove every version of everything of ours."""
    listed = bucket.list_object_versions(Bucket=name, Prefix=f"postgres/{DATABASE}/")
    for item in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]:
        bucket.delete_object(
            Bucket=name,
            Key=item["Key"],
            VersionId=item["VersionId"],
            BypassGovernanceRetention=True,
        )


@pytest.fixture
def own(lab, bucket, variant):
    """A bucket of this test's own, made by nobody yet, and a hosts file that names it."""
    name = f"{lab.bucket}-own"
    yield name, variant({"s3_bucket_name": name, "pg_db": DATABASE, "backup": POLICY})
    if name in {one["Name"] for one in bucket.list_buckets()["Buckets"]}:
        empty(bucket, name)
        bucket.delete_bucket(Bucket=name)


def test_a_bucket_from_nothing(product, lab, bucket, own):
    name, hosts = own
    assert "does not exist" in product.fails(4, "bucket.check", hosts=hosts).out
    ran = product.ok("bucket.setup", hosts=hosts)
    assert "nothing was changed" in ran.out
    # This server has no default encryption with AES256: that is said, and holds up nothing.
    ran = product.fails(3, "bucket.setup", "--yes", hosts=hosts)
    assert "encrypt with AES256 by default" in ran.err
    assert "it may be that this store does not offer it" in ran.err
    ran = product.fails(4, "bucket.check", hosts=hosts)
    assert "failed 1 of 7 checks: encryption" in ran.err
    ran = product.ok("bucket.setup", hosts=hosts)
    assert ran.out.splitlines()[0] == "encrypt with AES256 by default"
    rules = bucket.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert {rule["ID"] for rule in rules} == {
        "swarmkeep-aborted-uploads",
        "swarmkeep-old-versions",
    }

    # Uploads still work after all that: Ceph refuses them under one of AWS's settings.
    made = [put(bucket, name, noon(day)) for day in range(5)]
    ran = product.ok("backup.prune", hosts=hosts)
    assert "3 of 5 sets would be deleted" in ran.out
    assert stamps(bucket, name) == set(made)
    ran = product.ok("backup.prune", "--yes", hosts=hosts)
    assert "deleted 3 of 5 sets" in ran.out
    assert "versioning is on: what is deleted stays as an old version" in ran.out
    assert stamps(bucket, name) == set(made[:2])
    assert "nothing to delete" in product.ok("backup.prune", "--yes", hosts=hosts).out


def test_object_lock_is_understood(product, lab, bucket, own):
    name, hosts = own
    bucket.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    until = datetime.now(UTC) + timedelta(minutes=10)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    kept = [put(bucket, name, noon(day)) for day in range(2)]
    locked = put(bucket, name, noon(2), **lock)
    gone = put(bucket, name, noon(3))
    ran = product.ok("backup.prune", "--yes", "--json", hosts=hosts)
    verdicts = {one["set"]: one["verdict"] for one in json.loads(ran.out)["sets"]}
    assert verdicts == {kept[0]: "keep", kept[1]: "keep", locked: "locked", gone: "goes"}
    assert stamps(bucket, name) == {*kept, locked}
    ran = product.ok("backup.prune", hosts=hosts)
    assert "1 cannot be deleted yet: they are locked" in ran.out
    assert "with Object Lock" in product.inv("bucket.check", hosts=hosts).out


def test_who_only_looks_needs_no_more_than_the_operators_printed_policy(product, lab, bucket, own):
    name, hosts = own
    bucket.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    printed = product.ok("bucket.policies", "--party", "operator", hosts=hosts).out
    policy = json.loads(printed)
    for statement in policy["Statement"]:
        statement["Principal"] = s3.principal("onlooker")
        # This server refuses a policy with a right that it has no name for: prune asks for
        # no default encryption.
        statement["Action"] = [
            right for right in statement["Action"] if right != "s3:GetEncryptionConfiguration"
        ]
    bucket.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    key = s3.key_of(lab, "onlooker")
    env = {"AWS_ACCESS_KEY_ID": key["access_key"], "AWS_SECRET_ACCESS_KEY": key["secret_key"]}

    until = datetime.now(UTC) + timedelta(minutes=10)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    made = [put(bucket, name, noon(day)) for day in range(2)]
    made += [put(bucket, name, noon(2), **lock), put(bucket, name, noon(3))]
    assert made[0] in product.ok("backup.list", hosts=hosts, env=env).out
    ran = product.ok("backup.prune", "--json", hosts=hosts, env=env)
    verdicts = [one["verdict"] for one in json.loads(ran.out)["sets"]]
    assert verdicts == ["keep", "keep", "locked", "goes"]
    ran = product.fails(3, "backup.prune", "--yes", hosts=hosts, env=env)
    assert "denies s3:DeleteObject" in ran.err
    assert stamps(bucket, name) == set(made)


def test_whoever_may_not_delete_is_told_which_right_is_missing(product, lab, bucket, variant):
    """The node's key, in the hands of somebody who types prune."""
    hosts = variant({"pg_db": DATABASE, "backup": POLICY})
    made = [put(bucket, lab.bucket, noon(day)) for day in range(4)]
    node = lab.secrets[s3.NODE]
    env = {
        "AWS_ACCESS_KEY_ID": node["access_key"],
        "AWS_SECRET_ACCESS_KEY": node["secret_key"],
    }
    try:
        ran = product.fails(3, "backup.prune", "--yes", hosts=hosts, env=env)
        assert "denies s3:" in ran.err
        assert stamps(bucket, lab.bucket) == set(made)
    finally:
        empty(bucket, lab.bucket)
