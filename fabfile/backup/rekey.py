"""Sets and attachments encrypted anew for today's recipients, one after the other.

A set's new parts have names of their own; its manifest names them once they are there, and only
then the former ones go. So it can be restored at every moment, and a second run goes on where the
first was cut off. An attachment has no manifest: its object is replaced in one step.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fabfile.backup.object_keys import PARTS, files_folder
from fabfile.backup.set_parsing import parse_manifest
from fabfile.backup.sets import BackupSet
from fabfile.base import age_encryption, json_text
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.s3.objects import Objects, Part

if TYPE_CHECKING:
    from fabfile.s3.reencryption import Reencryption

AT_ONCE = 4
_CLEAR = (
    *("format", "tool", "database", "started", "seconds", "parts", "recipients", "project"),
    *("expected_cluster", "pg_dump_version", "server_version", "server_version_num", "size"),
    "cluster",
)
"""What an encrypted manifest shows all the same (scripts/parts/backup-set.sh)."""


def is_due(one: BackupSet, key_ids: Sequence[str], *, sealed: bool) -> bool:
    """Whether a set is not encrypted as hosts.yaml wants it; `sealed`: its manifest, too."""
    if one.manifest is None or one.flaw:
        return False
    wrong = set(one.recipients) != set(key_ids)
    return wrong or bool(one.extra) or (sealed and not one.manifest.sealed)


def rekey_set(one: BackupSet, database: str, work: Reencryption, *, sealed: bool) -> None:
    """Encrypt a set's parts and its manifest's details for today's recipients.

    Raises SwarmkeepError; the set is whole then, as before or as it should be.
    """
    assert one.manifest
    objects = work.objects
    there, text = objects.part(one.key), objects.small(one.key)
    if there is None or text is None:
        return  # pruned meanwhile
    data = json_text.parse(text)
    if data.get("parts") != one.manifest.data.get("parts"):
        raise SwarmkeepError(f"{one.key}: was changed meanwhile", hint="run this again")
    stem = one.key.removesuffix(PARTS["manifest"])
    former: list[str] = []
    if set(one.recipients) != set(work.key_ids):
        for name, recorded in one.manifest.parts.items():
            with work.prepared(one.parts[name], sha256=recorded.sha256) as made:
                key = f"{stem}{PARTS[name]}.{made.tag}.age"
                work.put(made, key)
            data["parts"][name] = {"key": key, "bytes": made.size, "sha256": made.sha256}
            former.append(one.parts[name].key)
        data["recipients"] = list(work.key_ids)
    if former or (sealed and not one.manifest.sealed):
        data = _with_details(data, one, work, sealed=sealed or one.manifest.sealed)
        new = manifest_text(data)
        parse_manifest(new, database)
        objects.replace_text(one.key, new, "application/json", there.etag)
    # Only what this run has replaced: another one's objects may be about to be named.
    for key in former:
        objects.delete(key)
    for part in one.extra:
        work.forget(part)


def _with_details(
    data: dict[str, Any], one: BackupSet, work: Reencryption, *, sealed: bool
) -> dict[str, Any]:
    """A manifest whose details, if there are to be any, are for today's recipients."""
    if not sealed:
        return data
    # With the details, if our identity could read them.
    whole = dict(one.manifest.data) if one.manifest else {}
    if "details" in whole:
        raise ConfigError(
            f"{one.key}: no identity at hand can decrypt its details",
            hint="give the identity that it is encrypted for: --identity FILE",
        )
    details = {name: value for name, value in whole.items() if name not in ("parts", "recipients")}
    encrypted = age_encryption.encrypt(json.dumps(details).encode(), work.recipients)
    clear = {name: data[name] for name in _CLEAR if name in data}
    return clear | {
        "images": {},
        "details": base64.b64encode(encrypted).decode(),
        "rows": None,
    }


def manifest_text(data: dict[str, Any]) -> bytes:
    """A manifest as backup-pg.sh writes it, a key a line: scripts read two by their line."""
    lines: list[str] = []
    for name, value in data.items():
        line = f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        if name == "expected_cluster" and lines and lines[-1].startswith('"project"'):
            lines[-1] += f", {line}"
        else:
            lines.append(line)
    return ("{" + ",\n".join(lines) + "}\n").encode()


def other_databases(objects: Objects, names: Sequence[str]) -> list[str]:
    """Folders with sets of databases that are not among `names`."""
    prefix = f"{objects.backup.prefix}postgres/"
    found = [
        group["Prefix"]
        for page in objects.list_all({"Prefix": prefix, "Delimiter": "/"})
        for group in page.get("CommonPrefixes", [])
    ]
    return [one for one in found if one.removeprefix(prefix).rstrip("/") not in names]


@dataclass(frozen=True)
class Files:
    """A stack's attachments that are not encrypted for today's recipients.

    `clear` are to be encrypted; `covered` are in clear though an encrypted one is there, too;
    `other` are encrypted for others.
    """

    clear: tuple[Part, ...]
    covered: tuple[Part, ...]
    other: tuple[Part, ...]

    @property
    def count(self) -> int:
        """How many objects are to be changed."""
        return len(self.clear) + len(self.covered) + len(self.other)


def find_files(work: Reencryption, stack: str, project: str) -> Files:
    """Look which attachments are not encrypted for today's recipients: a request for each."""
    folder = files_folder(stack, project)
    encrypted = list(work.objects.parts(f"{folder}encrypted/"))
    there = {part.key.removeprefix(f"{folder}encrypted/") for part in encrypted}
    clear: list[Part] = []
    covered: list[Part] = []
    for part in work.objects.parts(f"{folder}data/"):
        name = f"{part.key.removeprefix(f'{folder}data/')}.age"
        (covered if name in there else clear).append(part)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        right = pool.map(lambda part: work.is_right(part.key), encrypted)
        other = [part for part, ok in zip(encrypted, right, strict=True) if not ok]
    return Files(tuple(clear), tuple(covered), tuple(other))


def rekey_files(work: Reencryption, stack: str, project: str, found: Files) -> None:
    """Encrypt them. Raises the first SwarmkeepError; each object is as before, or as wanted."""
    folder = files_folder(stack, project)

    def encrypt(part: Part) -> None:
        name = part.key.removeprefix(f"{folder}data/")
        with work.prepared(part, md5=_md5_of(part)) as made:
            work.put(made, f"{folder}encrypted/{name}.age")
        work.objects.delete(part.key)

    def replace(part: Part) -> None:
        with work.prepared(part, md5=_md5_of(part)) as made:
            work.put(made, part.key)

    each(encrypt, found.clear)
    each(replace, found.other)
    # Last: what covers them is for today's recipients now.
    each(lambda part: work.objects.delete(part.key), found.covered)


def _md5_of(part: Part) -> str:
    """What its ETag says of an attachment, of which nothing else is recorded; "" where that is no
    MD5: it went up in parts, or is encrypted by KMS.
    """
    tag = part.etag.strip('"')
    return tag if len(tag) == len("d41d8cd98f00b204e9800998ecf8427e") else ""


def each(act: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Do it for each, some at once. Raises the first SwarmkeepError."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(act, parts):
            pass
