"""Where PostgreSQL's data is: what a service's specification says, and what lies there. Pure.

An image begins a new, empty cluster wherever it finds none. So whatever changes the place
(volume, path in it, major version) would bring up an empty database, with the full one beside it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAJOR = re.compile(r":(\d+)[^/]*$")
_WORD = "cluster"


@dataclass(frozen=True)
class Place:
    """Where a specification has PostgreSQL keep its data.

    `source` is a volume's name, or a host's folder (it begins with "/"), or "" for the container's
    own files, which end with it; `path` is PGDATA below that, "" for all of it.
    """

    source: str
    path: str

    def __str__(self) -> str:
        if not self.source:
            return "no volume at all"
        kind = "folder" if self.source.startswith("/") else "volume"
        return f"{self.path} in {kind} {self.source}" if self.path else f"{kind} {self.source}"


@dataclass(frozen=True)
class DataFolder:
    """A cluster's files as they lie in a volume: their path in it, the major version, and the
    system identifier, which PostgreSQL gives each cluster when it is made.
    """

    path: str
    major: int
    system_id: str


def major_of(image: str) -> int:
    """The major version that an image's tag names; 0 if it names none."""
    found = _MAJOR.search(image.partition("@")[0])
    return int(found[1]) if found else 0


def environment(spec: Mapping[str, Any]) -> dict[str, str]:
    """A service specification's environment variables."""
    pairs = spec["TaskTemplate"]["ContainerSpec"].get("Env") or ()
    return dict(pair.partition("=")[::2] for pair in pairs)


def place_of(spec: Mapping[str, Any]) -> Place:
    """Given a service specification (the engine API's), return where its data is.

    The images' own default of PGDATA is /var/lib/postgresql/data, and from PostgreSQL 18 on
    /var/lib/postgresql/MAJOR/docker (docker-library/postgres#1259).
    """
    container = spec["TaskTemplate"]["ContainerSpec"]
    major = major_of(container["Image"])
    default = f"/var/lib/postgresql/{major}/docker" if major >= 18 else "/var/lib/postgresql/data"
    folder = environment(spec).get("PGDATA", default).rstrip("/")
    above = [
        (str(mount["Target"]).rstrip("/"), str(mount.get("Source", "")))
        for mount in container.get("Mounts") or ()
        if mount.get("Type") in ("volume", "bind")
        and f"{folder}/".startswith(str(mount["Target"]).rstrip("/") + "/")
    ]
    if not above:
        return Place("", folder)
    target, source = max(above, key=lambda found: len(found[0]))
    return Place(source, folder.removeprefix(target).strip("/"))


def survey_script(source: str) -> str:
    """The script that tells which clusters lie in a volume or folder, a line each.

    A cluster's control file begins with its system identifier, eight bytes in the machine's
    order (src/include/catalog/pg_control.h, ControlFileData).
    """
    find = place = shlex.quote(source)
    if not source.startswith("/"):
        find = f"$(docker volume inspect -f '{{{{.Mountpoint}}}}' {place} 2>/dev/null)"
    return (
        f"root={find}\n"
        '[ -z "$root" ] || for d in "$root" "$root"/* "$root"/*/*; do\n'
        '  [ -s "$d/PG_VERSION" ] && [ -s "$d/global/pg_control" ] || continue\n'
        '  major=$(head -n 1 "$d/PG_VERSION")\n'
        '  id=$(od -An -tu8 -N8 "$d/global/pg_control" | tr -d " ")\n'
        f'  rest=${{d#"$root"}}\n  echo "{_WORD} ${{major%%.*}} $id ${{rest#/}}"\n'
        "done\n"
    )


def parse_survey(lines: Iterable[str]) -> tuple[DataFolder, ...]:
    """Given what `survey_script` printed among other lines, return the clusters."""
    found = []
    for line in lines:
        word, _, rest = line.partition(" ")
        major, _, rest = rest.partition(" ")
        system_id, _, path = rest.partition(" ")
        if word == _WORD and major.isdecimal() and system_id.isdecimal():
            found.append(DataFolder(path, int(major), system_id))
    return tuple(found)


def at(folders: Sequence[DataFolder], place: Place) -> DataFolder | None:
    """The cluster that lies at a place of the volume that was surveyed."""
    return next((folder for folder in folders if folder.path == place.path), None)
