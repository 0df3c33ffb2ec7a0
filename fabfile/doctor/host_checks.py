"""Verdicts on one host. Pure: what hosts.yaml and the vault want, and what it said -> findings."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fabfile.backup import container, container_image, host_files, host_kit
from fabfile.backup.host_kit import kit_of
from fabfile.base.check import Check
from fabfile.base.units import format_duration, format_size
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.doctor import collation_checks, wal_checks
from fabfile.doctor.facts import Facts
from fabfile.doctor.finding import Finding
from fabfile.nodes.host_facts import version_of
from fabfile.nodes.swarm_init_plan import OLDEST_ENGINE
from fabfile.ssh.remote_command import RemoteFile
from fabfile.ssh.ssh_config import route

CLOCK_LIMIT = 2.0
"""Seconds. S3 refuses requests that are 15 minutes off; logs and backup names suffer before."""
DOCKER_FREE = 2 * 2**30
"""Bytes: about two images' worth."""
DUMP_FACTOR = 1.2
"""The next dump may be this much larger than the newest: what backup-pg.sh asks for too."""

_INSTALL = "inv backup.install"


@dataclass(frozen=True)
class Expected:
    """What hosts are compared with. `files` of each host; None where the vault did not open."""

    inventory: Inventory
    files: Mapping[str, Sequence[RemoteFile]] | None
    newest_object: int | None
    """Bytes of the newest backup in the bucket."""
    nodes: Collection[str] = ()
    """The addresses of all nodes that could be asked, as the nodes know them."""


def judge_host(expected: Expected, entry: HostEntry, facts: Facts) -> list[Finding]:
    """Every check of a host that could be asked."""
    inventory = expected.inventory
    checks = [
        _ssh(inventory, entry),
        _engine(entry, facts),
        _clock(facts),
    ]
    if facts.info:
        checks += [_swarm(entry, facts), *_ports(expected, facts), _docker_disk(facts)]
        checks += _ipvs(inventory, facts)
    if entry in host_kit.hosts(inventory):
        in_container = container.is_used(inventory)
        checks += (_container if in_container else _backup)(expected, entry, facts)
    return [Finding(entry.name, check) for check in checks]


def _ssh(inventory: Inventory, entry: HostEntry) -> Check:
    """That it was reached, and where its values come from, if not all from hosts.yaml."""
    way = route(inventory.ssh, entry)
    detail = f"reached at {way.target.address}:{way.target.port}, its key is known"
    return Check("ssh", True, f"{detail}; {way}" if inventory.ssh.config else detail)


def _engine(entry: HostEntry, facts: Facts) -> Check:
    if not facts.info:
        return Check(
            "docker",
            False,
            "no Docker engine answers",
            f"inv swarm.init installs and starts it; systemctl status docker on {entry.name}",
        )
    version = str(facts.info.get("ServerVersion", ""))
    return Check(
        "docker",
        version_of(version) >= OLDEST_ENGINE,
        f"engine {version}",
        "upgrade it to 20.10 or newer: docs.docker.com/engine/install",
    )


def _clock(facts: Facts) -> Check:
    off = max(0.0, abs(facts.clock_ahead) - facts.clock_error)
    way = "ahead of" if facts.clock_ahead > 0 else "behind"
    synchronised = {"yes": ", kept by NTP", "no": ", NOT kept by NTP"}.get(facts.ntp, "")
    if off <= CLOCK_LIMIT:
        return Check("clock", True, f"agrees with this machine's{synchronised}")
    return Check(
        "clock",
        False,
        f"{format_duration(off)} {way} this machine's{synchronised}",
        "compare 'date -u' on both, and let NTP set the wrong one (chrony or systemd-timesyncd)",
    )


