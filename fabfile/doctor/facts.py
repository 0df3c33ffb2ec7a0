"""What doctor wants to know of a host: one command that reads it, and what it said as data."""

from __future__ import annotations

import ipaddress
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fabfile.backup import host_kit
from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.deploy.observation import observe_command
from fabfile.doctor import backup_questions
from fabfile.nodes.host_facts import PATH, engine_info
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_questions import answered
from fabfile.swarm.state_reading import parse_cluster, split_sections

GATHER_TIMEOUT = 180.0

# As in /proc/net/{tcp,udp}: hexadecimal.
_PORTS = {"0949": 2377, "1F0A": 7946, "12B5": 4789}

# `clock` comes first: how late its line arrives bounds the error of the comparison. The ports
# are tried side by side, 3 s each; /dev/tcp is bash's own, so that no tool has to be there.
# (0A and 07 are "listening" for TCP and "bound" for UDP.) Only managers know every node; the
# others try the addresses of hosts.yaml, which may be meant for the operator's machine alone.
_EVERY_HOST = """section() { echo; echo "--swarmkeep $1--"; }
section ntp
timedatectl show -p NTPSynchronized --value 2>/dev/null
section listening
for f in tcp tcp6 udp udp6; do
  sed -nE "s/^ *[0-9]+: [0-9A-F]+:(0949|1F0A|12B5) [0-9A-F:]+ (0A|07) .*/$f \\1/p" /proc/net/$f
done 2>/dev/null
section ports
remote='{{range .Swarm.RemoteManagers}}{{.Addr}} {{end}}'
managers=$(docker info --format "$remote" 2>/dev/null)
nodes=$(docker node ls -q 2>/dev/null) &&
  nodes=$(docker node inspect --format '{{.Status.Addr}}' $nodes)
{
  for m in $managers; do echo "${m%:*} 2377"; echo "${m%:*} 7946"; done
  for n in $nodes; do echo "$n 7946"; done
  for n in @OTHERS@; do echo "$n 7946 named"; done
} | tr -d '[]' | sort -u | {
  while read -r ip port named; do
    {
      if timeout 3 bash -c ": </dev/tcp/$ip/$port" 2>/dev/null
      then echo "open $ip $port $named"; else echo "shut $ip $port $named"; fi
    } &
  done
  wait
}
section ipvs
{ [ -e /proc/net/ip_vs ] || modprobe -nq ip_vs 2>/dev/null; } && echo yes
section cron
pgrep -x 'cron|crond' >/dev/null && echo yes
section disk
df --output=avail -B1 -- "$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)" \
  2>/dev/null | tail -n 1
section quorum
docker node ls --filter role=manager --format '{{.Hostname}} {{.ManagerStatus}}' 2>/dev/null
"""


@dataclass(frozen=True)
class FileFacts:
    """A file as it is on a host: SHA-256 in hex, mode in octal, owner."""

    sha256: str
    mode: str
    owner: str


@dataclass(frozen=True)
class Facts:
    """What one host told. Sizes are bytes, times seconds; None is "it did not say"."""

    clock_ahead: float
    """How far its clock is ahead of this machine's (negative: behind) ..."""
    clock_error: float
    """... and how much that may be wrong, since the answer took its time."""
    ntp: str
    """yes, no, or "" where nothing says so."""
    info: Mapping[str, Any]
    """`docker info`, {} where no engine answers."""
    listening: frozenset[tuple[str, int]]
    """("tcp", 7946), ... of the Swarm's own ports."""
    ports: Mapping[tuple[str, int], bool]
    """(address, TCP port) of the nodes it knows of -> could be connected to."""
    peers: tuple[str, ...]
    """Nodes that this one's gossip knows of on our network."""
    ipvs: bool
    cron: bool
    docker_free: int | None
    quorum: Mapping[str, str]
    """Manager -> Leader, Reachable or Unreachable; only managers know it."""
    cluster: Cluster | None
    cluster_problem: str
    owner: str = ""
    """The line of the backup's settings that says what they are for; "" where there are none."""
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    missing_programs: tuple[str, ...] = ()
    dump_free: int | None = None
    newest_dump: int | None = None
    bucket: tuple[int, str] | None = None
    """Exit code and last line of the AWS CLI; None where the backup is not installed."""
    wal: tuple[int, str] | None = None
    """Exit code and output of `wal-pg.sh check`; None where it was not asked."""
    container: str = ""
    """Image and status of the backup's container, where it is one; "" where none runs."""
    container_says: tuple[int, str] | None = None
    """What its clock says of its backups; None where none runs."""
    database_here: bool = False
    """Whether the database's container runs there (asked where the backup is a container)."""
    collations: tuple[int, str] | None = None
    """The same of `reindex-pg.sh check`."""
    named: Mapping[tuple[str, int], bool] = field(default_factory=dict)
    """As `ports`, at the addresses of hosts.yaml: not each of them need be a node's."""

    @property
    def node_address(self) -> str:
        """The address by which the other nodes know it; "" where it is in no Swarm."""
        return str((self.info.get("Swarm") or {}).get("NodeAddr", ""))


