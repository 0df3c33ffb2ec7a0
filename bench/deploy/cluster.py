"""The lab under the benchmark: emptied before a first run, waited for before the next ones."""

from __future__ import annotations

import time

from fabfile.backup import host_files, host_kit
from fabfile.base.errors import SwarmkeepError
from lab import docker, waiting
from lab.model import Lab

SERVICES = {"db1": "dbstack_root_db", "app1": "appstack_nocodb"}
DEADLINE = 120.0  # seconds
PACKAGES = ("python3-docker", "python3-jsondiff", "python3-yaml")
"""What Ansible's modules need on a manager."""

_EMPTY = """\
set -eu
docker stack rm dbstack appstack >/dev/null 2>&1 || :
remove() { # KIND
  ids=$(docker "$1" ls -q)
  [ -z "$ids" ] || docker "$1" rm $ids >/dev/null
}
remove secret
remove config
for node in db1 app1; do
  docker node inspect "$node" --format '{{range $k, $v := .Spec.Labels}}{{$k}} {{end}}' |
    xargs -r -n1 | while read -r label; do
      docker node update --label-rm "$label" "$node" >/dev/null
    done
done
rm -rf /opt/stacks
end=$(( $(date +%s) + 150 ))
while docker network inspect backend >/dev/null 2>&1; do
  docker network rm backend >/dev/null 2>&1 || sleep 0.3
  [ "$(date +%s)" -lt "$end" ]
done
"""
_NO_VOLUMES = """\
set -eu
end=$(( $(date +%s) + 150 ))
while [ -n "$(docker ps -aq)" ] || [ -n "$(docker volume ls -q)" ]; do
  ids=$(docker ps -aq --filter status=exited --filter status=created)
  [ -z "$ids" ] || docker rm -v $ids >/dev/null 2>&1 || :
  ids=$(docker volume ls -q)
  [ -z "$ids" ] || docker volume rm $ids >/dev/null 2>&1 || sleep 0.3
  [ "$(date +%s)" -lt "$end" ]
done
"""


def prepare(lab: Lab) -> None:
    """Install what Ansible wants on a manager: its users have done so long ago."""
    script = (
        f"dpkg -s {' '.join(PACKAGES)} >/dev/null 2>&1 || {{ apt-get -qq update && "
        f"apt-get -qq -y install --no-install-recommends {' '.join(PACKAGES)}; }} >/dev/null"
    )
    docker.inside(lab.container("manager1"), "sh", "-c", script, timeout=300)


def empty(lab: Lab) -> None:
    """Remove stacks, secrets, labels, network, volumes and the backup's files."""
    docker.inside(lab.container("manager1"), "sh", "-c", _EMPTY, timeout=180)
    for node in SERVICES:
        docker.inside(lab.container(node), "sh", "-c", _NO_VOLUMES, timeout=180)
    paths = host_files.removable(host_kit.DATABASE)
    docker.inside(lab.container("db1"), "rm", "-f", *paths)


def settle(lab: Lab) -> dict[str, str]:
    """Wait until both services are healthy; return their containers' ids."""

    def look() -> str:
        missing = [name for node, name in SERVICES.items() if not _healthy(lab, node, name)]
        return f"not healthy: {', '.join(missing)}" if missing else ""

    problem = waiting.until(look, deadline=DEADLINE)
    if problem:
        raise SwarmkeepError(f"lab {lab.name}: {problem} after {DEADLINE:.0f} s")
    return {node: _healthy(lab, node, name) for node, name in SERVICES.items()}


def calm() -> None:
    """Wait until the nodes' load from the last first start is over: NocoDB's migrations."""
    # No condition says so; the processor does. Two looks half a second apart.
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if _busy(0.5) < 0.5:
            return


def _busy(seconds: float) -> float:
    """The part of the machine's processors that was busy during this time, 0 to 1."""

    def read() -> tuple[int, int]:
        with open("/proc/stat") as file:  # noqa: PTH123 - a file of the kernel
            numbers = [int(word) for word in file.readline().split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]

    total, idle = read()
    time.sleep(seconds)
    later, later_idle = read()
    return 1 - (later_idle - idle) / max(1, later - total)


def _healthy(lab: Lab, node: str, service: str) -> str:
    label = f"label=com.docker.swarm.service.name={service}"
    found = lab.exec(node, "docker", "ps", "-q", "--filter", label, "--filter", "health=healthy")
    return found.stdout.decode().strip()
