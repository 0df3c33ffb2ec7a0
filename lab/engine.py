"""A Docker engine on this machine: the one that runs, or one that we install and start."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab import docker, locks, packages, waiting
from lab.progress import Progress

LOG = Path("/var/log/swarmkeep-lab-dockerd.log")
RUN = Path("/var/run")
START_DEADLINE = 90.0  # seconds

INSTALL_HINT = "as root: apt-get install docker.io; or see docs.docker.com/engine/install"


def ensure(progress: Progress) -> None:
    """Return when an engine answers. Installs and starts an engine if there is none.

    Raises SwarmkeepError that names what to do where that is not ours to do.
    """
    with progress.step("Docker engine") as step:
        remote = os.environ.get("DOCKER_HOST", "")
        if remote and not remote.startswith("unix://"):
            raise SwarmkeepError(
                f"DOCKER_HOST is {remote}: the lab needs an engine on this machine",
                hint="unset DOCKER_HOST",
            )
        problem = look()
        if not problem:
            step.found("runs")
            return
        step.found("does not run")
        if "permission denied" in problem:
            raise SwarmkeepError(
                "this user may not use the Docker engine",
                hint="as root: usermod -aG docker USER, then log in again",
            )
        if remote:
            raise SwarmkeepError(f"the engine at {remote} does not answer: {problem}")
    with locks.shared("engine", lambda: None):
        # Whoever held the lock before may have done it.
        if look() == "":
            return
        if not shutil.which("dockerd") or not shutil.which("docker"):
            _install(progress)
        with progress.step("Docker engine starts"):
            _start()


def look() -> str:
    """Return "" if an engine answers, else one line that says why not.

    A `docker` command on the PATH proves nothing. (`docker info --format` of version 20.10 says
    why in a way that nobody understands: "indirection through nil pointer".)
    """
    if not shutil.which("docker"):
        return "there is no docker command"
    result = docker.attempt("version", "--format", "{{.Server.Version}}", timeout=30)
    answer = result.stdout.decode().strip()
    if result.returncode == 0 and answer:
        return ""
    lines = (result.stderr or result.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "docker version failed"


def _install(progress: Progress) -> None:
    if not packages.can_install():
        raise SwarmkeepError("no Docker engine runs on this machine", hint=INSTALL_HINT)
    packages.install(progress, ["docker.io", "iptables"])


def _start() -> None:
    if os.geteuid() != 0:
        raise SwarmkeepError(
            "the Docker engine is installed but does not run",
            hint="as root: systemctl start docker",
        )
    if Path("/run/systemd/system").is_dir():
        result = subprocess.run(
            ["systemctl", "start", "docker"], capture_output=True, text=True, check=False
        )
        problem = waiting.until(look, deadline=START_DEADLINE)
        if problem:
            raise SwarmkeepError(
                f"the Docker engine does not start: {problem}",
                details=tuple(result.stderr.splitlines()),
                hint="journalctl -u docker",
            )
        return
    _start_by_hand()


def _start_by_hand() -> None:
    """Start dockerd where nothing starts services. It outlives this command."""
    remove_stale_pid_files(RUN)
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )

    def look_again() -> str:
        return "" if process.poll() is not None else look()

    problem = waiting.until(look_again, deadline=START_DEADLINE)
    if process.poll() is not None:
        problem = f"dockerd ended with exit code {process.returncode}"
    if problem:
        lines = LOG.read_text(errors="replace").splitlines()[-docker.LAST_LINES :]
        raise SwarmkeepError(
            f"the Docker engine does not start: {problem}",
            details=tuple(lines),
            hint=f"its log is {LOG}",
        )


def remove_stale_pid_files(run: Path) -> None:
    """Remove the pid files of an engine that was killed.

    dockerd takes any process with that number for itself, and after a reboot there usually is
    one. Files of a process that really is dockerd or containerd stay.
    """
    for name, program in (
        ("docker.pid", "dockerd"),
        ("docker/containerd/containerd.pid", "containerd"),
    ):
        path = run / name
        try:
            number = int(path.read_text())
        except (OSError, ValueError):
            number = 0
        if path.exists() and (not number or _program(number) != program):
            path.unlink(missing_ok=True)


def _program(number: int) -> str:
    try:
        return Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        return ""
