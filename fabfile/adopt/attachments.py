"""NocoDB's attachments: copied while it runs, once more what came since, and compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import CheckFailedError, ConfigError
from fabfile.ssh.fleet import Host
from fabfile.ssh.relay import relay
from fabfile.ssh.remote_command import Command

_UNFINISHED = ".swarmkeep-adopt"
"""In the new volume for as long as it is a copy that nobody uses."""
_LEFT = ("./noco.db*", "./db.json", f"./{_UNFINISHED}")
"""SQLite's file, which a NocoDB with a database of its own never reads; the connection."""
_WHAT = "copying the attachments"

Say = Callable[[str], None]


@dataclass
class Attachments:
    """The way of the files from a folder on one host into a volume on another."""

    source: Host
    folder: str
    target: Host
    stack: str
    _began: str = ""
    _path: str = ""

    @property
    def volume(self) -> str:
        """The new volume's name, as compose/compose-app.yml has it."""
        return f"{self.stack}_data"

    def check(self) -> None:
        """Raise ConfigError if there is something in the volume that nobody may lose."""
        script = (
            f"path=$(docker volume inspect -f '{{{{.Mountpoint}}}}' {self.volume} 2>/dev/null) || "
            f"exit 0; echo path $path; [ -e $path/{_UNFINISHED} ] || find $path -type f | wc -l"
        )
        said = self.target.check(Command(script, changes=False), "looking at the volume").stdout
        for line in said.splitlines():
            word, _, path = line.partition(" ")
            if word == "path" and path == self.folder and self.target.entry == self.source.entry:
                raise ConfigError(
                    f"{self.target.name}: volume {self.volume} is the source's own",
                    hint="give the new stack another name: stacks: in hosts.yaml",
                )
            if word.isdecimal() and int(word):
                raise ConfigError(
                    f"{self.target.name}: volume {self.volume} has {word} files already",
                    hint=f"if they may go, on {self.target.name}: docker volume rm {self.volume}",
                )

    def size(self) -> tuple[int, int]:
        """How many files there are, and how many bytes."""
        script = f"cd {shlex.quote(self.folder)} && find . {_without()} -type f -printf '%s\\n'"
        said = self.source.check(Command(script, changes=False), _WHAT).stdout.split()
        return len(said), sum(int(size) for size in said)

    def copy(self) -> None:
        """Copy all of it into a new volume, while NocoDB may write. Raises SwarmkeepError."""
        label = shlex.quote(f"com.docker.stack.namespace={self.stack}")
        script = (
            f"set -e; docker volume create --label {label} {self.volume} >/dev/null\n"
            f"path=$(docker volume inspect -f '{{{{.Mountpoint}}}}' {self.volume})\n"
            f'[ -e $path/{_UNFINISHED} ] || [ -z "$(find $path -type f | head -n 1)" ]\n'
            f"find $path -mindepth 1 -delete; touch $path/{_UNFINISHED}; echo $path"
        )
        self._path = self.target.check(Command(script), "making the volume").stdout.strip()
        if self.folder:
            self._began = self._now()
            self._take("")

    def finish(self, say: Say) -> None:
        """Copy what has come since, with NocoDB stopped, and compare. Raises CheckFailedError."""
        if self.folder:
            self._take(f"--newer-mtime=@{self._began} ")
            if self._sums(self.source, self.folder) != self._sums(self.target, self._path):
                # Something was removed, or renamed, meanwhile: from the beginning, then.
                self.copy()
            files = self._sums(self.source, self.folder)
            if files != self._sums(self.target, self._path):
                raise CheckFailedError(
                    f"{self.volume}: the copied attachments differ from those of the source",
                    hint=f"see whether something else writes in {self.folder} on "
                    f"{self.source.name}, then run it again",
                )
            say(f"attachments copied and compared: {files.partition(' ')[0]} files")

    def _now(self) -> str:
        # A little earlier: some file systems round.
        return self.source.check(
            Command("echo $(($(date +%s) - 2))", changes=False), _WHAT
        ).stdout.strip()

    def _take(self, option: str) -> None:
        excluded = " ".join(f"--exclude={shlex.quote(one)}" for one in _LEFT)
        # 1: a file changed while it was read; it is read once more afterwards.
        giver = (
            f"tar -C {shlex.quote(self.folder)} -c --numeric-owner {option}{excluded} . "
            "2>/dev/null || [ $? = 1 ]"
        )
        taker = f"tar -C {self._path} -x -p --numeric-owner"
        relay(self.source, giver, self.target, taker, _WHAT, timeout=RUN_TIMEOUT)

    def _sums(self, host: Host, folder: str) -> str:
        """How many files there are, and one hash of all names and contents."""
        script = (
            f"cd {shlex.quote(folder)} && find . {_without()} -type f -print0 | LC_ALL=C sort -z | "
            "xargs -0r sha256sum | sha256sum"
        )
        count = f"cd {shlex.quote(folder)} && find . {_without()} -type f -printf x | wc -c"
        both = Command(f"{count}; {script}", changes=False)
        return " ".join(
            host.check(both, "comparing the attachments", timeout=RUN_TIMEOUT).stdout.split()
        )


def settle(host: Host, stack: str) -> None:
    """The copy of the files is in use from now on."""
    path = f"$(docker volume inspect -f '{{{{.Mountpoint}}}}' {stack}_data)/{_UNFINISHED}"
    host.check(Command(f'rm -f "{path}"'), "settling the volume")


def _without() -> str:
    return " ".join(f"! -path {shlex.quote(one)}" for one in _LEFT)
