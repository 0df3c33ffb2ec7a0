"""What doctor asks a host about its backup: the part of the script that facts.py runs. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from fabfile.backup import container, host_files, host_kit, host_programs
from fabfile.backup.host_cron import wal_command

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory

# What the backup's script does to read its settings and to ask the bucket, but nothing is
# written there. It lists where it may: s3:ListBucket with a prefix does not allow head-bucket.
_BUCKET = """section bucket
if [ -r @CONFIG@ ] && command -v aws >/dev/null; then (
  set -a
  AGE_FIRST_LINE=known
  . @CONFIG@
  AWS_DEFAULT_REGION=$AWS_REGION AWS_MAX_ATTEMPTS=1 AWS_PAGER=
  ask() {
    timeout 30 aws ${S3_ENDPOINT_URL:+--endpoint-url "$S3_ENDPOINT_URL"} --cli-connect-timeout 5 \
      --cli-read-timeout 10 s3api "$@" --bucket "$S3_BUCKET" --output text 2>&1 </dev/null
  }
  said=$(ask list-objects-v2 --prefix @PREFIX@ --max-keys 1 --no-paginate --query KeyCount)
  code=$?
  # The CLI of Debian 12 reports some refusals as a fault of its own: ask plainly for the reason.
  case $said in *NoneType*) said=$(ask head-bucket) ;; esac
  echo "$said"
  echo "exit $code"
) fi
"""


def script(entry: HostEntry, inventory: Inventory) -> str:
    """The sections about the backup, of scripts on the host or of a container."""
    in_container = container.is_used(inventory)
    return (_container_part if in_container else _backup_part)(entry, inventory)


def _container_part(entry: HostEntry, inventory: Inventory) -> str:
    label = shlex.quote(
        f"label=com.docker.swarm.service.name={container.service_of(entry, inventory)}"
    )
    text = (
        "section container\n"
        f"docker ps --filter {label} --format '{{{{.Image}}}} {{{{.Status}}}}' 2>/dev/null |\n"
        "  head -n 1\n"
        f"c=$(docker ps -q --filter {label} | head -n 1)\n"
        f'section container_says\n[ -z "$c" ] || {{ docker exec "$c" {container.STATUS} 2>&1; '
        'echo "exit $?"; }\n'
    )
    if entry.role == "db":
        database = shlex.quote(f"label=com.docker.swarm.service.name={inventory.postgres.service}")
        text += f"section database_here\ndocker ps -q --filter {database} 2>/dev/null\n"
    if entry.role == "db" and inventory.backup.pitr:
        check = f'docker exec "$c" {host_kit.WAL} check --config {container.SETTINGS}'
        text += f'section wal\n[ -z "$c" ] || {{ {check} 2>&1; echo "exit $?"; }}\n'
    return text


def _backup_part(entry: HostEntry, inventory: Inventory) -> str:
    kit = host_kit.kit_of(entry, inventory)
    owner = host_files.owner_setting(kit, inventory).partition("=")[0]
    paths = host_files.installed(kit)
    needed = " ".join(map(shlex.quote, host_programs.programs(entry, inventory)))
    text = (
        f"section owner\ngrep -m 1 '^{owner}=' {kit.config} 2>/dev/null\n"
        "section files\n"
        f"for f in {' '.join(paths)}; do\n"
        '  [ ! -f "$f" ] || echo "$(sha256sum <"$f" | cut -d " " -f 1) '
        '$(stat -c \'%a %U\' "$f") $f"\n'
        "done\n"
        "section programs\n"
        f'for p in {needed}; do command -v "$p" >/dev/null || echo "$p"; done\n'
    )
    if kit.of_database:
        folder = f"{inventory.backup.directory}/{inventory.postgres.database}"
        text += _DUMPS.replace("@FOLDER@", shlex.quote(folder))
        if inventory.backup.pitr:
            text += _ask("wal", host_kit.WAL, wal_command(kit, "check"))
        config = f" --config {kit.config}" if kit.project else ""
        text += _ask("collations", host_kit.REINDEX, f"{host_kit.REINDEX} check{config}")
    prefix = f"{inventory.project}/" if inventory.project else ""
    prefix += "postgres/" if kit.of_database else "files/"
    return text + _BUCKET.replace("@CONFIG@", kit.config).replace("@PREFIX@", prefix)


_DUMPS = (
    "section dumps\n"
    "d=@FOLDER@\n"
    'n=$(ls -1 "$d"/backup_*Z.dump.gz 2>/dev/null | tail -n 1)\n'
    'while [ ! -d "$d" ]; do d=$(dirname "$d"); done\n'
    'df --output=avail -B1 -- "$d" | tail -n 1\n'
    '[ -z "$n" ] || stat -c %s -- "$n"\n'
)


def _ask(section: str, script: str, line: str) -> str:
    """What runs a check of a script that may not be there, and keeps its exit code."""
    return f'section {section}\n[ ! -x {script} ] || {{ {line} 2>&1; echo "exit $?"; }}\n'
