"""A throwaway PostgreSQL on the db host, with a NocoDB on it: what a move would lead to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from fabfile.adopt.held import SILENCE_SECONDS, Held
from fabfile.adopt.server import Server
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, succeeded

_APP_SECONDS = 180
_START_SECONDS = 120
_WORD = "throwaway"


@contextmanager
def throwaway(live: Server, project: str) -> Iterator[Server]:
    """A server of the live one's image that nobody else can reach; it is gone after the block, and
    when we are. Raises SwarmkeepError.
    """
    held = Held(live.host, _script(live, _label(project)), _WORD, "a throwaway PostgreSQL")
    try:
        held.start()
        yield Server(live.host, held.lines[-1], live.user)
    finally:
        held.end()


def ask_app(server: Server, database: str, image: str, project: str) -> None:
    """Start NocoDB in the throwaway's network, and ask what it needs its database for.

    Raises SwarmkeepError with the last lines of its log.
    """
    connection = {
        "host": "127.0.0.1",
        "port": 5432,
        "user": server.user,
        "password": "",
        "database": database,
    }
    settings = json.dumps({"client": "pg", "connection": connection})
    # A NocoDB with another secret than the source's would be no rehearsal, but it must not get out.
    ask = (
        "u=http://127.0.0.1:8080/api/v1/db/meta/nocodb/info; "
        'if command -v wget >/dev/null; then exec wget -q -O /dev/null "$u"; fi; exec node -e '
        '"fetch(process.argv[1]).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))" "$u"'
    )
    script = f"""set -e
app=$(docker run -d --label {_label(project)} --network container:{server.container} \
  -e NC_DB_JSON={shlex.quote(settings)} -e NC_DISABLE_TELE=true {shlex.quote(image)})
end=$(( $(date +%s) + {_APP_SECONDS} ))
until timeout 60 docker exec "$app" sh -c {shlex.quote(ask)} >/dev/null 2>&1; do
  if [ "$(date +%s)" -ge "$end" ] ||
    [ "$(docker inspect -f '{{{{.State.Running}}}}' "$app")" != true ]; then
    docker logs --tail 5 "$app" >&2; exit 1
  fi
  sleep 0.5
done
docker rm -fv "$app" >/dev/null
"""
    result = server.host.run(Command(script), timeout=_APP_SECONDS * 2)
    succeeded(result, "NocoDB on the copy", hint="see what it says above; nothing was changed")


def _label(project: str) -> str:
    return f"swarmkeep.adopt{'.' if project else ''}{project}=rehearsal"


def _script(live: Server, label: str) -> str:
    container = shlex.quote(live.container)
    return f"""set -u
gone() {{ docker ps -aq --filter label={label} | xargs -r docker rm -fv >/dev/null 2>&1; }}
gone
trap gone EXIT
trap 'exit 1' HUP INT TERM
image=$(docker inspect -f '{{{{.Image}}}}' {container}) || exit
id=$(docker run -d --label {label} --network none --shm-size 256m \
  -e POSTGRES_USER={shlex.quote(live.user)} -e POSTGRES_DB=postgres \
  -e POSTGRES_HOST_AUTH_METHOD=trust \
  -e 'POSTGRES_INITDB_ARGS=--encoding=UTF8 --locale=C.UTF-8 --no-sync' "$image" \
  postgres -c fsync=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 \
  -c max_wal_size=2GB -c autovacuum=off) || exit
end=$(( $(date +%s) + {_START_SECONDS} ))
until docker exec "$id" pg_isready -q -h 127.0.0.1; do
  [ "$(date +%s)" -lt "$end" ] || {{ docker logs --tail 5 "$id" >&2; exit 1; }}
  sleep 0.2
done
echo "$id"
echo {_WORD}
while [ "$(timeout {SILENCE_SECONDS} head -c 1)" = . ]; do :; done
"""


def free_bytes(host: Host) -> int:
    """Bytes that are free where Docker has its volumes on a host."""
    ask = "df --output=avail -B1 -- \"$(docker info -f '{{.DockerRootDir}}')\" | tail -n 1"
    said = host.check(Command(ask, changes=False), "asking for free space").stdout.strip()
    if not said.isdecimal():
        raise SwarmkeepError(f"{host.name}: does not say how much space is free")
    return int(said)
