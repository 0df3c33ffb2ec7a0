"""The stack of the reverse proxy in front of the app, as it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import ConfigError
from fabfile.deploy import stacks
from fabfile.deploy.local_files import LocalFile
from fabfile.deploy.secret_versions import SecretContent, versioned_file
from fabfile.ssh.tunnel import CHECK_HEADER
from fabfile.swarm.docker_commands import proxy_label
from fabfile.vault.reading import PROXY_CERTIFICATE, PROXY_KEY

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.compose_file import Value
    from fabfile.deploy.stacks import Wanted
    from fabfile.vault.reading import Secrets

ROLE = "proxy"
APP_PORT = 8080
"""Where NocoDB listens in its container."""
_NONE = "none"
"""What stands for the name of a config or secret that is not wanted, until its entry goes."""


def proxy(inventory: Inventory, secrets: Secrets, folder: Path = stacks.COMPOSE_FOLDER) -> Wanted:
    """The proxy's stack. Raises ConfigError as for the others, and where no proxy is wanted."""
    if not inventory.proxy.hosts:
        raise ConfigError(
            f"{inventory.path}: has no section 'proxy'",
            hint="docs/proxy.md says what belongs there; to remove one that runs: inv proxy.remove",
        )
    settings, key = inventory.proxy, secrets.name_key()
    configs = _configs(inventory, key, folder)
    certificate = _certificate(inventory, secrets)
    names: dict[str, Value] = {
        "proxy_stack": settings.stack,
        "proxy_image": settings.image,
        "proxy_network": settings.network,
        "proxy_label": proxy_label(settings.stack),
        "http_port": settings.http_port,
        "https_port": settings.https_port,
        **{
            f"config_{name}": configs[name].version.name if name in configs else _NONE
            for name in ("caddyfile", "acme_root")
        },
        **{
            f"secret_{name}": certificate[name].version.name if name in certificate else _NONE
            for name in ("certificate", "certificate_key")
        },
    }
    path = folder / "compose-proxy.yml"
    made = [*configs.values(), *certificate.values()]
    private = [certificate["certificate_key"].content.decode()] if certificate else []
    wanted = stacks.wanted_of(settings.stack, ROLE, settings.image, path, names, key, made, private)
    return stacks.labelled(_without_unwanted(wanted, inventory), inventory, secrets)


def _configs(inventory: Inventory, key: bytes, folder: Path) -> dict[str, SecretContent]:
    """Docker configs by name: Caddy's configuration and a private ACME server's authority."""
    stack = inventory.proxy.stack
    contents = {"caddyfile": caddyfile(inventory, folder).encode()}
    if inventory.proxy.certificates == "acme" and inventory.proxy.acme_root:
        contents["acme_root"] = _read(inventory.proxy.acme_root)
    return {
        name: versioned_file(key, stack, LocalFile("configs", f"{stack}_{name}", content))
        for name, content in contents.items()
    }


def _read(path: Path) -> bytes:
    """A PEM file with certificates. Raises ConfigError for any other."""
    from cryptography import x509

    try:
        content = path.read_bytes()
        x509.load_pem_x509_certificates(content)
    except (OSError, ValueError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is no PEM"
        raise ConfigError(
            f"proxy.acme_root: {path} {why}",
            hint="name a PEM file with the ACME server's own certificate authority",
        ) from None
    return content


def _certificate(inventory: Inventory, secrets: Secrets) -> dict[str, SecretContent]:
    """Docker secrets by name: the certificate with its chain, and its key, from the vault."""
    if inventory.proxy.certificates != "vault":
        return {}
    from fabfile.deploy import proxy_certificate

    where = str(secrets.file)
    chain, private = (
        proxy_certificate.decoded(secrets.require(name).reveal(), name, where)
        for name in (PROXY_CERTIFICATE, PROXY_KEY)
    )
    for domain in inventory.domains:
        proxy_certificate.check(chain, private, domain, where)
    key, stack = secrets.name_key(), inventory.proxy.stack
    # As files of the stack: they go when it does not want them any more.
    return {
        name: versioned_file(key, stack, LocalFile("secrets", f"{stack}_{name}", text.encode()))
        for name, text in (("certificate", chain), ("certificate_key", private))
    }


def caddyfile(inventory: Inventory, folder: Path = stacks.COMPOSE_FOLDER) -> str:
    """Caddy's configuration, from its template. Raises ConfigError for a broken template."""
    from jinja2 import Environment, StrictUndefined, TemplateError

    path, settings = folder / "Caddyfile.j2", inventory.proxy
    try:
        template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(  # noqa: S701 - no HTML
            path.read_text(encoding="utf-8")
        )
        return template.render(
            certificates=settings.certificates,
            email=settings.email,
            acme_directory=settings.acme_directory,
            acme_root=bool(settings.acme_root),
            http_port=settings.http_port,
            https_port=settings.https_port,
            wait=settings.wait,
            sites=_sites(inventory),
            check_header=CHECK_HEADER,
            trusted_proxies=settings.trusted_proxies,
        )
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ConfigError(
            f"{path}: is no usable template: {error}", hint="restore it: git checkout compose/"
        ) from None


def _sites(inventory: Inventory) -> list[dict[str, str | int]]:
    """What the proxy answers for: each app's domain, its service, and the port it listens at."""
    nocodb = f"{inventory.app.stack}_{stacks.main_service(inventory, 'app')}"
    first: dict[str, str | int] = {
        "snippet": "app",
        "domain": inventory.app.domain,
        "service": nocodb,
        "port": APP_PORT,
    }
    others: list[dict[str, str | int]] = [
        {
            "snippet": f"app_{one.name}",
            "domain": one.domain,
            "service": one.service_name,
            "port": one.port,
        }
        for one in inventory.apps
        if one.domain
    ]
    return [first, *others]


def _without_unwanted(wanted: Wanted, inventory: Inventory) -> Wanted:
    """The stack without what stands for configs and secrets that are not wanted, and where there
    is no certificate without the port for HTTPS.
    """
    compose = dict(wanted.compose)
    for kind in ("configs", "secrets"):
        entries = compose.get(kind) or {}
        compose[kind] = {
            name: entry for name, entry in entries.items() if (entry or {}).get("name") != _NONE
        }
    services = {}
    for key, service in compose["services"].items():
        one = dict(service)
        for kind in ("configs", "secrets"):
            one[kind] = [item for item in one.get(kind) or () if _source(item) in compose[kind]]
        if inventory.proxy.certificates == "none":
            one["ports"] = [
                port
                for port in one.get("ports") or ()
                if not isinstance(port, dict) or port.get("target") != inventory.proxy.https_port
            ]
        services[key] = one
    return replace(wanted, compose={**compose, "services": services})


def _source(item: Any) -> str:
    return str(item.get("source") if isinstance(item, dict) else item)
