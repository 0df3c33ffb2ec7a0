"""NocoDB's next version, whose first start changes its tables: did it, and what runs now."""

from __future__ import annotations

from dataclasses import replace

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Inventory
from fabfile.deploy import behind_proxy
from fabfile.deploy.stacks import Wanted, main_service
from fabfile.rotation.role_password import find
from fabfile.ssh.fleet import Fleet
from fabfile.swarm.postgres import run_sql
from fabfile.swarm.state import Cluster

# NocoDB keeps its own tables in the schema public, and in some of them which migrations have run.
_TABLES = """
SELECT md5(string_agg(concat_ws(' ', c.relname, a.attname, a.atttypid::regtype, a.attnotnull), ','
    ORDER BY c.relname, a.attnum)) || ' ' ||
  (SELECT string_agg(m.relname || (xpath('/row/n/text()', query_to_xml(format(
      'SELECT count(*) AS n FROM public.%I', m.relname), false, true, '')))[1]::text, ','
      ORDER BY m.relname)
    FROM pg_class m WHERE m.relkind = 'r' AND m.relnamespace = 'public'::regnamespace
      AND m.relname ~ 'migrations')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'r' AND a.attnum > 0 AND c.relnamespace = 'public'::regnamespace
""".replace("\n", " ")


def live_image(inventory: Inventory, cluster: Cluster) -> str:
    """The image that NocoDB's service runs, without its digest. Raises SwarmkeepError if none."""
    service = cluster.service(f"{inventory.app.stack}_nocodb")
    if service is None:
        raise SwarmkeepError(
            f"{inventory.app.stack}_nocodb: is not deployed", hint="deploy it first: inv deploy-app"
        )
    return service.image.partition("@")[0]


def next_image(live: str, target: str) -> str:
    """Given what a user wants, a version ("0.301.3") or an image, return the image to run.

    Raises ConfigError for what names no version.
    """
    image = target if ":" in target else f"{live.rpartition(':')[0]}:{target}"
    tag = image.rpartition(":")[2]
    if not tag or "/" in tag or tag == "latest" or image.startswith("-") or tag.startswith("-"):
        raise ConfigError(
            f"{target!r} names no version",
            hint="say it as in images.nocodb: inv upgrade-app 0.301.3",
        )
    return image


def with_image(inventory: Inventory, image: str) -> Inventory:
    """The inventory as hosts.yaml says it for this version."""
    return replace(inventory, app=replace(inventory.app, image=image))


def stopping_first(wanted: Wanted, inventory: Inventory) -> Wanted:
    """The app's stack with its old task stopped before the new one starts, behind a proxy too."""
    main = main_service(inventory, "app")
    return replace(wanted, compose=behind_proxy.stopping_first(wanted.compose, main))


def tables(fleet: Fleet, cluster: Cluster, passwords: list[Secret]) -> str:
    """A text that changes when NocoDB's own tables do, or the list of its migrations.

    Raises SwarmkeepError if PostgreSQL does not answer.
    """
    role = find(fleet, cluster, passwords)
    known = [password.reveal() for password in passwords]
    command = run_sql(role.container, role.user, role.database, _TABLES, known, changes=False)
    said = role.host.check(command, "PostgreSQL: looking at NocoDB's tables").stdout
    return said.splitlines()[-1] if said else ""
