"""What a lab is: its names, its addresses, its files. Talks to its containers, makes nothing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from fabfile.base.errors import ConfigError
from lab import docker

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_NAME = "swarmkeep"
LABEL = "swarmkeep.lab"
ROLE_LABEL = "swarmkeep.lab.role"
NODES = ("manager1", "db1", "app1")
S3 = "s3"
MEMBERS = (*NODES, S3)
# The last number of each address; .1 is the machine itself.
HOST_NUMBERS = {"manager1": 11, "db1": 12, "app1": 13, S3: 20}
S3_PORT = 9000
NOCODB_PORT = 8080
REGION = "us-east-1"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class Lab:
    """One lab. `subnet` is the first three numbers of its addresses, such as "10.213.4"."""

    name: str
    directory: Path
    """Its state, `.lab/<name>`."""
    subnet: str

    @classmethod
    def load(cls, name: str = DEFAULT_NAME, *, root: Path | None = None) -> Lab:
        """Return the lab that `inv lab.up` made under this name; ConfigError if there is none."""
        directory = directory_of(name, root=root)
        try:
            state = json.loads((directory / "lab.json").read_text())
            return cls(name, directory, state["subnet"])
        except (OSError, ValueError, KeyError):
            raise ConfigError(f"lab {name}: there is none", hint=f"make it: {up(name)}") from None

    @property
    def network(self) -> str:
        """The Docker network's name."""
        return f"{self.name}-lab"

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return f"{self.name}-backups"

    @property
    def addresses(self) -> dict[str, str]:
        """Member -> IPv4 address, for manager1, db1, app1 and s3."""
        return {member: f"{self.subnet}.{number}" for member, number in HOST_NUMBERS.items()}

    @property
    def s3_url(self) -> str:
        """The S3 server, as this machine and the nodes see it."""
        return f"http://{self.addresses[S3]}:{S3_PORT}"

    @property
    def nocodb_url(self) -> str:
        """NocoDB, once `inv deploy-app` has run."""
        return f"http://{self.addresses['app1']}:{NOCODB_PORT}"

    @property
    def hosts_file(self) -> Path:
        """The hosts.yaml of this lab."""
        return self.directory / "hosts.yaml"

    @property
    def secrets(self) -> dict[str, Any]:
        """Every password and key of this lab, from its credentials.json."""
        secrets: dict[str, Any] = json.loads((self.directory / "credentials.json").read_text())
        return secrets

    def environment(self) -> dict[str, str]:
        """This process's environment, with the lab's hosts file and operator's S3 key."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("AWS_", "SWARMKEEP_"))
        }
        return kept | self.settings()

    def settings(self) -> dict[str, str]:
        """The variables that point the commands, boto3 and the AWS CLI at this lab."""
        return {
            "SWARMKEEP_HOSTS": str(self.hosts_file),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.directory / "aws/credentials"),
            "AWS_CONFIG_FILE": str(self.directory / "aws/config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def container(self, member: str) -> str:
        """The Docker name of a member's container."""
        return f"{self.name}-{member}"

    def exec(
        self, member: str, *argv: str, input: bytes | None = None, timeout: float = 120
    ) -> CompletedProcess[bytes]:
        """Run a command as root in a member's container; returns any exit code."""
        return docker.exec(self.container(member), *argv, input=input, timeout=timeout)

    def restart(self, member: str) -> None:
        """Stop a member's container in good order, start it, wait until it is healthy."""
        from lab.members import wait_until_healthy

        docker.run("restart", self.container(member), timeout=120)
        wait_until_healthy(self, member)


def up(name: str) -> str:
    """The command that brings a lab up: for hints."""
    return "inv lab.up" + ("" if name == DEFAULT_NAME else f" --name {name}")


def directory_of(name: str, *, root: Path | None = None) -> Path:
    """Given a lab's name, return its folder; ConfigError for a name that Docker would refuse."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a lab's name: want up to 32 of a-z, 0-9 and -",
            hint="such as: inv lab.up --name try-1",
        )
    return (root or REPOSITORY / ".lab") / name
