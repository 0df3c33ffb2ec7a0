"""The databases from the source's PostgreSQL into the new one: dumped, restored, compared.

A session at the source holds the tables against writers, describes them, and lends the dump its
snapshot. In the new server the empty database of the same name steps aside until all is well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabfile.adopt.database_names import ASIDE, NAMES, abandon
from fabfile.adopt.held import SILENCE_SECONDS, Held
from fabfile.adopt.server import PSQL, Server, with_parts
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import CheckFailedError, SwarmkeepError
from fabfile.ssh.relay import relay

_HOLDS = "held"
_DATABASE = "-- database "

_GRANTOR = re.compile(r" GRANTED BY [^;]+;$")
_PUBLIC = """
SELECT format('ALTER SCHEMA public OWNER TO %I; REVOKE ALL ON SCHEMA public FROM PUBLIC, %1$I;',
  pg_get_userbyid(nspowner)) FROM pg_namespace WHERE nspname = 'public'
UNION ALL
SELECT format('GRANT %s ON SCHEMA public TO %s%s;', privilege_type,
  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE nspname = 'public'
"""

Say = Callable[[str], None]


@dataclass
class Session:
    """A session in each database of the source. With `fence`, nobody writes while it lasts."""

    server: Server
    databases: Sequence[str]
    fence: bool
    snapshots: dict[str, str] = field(default_factory=dict)
    described: dict[str, list[str]] = field(default_factory=dict)
    _held: Held | None = None

    def start(self) -> None:
        """Begin; sets `snapshots` and `described`. Raises SwarmkeepError."""
        self._held = Held(
            self.server.host,
            _session_script(self.server, self.databases, fence=self.fence),
            _HOLDS,
            "keeping writers away" if self.fence else "reading the databases",
        )
        self._held.start()
        name = ""
        for line in self._held.lines:
            if line.startswith(_DATABASE):
                name = line.removeprefix(_DATABASE)
                self.described[name] = []
            elif line.startswith("snapshot "):
                self.snapshots[name] = line.removeprefix("snapshot ")
            elif name:
                self.described[name].append(line)
        for lines in self.described.values():
            lines.sort()
        if set(self.snapshots) != set(self.databases):
            raise SwarmkeepError(
                f"{self.server.host.name}: the databases could not be read", hint="run it again"
            )

    def check(self) -> None:
        """Raise SwarmkeepError if it has ended: then somebody may have written."""
        if self._held:
            self._held.check()

    def check_unchanged(self) -> None:
        """Raise CheckFailedError if anything differs from what the session has described, even what
        no lock keeps (sequences, large objects, new tables).
        """
        self.check()
        for name, lines in self.described.items():
            now = self.server.describe(name)
            if now != lines:
                raise differing(name, "the source has changed meanwhile", lines, now)

    def end(self) -> None:
        """Let writers go on."""
        if self._held:
            self._held.end()


@dataclass
class DatabaseCopy:
    """Into the new server. `tables` and `rows` are counted once it is compared."""

    session: Session
    target: Server
    user: str
    """NocoDB's role, which the new server was made with: its password there stays."""
    say: Say
    tables: int = 0
    rows: int = 0

    def copy(self) -> None:
        """Roles, databases, comparison, statistics. Raises SwarmkeepError."""
        abandon(self.target)
        self._copy_roles()
        for name in self.session.databases:
            self._step_aside(name)
            self.say(f"copying database {name}")
            relay(
                self.session.server.host,
                self.session.server.dump(name, self.session.snapshots[name]),
                self.target.host,
                self.target.restore(),
                f"copying database {name}",
                timeout=RUN_TIMEOUT,
            )
            self.session.check()
            self._copy_public(name)
            self._compare(name)
            self.target.sql("ANALYZE", "gathering statistics", name)
        self._compare_roles()

    def _step_aside(self, name: str) -> None:
        there = self.target.sql(NAMES, "asking PostgreSQL", changes=False).splitlines()
        self.target.sql(
            f'ALTER DATABASE "{name}" RENAME TO "{name}{ASIDE}"'
            if name in there
            else f'CREATE DATABASE "{name}{ASIDE}"',
            "making room for the copy",
        )

    def _copy_roles(self) -> None:
        source = self.session.server
        present = set(
            self.target.sql(
                "SELECT quote_ident(rolname) FROM pg_roles", "asking", changes=False
            ).split("\n")
        )
        own = source.sql(
            f"SELECT quote_ident('{self.user}')", "asking PostgreSQL", changes=False
        ).strip()
        lines = ["SET log_statement = 'none'; SET log_min_error_statement = 'panic';"]
        for line in source.globals().splitlines():
            created = line.removeprefix("CREATE ROLE ").removesuffix(";")
            if line.startswith("CREATE ROLE ") and created in present:
                continue
            # It has the vault's password, and is the superuser of the new server.
            if line.startswith(f"ALTER ROLE {own} WITH "):
                continue
            # Whoever granted is not there, or may not any more; it is not compared either.
            lines.append(_GRANTOR.sub(";", line) if line.startswith("GRANT ") else line)
        self.target.sql("\n".join(lines), "making the roles")

    def _copy_public(self, name: str) -> None:
        """Owner and rights of the schema public, which pg_dump took for granted until 14."""
        source = self.session.server
        if int(source.sql("SHOW server_version_num", "asking", changes=False)) < 150000:
            lines = source.sql(_PUBLIC, "asking PostgreSQL", name, changes=False)
            self.target.sql(lines, "the rights on schema public", name)

    def _compare(self, name: str) -> None:
        described, copied = self.session.described[name], self.target.describe(name)
        if not self.session.fence:
            # Sequences go on while others write, whatever a snapshot says.
            described, copied = _without_positions(described), _without_positions(copied)
        if described != copied:
            raise differing(name, "the copy differs from the source", described, copied)
        rows = [line for line in copied if line.startswith("rows ")]
        self.tables += len(rows)
        self.rows += sum(int(line.rpartition(" ")[2]) for line in rows)

    def _compare_roles(self) -> None:
        """Every role of the source is there, with all it may; but for NocoDB's, as said above."""
        own = (f"role {self.user} ", f'role "{self.user}" ')
        described = [
            line for line in self.session.server.describe_roles() if not line.startswith(own)
        ]
        copied = self.target.describe_roles()
        lacking = sorted(set(described) - set(copied))
        if lacking:
            raise differing("the roles", "the copy differs from the source", lacking, [])


def _without_positions(lines: Sequence[str]) -> list[str]:
    return sorted(
        line.rsplit(" ", 2)[0] if line.startswith("sequence ") else line for line in lines
    )


def differing(
    name: str, what: str, described: Sequence[str], copied: Sequence[str]
) -> CheckFailedError:
    """The error for two descriptions that are not the same, with the first lines that differ."""
    lacking, more = set(described) - set(copied), set(copied) - set(described)
    shown = [f"source: {_shown(line)}" for line in sorted(lacking)[:5]]
    shown += [f"copy: {_shown(line)}" for line in sorted(more)[:5]]
    return CheckFailedError(
        f"{name}: {what} in {len(lacking | more)} lines; the source is as it was",
        hint="see the lines above; run it again, or report it",
        details=tuple(shown),
    )


def _shown(line: str) -> str:
    # A role's line ends with a hash of its password.
    return line.partition(" password=")[0][:200]


def _session_script(server: Server, databases: Sequence[str], *, fence: bool) -> str:
    opens = "\n".join(
        f"open {shlex.quote(name)} {shlex.quote(server.inside(PSQL, name))}" for name in databases
    )
    script = f"""set -Eeuo pipefail
umask 077
work=$(mktemp -d /var/tmp/swarmkeep-adopt.XXXXXX)
names=() processes=() pipes=() number=0 FENCE={"yes" if fence else ""}
# What ends a session is the end of its input: a program that is the first one in a container of its
# own ignores signals.
finish() {{
  trap '' HUP INT TERM PIPE
  let_go
  for _ in {{1..100}}; do [[ -z $(jobs -pr) ]] || sleep 0.1; done
  for one in "${{processes[@]}}"; do kill "$one" 2>/dev/null || true; done
  rm -rf "$work"
}}
let_go() {{ local fd; for fd in "${{pipes[@]}}"; do exec {{fd}}>&-; done; }}
trap finish EXIT
trap 'exit 1' HUP INT TERM
open() {{
  local pipe out=$work/$number
  mkfifo "$out.pipe"
  exec {{pipe}}<>"$out.pipe"
  pipes+=("$pipe")
  # eval: the words of a command, quoted by the one who sent them
  (let_go; eval "exec setpriv --pdeathsig TERM $2" <"$out.pipe" >"$out" 2>"$out.error") &
  processes+=("$!") names+=("$1")
  {{ fence_sql; describe; printf '%s\\n' '\\echo end'; }} >&"$pipe"
  number=$((number + 1))
}}
{opens}
for number in "${{!names[@]}}"; do
  until [[ $(tail -n 1 "$work/$number") == end ]]; do
    kill -0 "${{processes[number]}}" 2>/dev/null || {{ cat "$work/$number.error" >&2; exit 1; }}
    sleep 0.1
  done
  echo "{_DATABASE}${{names[number]}}"
  sed '$d' "$work/$number"
done
echo {_HOLDS}
while IFS= read -r -n 1 -t {SILENCE_SECONDS} word; do
  for one in "${{processes[@]}}"; do
    kill -0 "$one" 2>/dev/null || {{ cat "$work"/*.error >&2; exit 1; }}
  done
done
"""
    return with_parts(script, "upgrade-fence", "upgrade-describe")