def gather(inventory: Inventory, entry: HostEntry) -> Command:
    """The one command that reads everything doctor judges on a host. It changes nothing."""
    network = shlex.quote(inventory.network)
    asked = _EVERY_HOST.replace("@OTHERS@", " ".join(_others(inventory, entry)))
    script = f'echo "clock $(date +%s.%N)"\n{PATH}{asked}' + (
        "section peers\n"
        f"docker network inspect --format '{{{{range .Peers}}}}{{{{.IP}}}} {{{{end}}}}' {network} "
        "2>/dev/null\n"
    )
    if entry in host_kit.hosts(inventory):
        script += backup_questions.script(entry, inventory)
    # Last, since it ends the script on a machine that is no manager.
    return Command(script + observe_command(inventory).script, changes=False)


def _others(inventory: Inventory, entry: HostEntry) -> list[str]:
    """The IP addresses that hosts.yaml has of the other hosts, each host's likeliest one."""
    found = set()
    for host in inventory.hosts:
        if host != entry:
            usable = [a for a in (host.advertise_addr, host.address) if _is_remote(a)]
            found.update(usable[:1])
    return sorted(found)


def _is_remote(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name, or a network interface
        return False


def ask(host: Host) -> Facts:
    """Read everything from a host. Raises SwarmkeepError if it cannot be asked at all."""
    heard: list[float] = []

    def note(_line: str) -> None:
        if not heard:
            heard.append(time.time())

    asked = time.time()
    result = host.run(gather(host.inventory, host.entry), timeout=GATHER_TIMEOUT, on_line=note)
    first = result.stdout.partition("\n")[0].split()
    if not heard or len(first) != 2 or first[0] != "clock":
        said = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise SwarmkeepError(
            f"{host.label}: commands do not run as they should there: {said}",
            hint=f"try: ssh {host.entry.address} echo works; does a login script print something?",
        )
    return parse(result, asked, heard[0])


def parse(result: Result, asked: float, heard: float) -> Facts:
    """Given the output, and when (Unix time) it was asked for and its first line came."""
    sections = answered(split_sections(result.stdout))
    clock = float(result.stdout.split(maxsplit=2)[1])
    cluster, problem = None, ""
    try:
        cluster = parse_cluster(result)
    except SwarmkeepError as error:
        problem = error.message
    dumps = [int(line) for line in sections.get("dumps", "").split()]
    ports = _rows(sections.get("ports", ""))
    return Facts(
        clock_ahead=clock - (asked + heard) / 2,
        clock_error=(heard - asked) / 2,
        ntp=sections.get("ntp", "").strip(),
        info=engine_info(sections.get("info", "")),
        listening=frozenset(
            (words[0].rstrip("6"), _PORTS[words[1]])
            for words in _rows(sections.get("listening", ""))
        ),
        ports={(w[1], int(w[2])): w[0] == "open" for w in ports if len(w) == 3},
        named={(w[1], int(w[2])): w[0] == "open" for w in ports if len(w) > 3},
        peers=tuple(sections.get("peers", "").split()),
        ipvs="yes" in sections.get("ipvs", ""),
        cron="yes" in sections.get("cron", ""),
        docker_free=next((int(w) for w in sections.get("disk", "").split() if w.isdigit()), None),
        quorum={w[0]: " ".join(w[1:]) for w in _rows(sections.get("quorum", ""))},
        cluster=cluster,
        cluster_problem=problem,
        owner=sections.get("owner", "").strip(),
        container=sections.get("container", "").strip(),
        container_says=_exit_code(sections.get("container_says", "")),
        database_here=bool(sections.get("database_here", "").strip()),
        files={w[3]: FileFacts(w[0], w[1], w[2]) for w in _rows(sections.get("files", ""))},
        missing_programs=tuple(sections.get("programs", "").split()),
        dump_free=dumps[0] if dumps else None,
        newest_dump=dumps[1] if len(dumps) > 1 else None,
        bucket=_bucket(sections.get("bucket", "")),
        wal=_exit_code(sections.get("wal", "")),
        collations=_exit_code(sections.get("collations", "")),
    )


def _rows(text: str) -> Sequence[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def _exit_code(text: str) -> tuple[int, str] | None:
    """What was said before a last line "exit CODE"; None if that is not there."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[-1].startswith("exit "):
        return None
    return int(lines[-1].split()[1]), "\n".join(lines[:-1])


def _bucket(text: str) -> tuple[int, str] | None:
    found = _exit_code(text)
    return found and (found[0], found[1].rpartition("\n")[2].strip())
