"""The same work as `inv deploy backup.install`, as a team with pyinfra writes it.

$BENCH_WORK is the folder with the compose files and the secrets; see bench/README.md. pyinfra
has no operations for a Swarm's labels, secrets and stacks: facts of our own say what is there.
"""

import io
import json
import os
from pathlib import Path

from pyinfra import host, inventory
from pyinfra.api import FactBase
from pyinfra.operations import docker, files, server

WORK = Path(os.environ["BENCH_WORK"])
SECRETS = json.loads((WORK / "secrets.json").read_text())
ROLES = {"db1": "db", "app1": "app"}


class NodeRoles(FactBase):
    """Node name -> its label "role"."""

    default = dict

    def command(self) -> str:
        """One command for all nodes."""
        template = '{{.Description.Hostname}} {{index .Spec.Labels "role"}}'
        return f"docker node inspect $(docker node ls -q) --format '{template}'"

    def process(self, output: list[str]) -> dict[str, str]:
        """Parse a line per node."""
        return {line.split(" ")[0]: line.split(" ")[1] for line in output}


class SwarmSecrets(FactBase):
    """Names of the Swarm's secrets."""

    default = list

    def command(self) -> str:
        """List them."""
        return "docker secret ls --format '{{.Name}}'"

    def process(self, output: list[str]) -> list[str]:
        """A name per line."""
        return output


if host in inventory.get_group("manager"):
    roles = host.get_fact(NodeRoles)
    for node, role in ROLES.items():
        if roles.get(node) != role:
            server.shell(
                name=f"Label {node}",
                commands=[f"docker node update --label-add role={role} {node}"],
            )

    docker.network(name="Network", network="backend", driver="overlay", attachable=True)

    present = host.get_fact(SwarmSecrets)
    for secret in ("postgres_password", "nocodb_database"):
        if f"{secret}_v1" not in present:
            server.shell(
                name=f"Secret {secret}",
                commands=[f"docker secret create {secret}_v1 -"],
                _stdin=SECRETS[secret],
            )

    for stack, file in (("dbstack", "compose-db.yml"), ("appstack", "compose-app.yml")):
        files.put(
            name=f"Compose file of {stack}",
            src=str(WORK / file),
            dest=f"/opt/stacks/{file}",
            mode="644",
        )
        # Every time, as docker_stack does it: a stack that somebody removed must come back.
        server.shell(
            name=f"Deploy {stack}",
            commands=[f"docker stack deploy -c /opt/stacks/{file} --resolve-image never {stack}"],
        )

if host in inventory.get_group("db"):
    for src, dest, mode in (
        ("backup-pg.sh", "/usr/local/bin/backup-pg.sh", "755"),
        ("backup-common.sh", "/usr/local/lib/backup-common.sh", "644"),
        ("backup-bucket.sh", "/usr/local/lib/backup-bucket.sh", "644"),
        ("backup-report.sh", "/usr/local/lib/backup-report.sh", "644"),
        ("backup-pg.conf", "/etc/backup-pg.conf", "600"),
        ("backup-pg.cron", "/etc/cron.d/backup-pg", "644"),
        ("backup-pg.logrotate", "/etc/logrotate.d/backup-pg", "644"),
    ):
        files.put(name=dest, src=str(WORK / src), dest=dest, mode=mode)
    files.put(
        name="AWS credentials",
        src=io.StringIO(SECRETS["aws"]),
        dest="/etc/backup-pg.aws",
        mode="600",
    )