def _swarm(entry: HostEntry, facts: Facts) -> Check:
    swarm = facts.info.get("Swarm") or {}
    state = swarm.get("LocalNodeState", "inactive")
    name = str(facts.info.get("Name", ""))
    if state != "active":
        problem, hint = f"is not in a Swarm (state {state})", "inv swarm.init"
    elif name != entry.node:
        problem = f"its node's name is {name!r}, hosts.yaml says {entry.node!r}"
        hint = f"set hosts.{entry.name}.node: {name}"
    elif entry.swarm == "manager" and not swarm.get("ControlAvailable"):
        problem, hint = "is no manager, hosts.yaml says manager", "inv swarm.init promotes it"
    elif swarm.get("Error"):
        problem, hint = f"its engine reports: {swarm['Error']}", "see docker info there"
    else:
        role = "manager" if swarm.get("ControlAvailable") else "worker"
        return Check("swarm", True, f"{role} {name} at {swarm.get('NodeAddr', '?')}")
    return Check("swarm", False, problem, hint)


def _ports(expected: Expected, facts: Facts) -> list[Check]:
    """TCP is tried. UDP cannot be: what can be said is who listens and who is heard of."""
    if (facts.info.get("Swarm") or {}).get("LocalNodeState") != "active":
        return []
    named = {at: is_open for at, is_open in facts.named.items() if at[0] in expected.nodes}
    tried = {**named, **facts.ports}
    shut = sorted(f"{ip}:{port}" for (ip, port), is_open in tried.items() if not is_open)
    tcp = Check(
        "ports tcp",
        not shut,
        f"cannot connect to {', '.join(shut)}" if shut else f"{len(tried)} reached",
        "open 2377/tcp to managers and 7946/tcp between all nodes in the firewalls",
    )
    deaf = [f"{port}/{kind}" for kind, port in (("tcp", 7946), ("udp", 7946))
            if (kind, port) not in facts.listening]  # fmt: skip
    heard = f"gossip on the network hears {', '.join(facts.peers)}" if facts.peers else ""
    vxlan = "4789/udp bound" if ("udp", 4789) in facts.listening else "4789/udp not in use yet"
    udp = Check(
        "ports udp",
        not deaf,
        f"nothing listens on {', '.join(deaf)}" if deaf else
        ", ".join(filter(None, ("7946/udp bound", vxlan, heard)))
        + "; whether firewalls let UDP through cannot be tried from here",
        "restart Docker there; 7946/udp and 4789/udp must be open between all nodes",
    )  # fmt: skip
    return [tcp, udp]


def _docker_disk(facts: Facts) -> Check:
    free = facts.docker_free
    if free is None:
        return Check("disk", False, "its free space cannot be read", "see df on the host")
    return Check(
        "disk",
        free >= DOCKER_FREE,
        f"{format_size(free)} free for images and volumes",
        f"want {format_size(DOCKER_FREE)}: make room, e.g. docker image prune",
    )


def _ipvs(inventory: Inventory, facts: Facts) -> list[Check]:
    # Behind a proxy the app publishes no port, and is found by the names of its tasks.
    alone = not inventory.proxy.hosts
    settings = {
        "app.port_mode: ingress": alone and inventory.app.port_mode == "ingress",
        "app.endpoint_mode: vip": alone and inventory.app.endpoint_mode == "vip",
        "db.endpoint_mode: vip": inventory.postgres.endpoint_mode == "vip",
    }
    wanted = [name for name, needs in settings.items() if needs]
    if not wanted:
        return []
    return [
        Check(
            "ipvs",
            facts.ipvs,
            f"{'there' if facts.ipvs else 'missing in its kernel'}, needed by {', '.join(wanted)}",
            "use a kernel with ip_vs, or set endpoint_mode: dnsrr and port_mode: host",
        )
    ]


def _container(expected: Expected, entry: HostEntry, facts: Facts) -> list[Check]:
    """Of a backup as a container: whether it runs, is of this repository, and is well."""
    image, _, status = facts.container.partition(" ")
    wanted = container_image.image_of(expected.inventory)
    alone = len(expected.inventory.with_role("db")) == 1
    if not image and entry.role == "db" and not alone and not facts.database_here:
        return [Check("backup", True, "runs on the host that has the data")]
    hint = f"{_INSTALL}; inv backup.logs shows what it said"
    if not image:
        return [Check("backup", False, "no container of the backup runs here", hint)]
    if image != wanted:
        detail = f"its image is {image}, this repository's is {wanted}"
        return [Check("backup", False, detail, hint)]
    code, said = facts.container_says or (1, "its clock does not answer")
    well = code == 0 and "unhealthy" not in status
    checks = [Check("backup", well, f"{image}: {status}" + ("" if well else f"; {said}"), hint)]
    if entry.role == "db" and expected.inventory.backup.pitr:
        checks += wal_checks.judge(facts.wal, only_host=alone)
    return checks


