"""Whether what should be encrypted for the recipients of hosts.yaml is: by the objects' headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fabfile.backup.object_keys import files_folder
from fabfile.base import age_encryption
from fabfile.base.check import Check

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.sets import BackupSet, FilesState
    from fabfile.wal.chain import History


def encrypted(name: str, recipients: int, flaws: Mapping[str, str]) -> Check:
    """Whether what should be encrypted is. `flaws` as for `judge`: nothing looked at fails."""
    wrong = [f"{key}: {flaw}" for key, flaw in flaws.items() if flaw]
    if wrong or not flaws:
        detail = "; ".join(wrong) or "no object was found to look at"
        return Check(
            name,
            False,
            detail,
            "backup.recipients says that it should be: inv backup.install puts that on the hosts, "
            "inv backup.run makes a new set, inv backup.rekey encrypts what is there",
        )
    keys = f"{recipients} key{'s' if recipients > 1 else ''}"
    return Check(name, True, f"for {keys}, as {len(flaws)} objects say")


def flaw(bucket: Bucket, key: str) -> str:
    """What is wrong with an object that should be encrypted, as far as its header tells; "" for
    nothing.
    """
    header = bucket.beginning(key, age_encryption.HEADER)
    return age_encryption.encrypted_for(header, bucket.backup.recipients)


def flaws_of_set(bucket: Bucket, one: BackupSet) -> dict[str, str]:
    """By key, what is wrong with the encryption of a set's parts: a request for each."""
    names = one.manifest.parts if one.manifest else ()
    keys = [one.parts[name].key for name in names if name in one.parts]
    found = {key: flaw(bucket, key) for key in keys}
    if one.manifest:
        found[one.key] = _for_others(bucket, one.recipients)
    # Where a details are to be encrypted, too, a manifest without them names tables to anybody.
    if bucket.backup.manifest == "encrypted" and one.manifest and not one.manifest.sealed:
        found[one.key] = "it names tables and settings in clear (backup.manifest)"
    return found


def flaws_of_wal(bucket: Bucket, history: History) -> dict[str, str]:
    """The same of the newest base backup and the newest segment."""
    start = history.place.partition("//")[2].partition("/")[2]
    keys = [f"{start}{base.object_name}" for base in history.bases[:1] if not base.flaw]
    keys += [segment.key for segment in history.segments[-1:]]
    found = {key: flaw(bucket, key) for key in keys}
    for base in history.bases[:1]:
        found[f"{start}base_{base.stamp}.json"] = _for_others(bucket, base.recipients)
    return found


def _for_others(bucket: Bucket, recipients: Sequence[str]) -> str:
    """What is wrong with whom something says that it is for: headers hide that, so a key that was
    exchanged for another would not be seen there. "" for nothing.
    """
    today = [age_encryption.key_id(one) for one in bucket.backup.recipients]
    if set(recipients) == set(today) or not recipients:
        return "" if recipients else "it says that it is not encrypted"
    return f"it is for keys {', '.join(recipients)}, backup.recipients are {', '.join(today)}"


def files_encrypted(
    bucket: Bucket, stack: str, states: Iterable[FilesState], volume: str = ""
) -> Check:
    """Whether the attachments, or the files of another app's `volume`, are: by one of them, by
    there being none that is not, and by what the app hosts have recorded.
    """
    name = f"files {volume} encrypted" if volume else "files encrypted"
    clear, encrypted_one = _first_files(bucket, stack)
    found = {encrypted_one: flaw(bucket, encrypted_one)} if encrypted_one else {}
    if clear:
        found[clear] = "it is not encrypted"
    for state in states:
        found["the state of a host"] = _for_others(bucket, state.recipients)
    if not found:
        return Check(name, True, "there are none yet")
    return encrypted(name, len(bucket.backup.recipients), found)


def _first_files(bucket: Bucket, stack: str) -> tuple[str, str]:
    """The key of an attachment that is in clear, and of one that is encrypted; "" for none."""
    folder = files_folder(stack, bucket.backup.project)

    def first(name: str) -> str:
        answer = bucket.list_page({"Prefix": f"{folder}{name}/", "MaxKeys": 1})
        return next((item["Key"] for item in answer.get("Contents", [])), "")

    return first("data"), first("encrypted")
