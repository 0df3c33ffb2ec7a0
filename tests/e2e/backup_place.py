"""Where the backup's scripts run: on the database's node, or in the backup's container."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import ClassVar

from lab.model import Lab
from tests.e2e.live import container_of, docker

SCRIPT = "/usr/local/bin/backup-pg.sh"


@dataclass(frozen=True)
class OnNode:
    """`backup.mode: host`: scripts and settings are the node's own."""

    lab: Lab
    config: ClassVar[str] = "/etc/backup-pg.conf"

    def words(self) -> list[str]:
        """What leads there, on the machine of the tests."""
        return ["docker", "exec", "-i", self.lab.container("db1")]

    def run(
        self, *words: str, input: bytes | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        """Run something there as the scripts are run."""
        return subprocess.run(
            [*self.words(), *words], input=input, capture_output=True, timeout=timeout, check=False
        )

    def mount(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run `mount` or `umount`, whose effect is seen there."""
        return self.lab.exec("db1", *words)


class InContainer(OnNode):
    """`backup.mode: container`: scripts are the image's, settings a secret."""

    config = "/run/secrets/backup_settings"
    service: ClassVar[str] = "backupstack_database"

    def container(self) -> str:
        return container_of(self.lab, "db1", self.service)

    def words(self) -> list[str]:
        return [*super().words(), "docker", "exec", "-i", self.container()]

    def mount(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        # The container itself may not mount anything.
        pid = docker(self.lab, "db1", "inspect", "-f", "{{.State.Pid}}", self.container())
        return self.lab.exec("db1", "nsenter", "--target", pid, "--mount", *words)