def _backup(expected: Expected, entry: HostEntry, facts: Facts) -> list[Check]:
    checks = [_files(expected, entry, facts)]
    if facts.missing_programs:
        names = ", ".join(facts.missing_programs)
        checks.append(Check("programs", False, f"missing: {names}", _INSTALL))
    checks.append(
        Check(
            "cron",
            facts.cron,
            "runs" if facts.cron else "does not run: no backup will be made",
            f"systemctl enable --now cron, or {_INSTALL}",
        )
    )
    checks.append(_bucket(facts))
    if kit_of(entry, expected.inventory).of_database:
        checks.append(_dump_disk(expected, facts))
        if expected.inventory.backup.pitr:
            alone = len(expected.inventory.with_role("db")) == 1
            checks += wal_checks.judge(facts.wal, only_host=alone)
        checks += collation_checks.judge(facts.collations)
    return checks


def _files(expected: Expected, entry: HostEntry, facts: Facts) -> Check:
    if expected.files is None:
        return Check(
            "backup", False, "cannot be compared: the vault did not open", "see the check 'vault'"
        )
    kit = kit_of(entry, expected.inventory)
    if facts.owner and facts.owner != host_files.owner_setting(kit, expected.inventory):
        return Check(
            "backup",
            False,
            f"{kit.config} is of another project ({facts.owner})",
            "give this project a name ('project:' in hosts.yaml), then: inv backup.install",
        )
    if kit.script not in facts.files:
        return Check("backup", False, "is not installed", _INSTALL)
    wanted = {file.path: file for file in expected.files[entry.name]}
    wrong = sorted(path for path in wanted if not _same(wanted[path], facts))
    wrong += [f"{path} (should not be there)" for path in sorted(set(facts.files) - set(wanted))]
    return Check(
        "backup",
        not wrong,
        f"differs from what this repository installs: {', '.join(wrong)}"
        if wrong
        else f"all {len(wanted)} files are as this repository installs them",
        f"{_INSTALL} puts them right",
    )


def _same(file: RemoteFile, facts: Facts) -> bool:
    found = facts.files.get(file.path)
    return found is not None and (found.sha256, found.mode, found.owner) == (
        hashlib.sha256(file.content).hexdigest(),
        f"{file.mode:o}",
        file.owner,
    )


def _bucket(facts: Facts) -> Check:
    if facts.bucket is None:
        return Check("bucket", False, "cannot be asked: the backup is not installed", _INSTALL)
    code, said = facts.bucket
    reason = f": {said}" if said else ""
    return Check(
        "bucket",
        code == 0,
        "the node's AWS key reaches it"
        if code == 0
        else f"the node cannot use it (exit code {code}{reason})",
        "check the vault's AWS key and docs/backup.md, Permissions; then inv backup.install",
    )


def _dump_disk(expected: Expected, facts: Facts) -> Check:
    folder = expected.inventory.backup.directory
    if facts.dump_free is None:
        return Check("dump space", False, f"{folder}: its free space cannot be read", "see df")
    newest = facts.newest_dump if facts.newest_dump is not None else expected.newest_object
    free = f"{format_size(facts.dump_free)} free in {folder}"
    if newest is None:
        return Check("dump space", True, f"{free}; no dump yet to compare with")
    need = int(newest * DUMP_FACTOR)
    return Check(
        "dump space",
        facts.dump_free >= need,
        f"{free}, the next dump needs about {format_size(need)}",
        "make room; lower backup.keep_local_days; dumps with .uploaded beside them may go",
    )
