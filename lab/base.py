"""The root file system below all lab images: from a registry, else made by debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab import docker, packages
from lab.progress import Progress, Step

SUITES = {"bookworm": "12", "trixie": "13"}
"""Debian's names -> their numbers."""
PULL_TIMEOUT = 120  # seconds: a network that swallows packets must not hold us for ever
# What the official slim image leaves out too; and device nodes, which Docker makes itself.
LEFT_OUT = (
    "./dev/*", "./proc/*", "./sys/*", "./var/cache/apt/*.bin", "./var/cache/apt/archives/*.deb",
    "./var/cache/debconf/*-old", "./var/lib/apt/lists/*", "./var/log/*.log", "./usr/share/doc/*",
    "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/man/*", "./debootstrap*",
)  # fmt: skip


def official(suite: str) -> str:
    """The name of Docker's own image of a suite of Debian."""
    return f"debian:{suite}-slim"


def own(suite: str) -> str:
    """The name of the one that is made where no registry is in reach."""
    return f"swarmkeep-lab/rootfs:{suite}"


def ensure(progress: Progress, suite: str, labels: list[str]) -> str:
    """Return the name of an image that holds Debian. `labels` are flags for `docker import`."""
    for name in (official(suite), own(suite)):
        if docker.inspect("image", name):
            return name
    name = official(suite)
    with progress.step(f"pull {name}") as step:
        if _pull(name):
            return name
        step.found("no registry in reach")
    if os.geteuid() != 0:
        raise SwarmkeepError(
            f"{name} cannot be pulled, and making it with debootstrap needs root",
            hint=f"run once as root: inv lab.up; or load it: docker load < {name}.tar",
        )
    packages.require(
        progress, {"debootstrap": "debootstrap"}, "it makes Debian where no registry is in reach"
    )
    with progress.step(f"Debian {SUITES[suite]} with debootstrap") as step:
        _bootstrap(step, suite, labels)
    return own(suite)


def _pull(name: str) -> bool:
    try:
        return docker.attempt("pull", name, timeout=PULL_TIMEOUT).returncode == 0
    except SwarmkeepError:
        return False


def _bootstrap(step: Step, suite: str, labels: list[str]) -> None:
    # Not below /tmp, which may be mounted without devices.
    folder = Path(tempfile.mkdtemp(prefix="swarmkeep-lab-", dir="/var/tmp"))
    root = folder / "root"
    try:
        docker.stream(
            "debootstrap", "--variant=minbase", suite, str(root),
            on_line=step.doing,
            # Half of the time would go into syncing each file to disk.
            environment=dict(os.environ, DPKG_FORCE="unsafe-io"),
        )  # fmt: skip
        sources = root / "etc/apt/sources.list"
        # debootstrap has written the mirror that it took itself: "deb URL SUITE main".
        mirror = sources.read_text().split()[1].rstrip("/")
        sources.write_text(
            f"deb {mirror} {suite} main\n"
            f"deb {mirror} {suite}-updates main\n"
            f"deb {mirror}-security {suite}-security main\n"
        )
        step.doing("docker import")
        _import(root, own(suite), labels)
    finally:
        _remove(folder)


def _import(root: Path, name: str, labels: list[str]) -> None:
    exclude = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    with subprocess.Popen(
        ["tar", "-C", str(root), "--numeric-owner", *exclude, "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        result = subprocess.run(
            ["docker", "import", *labels, "-", name], stdin=tar.stdout, capture_output=True,
            check=False,
        )  # fmt: skip
    if tar.returncode or result.returncode:
        raise docker.failure(("docker", "import"), result.returncode, result.stderr.decode())


def _remove(folder: Path) -> None:
    """Remove a root file system. An interrupted debootstrap leaves /proc mounted in it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder)
