"""Encrypted backups as people see them: list, verify, prune, keys, rekey, over real HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from invoke.collection import Collection

from fabfile.backup.object_keys import EPOCH
from fabfile.base import age_encryption as age
from fabfile.commands import backup, keys, prune, rekey
from fabfile.vault.encryption import decrypt, encrypt
from tests.unit.command_line import runner
from tests.unit.s3_server import BUCKET, DATABASE, S3Server, manifest_of, refuse, write_hosts

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MINE, MY_PUBLIC = age.generate()
PAPER, PAPER_PUBLIC = age.generate()
STRANGER, STRANGERS_PUBLIC = age.generate()
BOTH = (MY_PUBLIC, PAPER_PUBLIC)
IDS = [age.key_id(one) for one in BOTH]
DUMP = gzip.compress(b"PGDMP" + os.urandom(30_000), 1)
CLUSTER = "7712743237616046103"


class Place:
    """A hosts file, a vault with entries, the bucket."""

    def __init__(self, folder, server: S3Server, capsys):
        self.folder, self.server = folder, server
        tree = Collection(
            Collection("backup", backup.list_, backup.verify, prune.prune, keys.keys, rekey.rekey)
        )
        self.inv = runner(tree, capsys)
        self.hosts(recipients=list(BOTH))
        self.vault(vault_backup_identity=MINE)

    def hosts(self, **settings):
        path = write_hosts(self.folder, self.server.url, files=False, **settings)
        data = yaml.safe_load(path.read_text())
        data["vault"] = {"file": "vault.yml", "password_file": "password"}
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        (self.folder / "password").write_text("correct horse\n")
        (self.folder / "password").chmod(0o600)
        os.environ["SWARMKEEP_HOSTS"] = str(path)

    def vault(self, **entries):
        lines = {"vault_postgres_password": "must-not-show", "vault_name_key": "k"} | entries
        text = "".join(f"{name}: '{value}'\n" for name, value in lines.items())
        (self.folder / "vault.yml").write_text(encrypt(text.encode(), "correct horse", None))

    def entries(self):
        text = (self.folder / "vault.yml").read_text()
        return yaml.safe_load(decrypt(text, "correct horse"))

    def recipients(self):
        return yaml.safe_load((self.folder / "hosts.yaml").read_text())["backup"]["recipients"]

    def put(self, when: datetime, recipients=BOTH, *, sealed: bool = False) -> str:
        """An encrypted set, as backup-pg.sh uploads it; returns its stamp."""
        second = int((when - EPOCH).total_seconds())
        stem = f"postgres/{DATABASE}/backup_{when:%Y%m%dT%H%M%SZ}"
        said = manifest_of(DATABASE, second, {})
        said["project"], said["expected_cluster"] = {"name": "", "id": ""}, CLUSTER
        said["cluster"] = CLUSTER
        for part, end, plain in (
            ("dump", "dump.gz", DUMP),
            ("globals", "globals.sql.gz", gzip.compress(b"CREATE ROLE noco;")),
        ):
            stored = age.encrypt(plain, recipients) if recipients else plain
            key = f"{stem}.{end}{'.age' if recipients else ''}"
            self.server.put_object(key, stored)
            sha256 = hashlib.sha256(stored).hexdigest()
            said["parts"][part] = {"key": key, "bytes": len(stored), "sha256": sha256}
        if recipients:
            said["recipients"] = [age.key_id(one) for one in recipients]
        if sealed:
            details = {"rows": said["rows"], "images": said["images"], "owner": "noco"}
            stored = age.encrypt(json.dumps(details).encode(), recipients)
            said |= {"rows": None, "images": {}}
            said["details"] = base64.b64encode(stored).decode()
        self.server.put_object(f"{stem}.manifest.json", json.dumps(said).encode())
        return stem[-16:]

    def keys_there(self, prefix: str = "") -> list[str]:
        answer = self.server.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for item in answer.get("Contents", [])]

    def manifest(self, stamp: str):
        key = f"postgres/{DATABASE}/backup_{stamp}.manifest.json"
        return json.loads(self.server.get_object(key))


@pytest.fixture
def place(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SWARMKEEP_HOSTS", "")
    return Place(tmp_path, server, capsys)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# ---- list and verify ----------------------------------------------------------------------------


def test_the_list_says_which_keys_each_set_needs(place):
    place.put(now() - DAY, recipients=())
    place.put(now() - HOUR)
    code, out, _ = place.inv("backup.list")
    assert code == 0
    lines = out.splitlines()
    assert ", ".join(IDS) in lines[-2]
    assert "clear" in lines[-1]
    data = json.loads(place.inv("backup.list", "--json")[1])
    assert [one["recipients"] for one in data["backups"]] == [IDS, []]


def test_a_good_encrypted_set_passes_and_costs_a_request_for_each_part(place):
    place.put(now() - HOUR)
    place.server.requests.clear()
    code, out, _ = place.inv("backup.verify")
    assert code == 0, out
    assert "encrypted" in out
    assert "for 2 keys, as 3 objects say" in out
    assert sum(".age" in one for one in place.server.requests) == 2


def test_what_should_be_encrypted_and_is_not_fails_with_4(place):
    place.put(now() - HOUR, recipients=())
    code, out, err = place.inv("backup.verify")
    assert code == 4
    assert "dump.gz: it is not encrypted" in out
    assert "encrypted" in err


def test_a_clear_object_under_an_encrypted_name_and_a_recipient_less_fail(place):
    stamp = place.put(now() - HOUR, recipients=(MY_PUBLIC,))
    code, out, _ = place.inv("backup.verify")
    assert code == 4
    assert "encrypted for 1 keys, not for the 2 recipients" in out
    key = f"postgres/{DATABASE}/backup_{stamp}.dump.gz.age"
    place.server.put_object(key, bytes(len(place.server.get_object(key))))
    code, out, _ = place.inv("backup.verify")
    assert code == 4
    assert f"{key}: it is not encrypted" in out


def test_manifests_that_should_be_encrypted(place):
    place.hosts(recipients=list(BOTH), manifest="encrypted")
    place.put(now() - HOUR)
    code, out, _ = place.inv("backup.verify")
    assert code == 4
    assert "it names tables and settings in clear" in out
    place.put(now() - HOUR + timedelta(seconds=9), sealed=True)
    assert place.inv("backup.verify")[0] == 0
    # Its rows are read where the identity is at hand, and not known where it is not.
    data = json.loads(place.inv("backup.list", "--json")[1])["backups"][0]["manifest"]
    assert data["owner"] == "noco"
    assert "details" not in data
    place.vault()
    code, out, _ = place.inv("backup.verify")
    assert code == 0, out


def test_a_deep_read_decrypts_with_the_identity_at_hand(place):
    place.put(now() - HOUR)
    code, out, _ = place.inv("backup.verify", "--deep")
    # No archive of pg_dump: so far it was decrypted and decompressed.
    assert "whole, 29.3 KiB when decompressed" in out
    assert "as recorded" in out
    place.vault()
    code, out, err = place.inv("backup.verify", "--deep")
    assert code == 4
    assert "not checked: it is encrypted, and the identity of none of its keys is at hand" in out
    assert "--identity FILE" in err
    paper = place.folder / "paper"
    paper.write_text(PAPER)
    paper.chmod(0o600)
    _, out, _ = place.inv("backup.verify", "--deep", "--identity", str(paper))
    assert "whole, 29.3 KiB when decompressed" in out


def test_damaged_ciphertext_with_a_right_sum_fails_the_deep_read(place):
    stamp = place.put(now() - HOUR)
    key = f"postgres/{DATABASE}/backup_{stamp}.dump.gz.age"
    stored = bytearray(place.server.get_object(key))
    stored[-1] ^= 1
    said = place.manifest(stamp)
    said["parts"]["dump"]["sha256"] = hashlib.sha256(stored).hexdigest()
    place.server.put_object(key, bytes(stored))
    place.server.put_object(f"{key[:-12]}.manifest.json", json.dumps(said).encode())
    code, out, _ = place.inv("backup.verify", "--deep")
    assert code == 4
    assert "cannot be decrypted: it is damaged or cut off" in out


# ---- prune --------------------------------------------------------------------------------------


def test_prune_keeps_the_last_set_that_todays_keys_can_read(place):
    place.hosts(recipients=list(BOTH), keep_daily=1, keep_weekly=0, keep_monthly=0, keep_min=1)
    readable = place.put(now() - 5 * DAY)
    place.put(now() - 4 * DAY, recipients=(STRANGERS_PUBLIC,))
    newest = place.put(now() - DAY, recipients=(STRANGERS_PUBLIC,))
    data = json.loads(place.inv("backup.prune", "--json")[1])
    kept = {one["set"]: one["because"] for one in data["sets"] if one["verdict"] == "keep"}
    assert set(kept) == {readable, newest}
    assert kept[readable] == ["newest that today's keys can read"]
    # Whoever has the stranger's identity needs the older one no more.
    place.vault(vault_backup_identity=MINE, vault_backup_identity_former=STRANGER)
    data = json.loads(place.inv("backup.prune", "--json")[1])
    assert [one["set"] for one in data["sets"] if one["verdict"] == "keep"] == [newest]


# ---- keys ---------------------------------------------------------------------------------------


def test_new_keys_one_in_the_vault_one_for_paper(place):
    place.hosts()
    place.vault()
    assert "backups are not encrypted" in place.inv("backup.keys")[1]
    code, _, err = place.inv("backup.keys", "--new", "--write")
    assert code == 2
    assert "stdout is no terminal" in err
    assert "vault_backup_identity" not in place.entries()
    paper = place.folder / "paper"
    code, out, _ = place.inv("backup.keys", "--new", "--write", "--paper", str(paper))
    assert code == 0
    mine = place.entries()["vault_backup_identity"]
    assert mine.startswith("AGE-SECRET-KEY-1")
    assert "AGE-SECRET" not in out
    assert paper.stat().st_mode & 0o777 == 0o600
    assert place.recipients() == [age.public_of(mine), age.public_of(paper.read_text().strip())]
    _, out, _ = place.inv("backup.keys")
    assert "vault_backup_identity" in out
    assert "not in the vault: on paper" in out
    assert "warning" not in out


def test_new_keys_never_replace_what_sets_need(place):
    paper = ("--paper", str(place.folder / "new"))
    code, _, err = place.inv("backup.keys", "--new", *paper)
    assert code == 2
    assert "has a vault_backup_identity already" in err
    assert place.entries()["vault_backup_identity"] == MINE
    code, _, _ = place.inv("backup.keys", "--new", "--replace", "--write", *paper)
    assert code == 0
    there = place.entries()
    assert there["vault_backup_identity_former"] == MINE
    assert there["vault_backup_identity"] != MINE
    assert MY_PUBLIC not in place.recipients()
    code, _, err = place.inv("backup.keys", "--new", "--replace", *paper)
    assert code == 2
    assert "is there already" in err
    code, _, err = place.inv("backup.keys", "--new", "--replace", "--paper", f"{paper[1]}2")
    assert code == 2
    assert "has a vault_backup_identity_former already" in err


def test_one_recipient_is_a_warning_with_the_reason(place):
    place.hosts(recipients=[MY_PUBLIC])
    _, out, _ = place.inv("backup.keys")
    assert "warning: backups are encrypted for one key only: if its identity is lost, so is" in out


# ---- rekey --------------------------------------------------------------------------------------


def test_rekey_encrypts_what_is_clear_or_for_others(place):
    clear = place.put(now() - 3 * DAY, recipients=())
    others = place.put(now() - 2 * DAY, recipients=(STRANGERS_PUBLIC,), sealed=True)
    right = place.put(now() - DAY)
    place.server.put_object("files/appstack/data/nc/one.txt", b"one")
    place.server.put_object("files/appstack/data/nc/two.txt", b"two")
    place.server.put_object("files/appstack/encrypted/nc/two.txt.age", age.encrypt(b"two", BOTH))
    place.vault(vault_backup_identity=MINE, vault_backup_identity_former=STRANGER)
    before = place.keys_there()
    code, out, _ = place.inv("backup.rekey")
    assert code == 0
    assert "2 sets, 3 files, 0 base backups, 0 segments of WAL to encrypt" in out
    assert "nothing was changed" in out
    assert place.keys_there() == before
    code, out, err = place.inv("backup.rekey", "--yes")
    assert code == 0, err
    for stamp in (clear, others):
        said = place.manifest(stamp)
        assert said["recipients"] == IDS
        for part, plain in (("dump", DUMP), ("globals", gzip.compress(b"CREATE ROLE noco;"))):
            stored = place.server.get_object(said["parts"][part]["key"])
            for private in (MINE, PAPER):
                assert gzip.decompress(age.decrypt(stored, private)) == gzip.decompress(plain)
            with pytest.raises(age.WrongIdentityError):
                age.decrypt(stored, STRANGER)
    details = base64.b64decode(place.manifest(others)["details"])
    assert json.loads(age.decrypt(details, PAPER))["rows"] == {
        "public.nc_users_v2": 1,
        "p1.notes": 3,
    }
    # The lines that the node's scripts read.
    text = place.server.get_object(f"postgres/nocodb/backup_{clear}.manifest.json").decode()
    line = f'"project": {{"name": "", "id": ""}}, "expected_cluster": "{CLUSTER}",'
    assert line in text.splitlines()
    assert place.keys_there("files/") == [
        "files/appstack/encrypted/nc/one.txt.age",
        "files/appstack/encrypted/nc/two.txt.age",
    ]
    stored = place.server.get_object("files/appstack/encrypted/nc/one.txt.age")
    assert age.decrypt(stored, PAPER) == b"one"
    assert len(place.keys_there("postgres/")) == 9
    assert right in "".join(place.keys_there())
    assert place.inv("backup.verify")[0] == 0
    code, out, _ = place.inv("backup.rekey", "--yes")
    assert (code, "nothing to encrypt" in out) == (0, True)


def test_rekey_knows_the_volumes_of_other_apps(place):
    path = place.folder / "hosts.yaml"
    data = yaml.safe_load(path.read_text())
    data["backup"]["files"] = True
    data["apps"] = {"kinto": {"image": "kinto:1", "volumes": "data"}}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    place.put(now() - DAY)
    place.server.put_object("files/kintostack_data/data/invoice.txt", b"an invoice")
    theirs = age.encrypt(b"a letter", (STRANGERS_PUBLIC,))
    place.server.put_object("files/kintostack_data/encrypted/letter.txt.age", theirs)
    place.vault(vault_backup_identity=MINE, vault_backup_identity_former=STRANGER)
    assert "0 sets, 2 files" in place.inv("backup.rekey")[1]
    code, _, err = place.inv("backup.rekey", "--yes")
    assert code == 0, err
    for name, content in (("invoice.txt", b"an invoice"), ("letter.txt", b"a letter")):
        stored = place.server.get_object(f"files/kintostack_data/encrypted/{name}.age")
        assert age.decrypt(stored, PAPER) == content
    assert "nothing to encrypt" in place.inv("backup.rekey")[1]


def test_a_rekey_that_was_cut_off_leaves_the_set_whole_and_is_finished(place, monkeypatch):
    stamp = place.put(now() - HOUR, recipients=())
    fails = {"left": 1}

    def fault(request):
        # The manifest cannot be written: the new parts are there, nothing names them.
        if request.method == "PUT" and "manifest" in request.path and fails["left"]:
            return refuse(403, "AccessDenied", method="PUT")(request)
        return None

    place.server.fault = fault
    try:
        code, _, err = place.inv("backup.rekey", "--yes")
        assert code == 3, err
        assert place.manifest(stamp)["parts"]["dump"]["key"].endswith(".dump.gz")
        fails["left"] = 0
        # It is the clear one, and it is whole.
        data = json.loads(place.inv("backup.list", "--json")[1])["backups"][0]
        assert (data["flaw"], data["recipients"]) == ("", [])
        # Now nothing can be deleted.
        place.server.fault = refuse(403, "AccessDenied", method="DELETE")
        assert place.inv("backup.rekey", "--yes")[0] == 3
    finally:
        place.server.fault = None
    data = json.loads(place.inv("backup.list", "--json")[1])["backups"][0]
    assert (data["flaw"], data["recipients"]) == ("", IDS)
    assert place.inv("backup.rekey", "--yes")[0] == 0
    # What was left may be another run's that is at it: it stays for a day.
    assert len(place.keys_there(f"postgres/{DATABASE}/")) > 3
    monkeypatch.setattr("fabfile.s3.reencryption.LEFT_FOR", timedelta(seconds=-60))
    assert place.inv("backup.rekey", "--yes")[0] == 0
    assert len(place.keys_there(f"postgres/{DATABASE}/")) == 3
    assert place.inv("backup.verify")[0] == 0


def test_a_rekey_without_the_identity_changes_nothing(place):
    place.put(now() - HOUR, recipients=(STRANGERS_PUBLIC,))
    before = place.keys_there()
    code, _, err = place.inv("backup.rekey", "--yes")
    assert code == 2
    assert "no identity at hand can decrypt it; it stays as it is" in err
    assert place.keys_there() == before
    place.hosts()
    code, _, err = place.inv("backup.rekey")
    assert code == 2
    assert "backup.recipients is empty" in err


def test_rekey_of_base_backups_and_wal(place, monkeypatch):
    place.put(now() - HOUR)
    server = place.server
    folder, stamp = put_base(place)
    begun = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    for number in (1, 2):
        text = b"segment %d" % number
        name = f"00000001000000000000000{number}"
        md5 = hashlib.md5(text, usedforsecurity=False).hexdigest()
        when = f"{begun + timedelta(minutes=number):%Y%m%dT%H%M%SZ}"
        server.put_object(f"{folder}0000000100000000/{name}_{when}_{md5}.gz", text)
    place.hosts(recipients=list(BOTH), pitr=True)
    code, out, _ = place.inv("backup.verify")
    assert "wal encrypted" in out
    assert "it is not encrypted" in out
    # It is cut off after the first segment was written anew, before the former one was deleted.
    refused = []

    def fault(request):
        if request.method == "DELETE" and "/0000" in request.path and not refused:
            refused.append(request.path)
            return refuse(403, "AccessDenied", method="DELETE")(request)
        return None

    server.fault = fault
    try:
        assert place.inv("backup.rekey", "--yes")[0] == 3
    finally:
        server.fault = None
    assert refused
    # With both there, the way goes over the new one.
    listed = json.loads(place.inv("backup.list", "--json")[1])["wal"]
    assert listed["bases"][0]["flaw"] == ""
    code, out, err = place.inv("backup.rekey", "--yes")
    assert code == 0, err
    monkeypatch.setattr("fabfile.s3.reencryption.LEFT_FOR", timedelta(seconds=-60))
    code, out, err = place.inv("backup.rekey", "--yes")
    assert code == 0, err
    found = place.keys_there(folder)
    assert len(found) == 4
    assert all(key.endswith((".age", ".json")) for key in found)
    segments = [key for key in found if "/0000" in key]
    for key, text in zip(segments, (b"segment 1", b"segment 2"), strict=True):
        assert age.decrypt(server.get_object(key), PAPER) == text
    listed = json.loads(place.inv("backup.list", "--json")[1])["wal"]
    assert listed["bases"][0]["flaw"] == ""
    assert listed["segments"] == 2
    assert "nothing to encrypt" in place.inv("backup.rekey")[1]


def test_a_rekey_of_what_was_changed_meanwhile_keeps_it_as_the_evidence(place):
    stamp = place.put(now() - HOUR, recipients=())
    key = f"postgres/{DATABASE}/backup_{stamp}.dump.gz"
    spoiled = bytearray(place.server.get_object(key))
    spoiled[-20] ^= 1
    place.server.put_object(key, bytes(spoiled))
    before = place.keys_there()
    code, _, err = place.inv("backup.rekey", "--yes")
    assert code == 4
    assert "is damaged: it is not what was recorded of it; it stays as it is" in err
    assert place.keys_there() == before
    assert place.manifest(stamp)["parts"]["dump"]["key"] == key


def test_a_rekey_cut_off_at_a_base_backup_deletes_nothing_that_is_named(place, monkeypatch):
    """The new object is there, its manifest is not."""
    place.put(now() - HOUR)
    place.hosts(recipients=list(BOTH), pitr=True)
    monkeypatch.setattr("fabfile.s3.reencryption.LEFT_FOR", timedelta(seconds=-60))
    folder, stamp = put_base(place)
    failing = {"left": 1}

    def fault(request):
        if request.method == "PUT" and request.path.endswith(".json") and failing["left"]:
            failing["left"] = 0
            return refuse(403, "AccessDenied", method="PUT")(request)
        return None

    place.server.fault = fault
    try:
        assert place.inv("backup.rekey", "--yes")[0] == 3
    finally:
        place.server.fault = None
    for _ in range(2):
        assert place.inv("backup.rekey", "--yes")[0] == 0
        said = json.loads(place.server.get_object(f"{folder}base_{stamp}.json"))
        stored = place.server.get_object(said["key"])
        assert hashlib.sha256(stored).hexdigest() == said["sha256"]
        assert age.decrypt(stored, MINE) == b"a base backup"
    assert len([one for one in place.keys_there(folder) if "/base_" in one]) == 2


def put_base(place) -> tuple[str, str]:
    folder, begun = f"wal/{CLUSTER}/", now() - timedelta(minutes=30)
    stamp, base = f"{begun:%Y%m%dT%H%M%SZ}", b"a base backup"
    place.server.put_object(f"{folder}base_{stamp}.tar.gz", base)
    said = {
        "format": 1, "parent": "", "cluster": CLUSTER, "finished": stamp, "seconds": 1,
        "key": f"{folder}base_{stamp}.tar.gz", "bytes": len(base), "size": 1,
        "sha256": hashlib.sha256(base).hexdigest(), "segment": "0" * 7 + "1" + "0" * 15 + "1",
        "segment_bytes": 16777216, "server_version_num": 150014,
    }  # fmt: skip
    place.server.put_object(f"{folder}base_{stamp}.json", json.dumps(said).encode())
    return folder, stamp


def test_what_rekey_cannot_touch_is_said_with_4(place):
    place.put(now() - 2 * DAY, recipients=())
    torn = place.put(now() - DAY, recipients=())
    place.server.client.delete_object(
        Bucket=BUCKET, Key=f"postgres/{DATABASE}/backup_{torn}.globals.sql.gz"
    )
    place.server.put_object("postgres/former/backup_20260101T000000Z.manifest.json", b"{}")
    code, out, err = place.inv("backup.rekey", "--yes")
    assert code == 4
    assert f"not touched: set {torn} of nocodb: " in out
    assert "not touched: postgres/former/: of a database that pg_db does not name" in out
    assert "2 sets or objects could not be encrypted" in err


def test_keys_that_were_exchanged_for_others_fail_verify_though_their_number_is_right(place):
    place.put(now() - HOUR, recipients=(MY_PUBLIC, STRANGERS_PUBLIC))
    code, out, _ = place.inv("backup.verify")
    assert code == 4
    assert "it is for keys " in out


def test_without_a_project_rekey_touches_nobodys_sets(place):
    place.put(now() - HOUR, recipients=())
    before = place.keys_there()
    (place.folder / "password").unlink()
    code, _, err = place.inv("backup.rekey", "--yes")
    assert code == 2
    assert "which project this is, is not known" in err
    assert place.keys_there() == before
