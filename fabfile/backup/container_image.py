"""The image of the backup as a container: what it is made of, and how it gets onto a host.

Without a registry it is built on the db host, from the PostgreSQL image that is there, and copied
to the others. Its tag is a hash of all that it is made of: a changed script is another image.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabfile.backup import host_kit
from fabfile.backup.script_files import SCRIPTS, script_text
from fabfile.base.errors import UnreachableError
from fabfile.ssh.relay import relay
from fabfile.ssh.remote_command import Command

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet, Host

REPOSITORY = "swarmkeep/backup"
BUILD_TIMEOUT = 1800.0
_FOLDER = SCRIPTS.parent / "compose" / "backup"
_ACCESS = "access-network.sh"
_NOT_IN_IT = ("upgrade-", "reindex-", "access-docker.sh")

Say = Callable[[str], None]


def files() -> dict[str, bytes]:
    """What it is built from: the Dockerfile, the scripts in bin/, their parts in lib/."""
    paths = [path for kit in host_kit.KITS for path in kit.scripts]
    names = sorted({path.removeprefix("/usr/local/") for path in paths} | {f"lib/{_ACCESS}"})
    found = {"Dockerfile": (_FOLDER / "Dockerfile").read_bytes()}
    for name in names:
        file = name.rpartition("/")[2]
        if not file.startswith(_NOT_IN_IT):
            found[name] = script_text(file if name.startswith("bin/") else f"parts/{file}")
    found |= {f"lib/{path.name}": path.read_bytes() for path in _FOLDER.glob("*.py")}
    return found


def context() -> bytes:
    """The same as a tar archive, the same bytes each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in sorted(files().items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def image_of(inventory: Inventory) -> str:
    """The image's name: that of hosts.yaml, or that of what would be built."""
    if inventory.backup.image:
        return inventory.backup.image
    made_of = inventory.postgres.image.encode() + b"\0" + context()
    return f"{REPOSITORY}:{hashlib.sha256(made_of).hexdigest()[:12]}"


def ensure(fleet: Fleet, database: Host, say: Say) -> None:
    """Have the image on every host that runs it; one that hosts.yaml names is pulled by the deploy.

    A host without the database that cannot be reached is left out, and named. Raises
    SwarmkeepError with the host's name.
    """
    inventory = fleet.inventory
    if inventory.backup.image:
        return
    image = image_of(inventory)
    lacking = []
    for entry in host_kit.hosts(inventory):
        try:
            if entry.name != database.name and not _has(fleet.host(entry), image):
                lacking.append(fleet.host(entry))
        except UnreachableError as error:
            say(f"warning: {error.message}: it does not get the backup's image")
    if not _has(database, image):
        say(f"{database.name}: building {image}")
        database.check(
            Command(
                "docker build --quiet --force-rm --build-arg "
                f"POSTGRES_IMAGE={shlex.quote(inventory.postgres.image)} "
                f"--build-arg VERSION={shlex.quote(image.rpartition(':')[2])} "
                f"--tag {shlex.quote(image)} - >/dev/null",
                stdin=context(),
            ),
            f"building the image {image}",
            hint="it needs Debian's package servers; else build it elsewhere, push it to a "
            "registry, and name it in images.backup (docs/backup.md)",
            timeout=BUILD_TIMEOUT,
        )
    for host in lacking:
        say(f"{host.name}: copying {image} from {database.name}")
        give = f"docker save {shlex.quote(image)} | gzip -1"
        what = f"copying the image {image}"
        relay(database, give, host, "gzip -dc | docker load", what, timeout=BUILD_TIMEOUT)


def remove(fleet: Fleet) -> None:
    """Remove what was built from all hosts, but what a service of another project still runs.

    Raises SwarmkeepError with the host's name.
    """
    ask = Command("docker service ls --format '{{.Image}}'", changes=False)
    used = fleet.first_manager().check(ask, "asking for the images in use").stdout.split()
    keep = " ".join(f"-e {shlex.quote(image)}" for image in ["-", *used])
    script = (
        f"docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' {REPOSITORY} |\n"
        f'  grep -vxF {keep} | while read -r i; do docker image rm "$i" >/dev/null 2>&1; done; true'
    )
    for entry in host_kit.hosts(fleet.inventory):
        fleet.host(entry).check(Command(script), "removing the backup's images")


def _has(host: Host, image: str) -> bool:
    ask = f"docker image inspect {shlex.quote(image)} >/dev/null 2>&1 && echo yes || echo no"
    said = host.check(Command(ask, changes=False), "asking Docker").stdout
    return said.strip() == "yes"
