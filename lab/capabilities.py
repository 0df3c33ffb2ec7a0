"""What a container needs to run a Docker daemon of its own on this machine."""

from __future__ import annotations

from pathlib import Path

from lab import docker

STATUS = Path("/proc/self/status")
LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers")

NO_FSYNC = ["--security-opt", f"seccomp={Path(__file__).with_name('no-fsync.json')}"]
"""In a member, and in all containers on it, waiting for the disk is done at once: a lab has nothing
that must outlive a power cut, and its engines, PostgreSQL and the S3 server wait all the time.
Everything else is allowed, as it is without a filter.
"""

# linux/capability.h: the names in the order of their bits, as far as an engine before 23 knows
# them. It refuses to drop the later ones (PERFMON, BPF, CHECKPOINT_RESTORE), nor does it give them.
NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
)  # fmt: skip


def flags(cgroup_parent: str) -> list[str]:
    """Return the `docker run` flags of a node on this machine."""
    version = docker.run("version", "--format", "{{.Server.Version}}")
    lacking = lacking_for(version, STATUS.read_text(), int(LAST_CAPABILITY.read_text()))
    return flags_for(lacking, CGROUP_V2.exists(), cgroup_parent)


def lacking_for(version: str, status: str, last: int) -> list[str]:
    """What has to be kept from a node's capabilities by hand, for an engine of this version.

    From 23 on nothing: for such an engine "all capabilities" are those it has itself, and naming
    one that it has not is an error (moby: oci/caps/utils_linux.go).
    """
    return [] if int(version.partition(".")[0]) >= 23 else missing(status, last)


def flags_for(lacking: list[str], cgroup_v2: bool, cgroup_parent: str) -> list[str]:
    """The flags for a machine that lacks some capabilities and has cgroup v1 or v2.

    --privileged is all or nothing: an engine before 23 fails where the machine lacks a single
    capability. So there the same is put together from its parts, which is measured to work with
    cgroup v1. With cgroup v2 a node gets a cgroup namespace of its own and start-node prepares
    it; that branch follows what Docker documents and has not run on a machine of ours.
    """
    if cgroup_v2:
        cgroups = ["--cgroupns", "private"]
    else:
        cgroups = [
            "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
            "--env", f"LAB_CGROUP_PARENT={cgroup_parent}",
        ]  # fmt: skip
    if not lacking:
        return ["--privileged", *NO_FSYNC, *cgroups]
    parts = ["--cap-add", "ALL"]
    for name in lacking:
        parts += ["--cap-drop", name]
    for profile in ("apparmor", "systempaths"):
        parts += ["--security-opt", f"{profile}=unconfined"]
    return [*parts, *NO_FSYNC, "--device-cgroup-rule", "a *:* rwm", *cgroups]


def missing(status: str, last: int) -> list[str]:
    """Given the text of /proc/self/status and the highest capability the kernel knows, return the
    capabilities outside the bounding set.

    The engine runs on this machine and can give no more than the machine has.
    """
    line = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    mask = int(line.split()[1], 16)
    return [name for bit, name in enumerate(NAMES[: last + 1]) if not mask >> bit & 1]
