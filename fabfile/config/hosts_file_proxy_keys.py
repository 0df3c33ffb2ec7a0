"""The section `proxy` of hosts.yaml and the app's domain: the reverse proxy in front of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fabfile.base.schema import Section
from fabfile.config.hosts_file_keys import IMAGE, NAME, URL, optional_path, with_project
from fabfile.config.inventory import App, HostEntry
from fabfile.config.proxy import CERTIFICATES, Proxy

DIRECTORY = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
"""Let's Encrypt's, for trying: https://letsencrypt.org/docs/staging-environment/."""
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NETWORK = r"[0-9a-f:.]+/[0-9]{1,3}"
_MAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+"


def read_proxy(
    top: Section,
    stacks: Section,
    images: Section,
    hosts: Sequence[HostEntry],
    project: str,
    base: Path,
) -> Proxy:
    """The section `proxy`; without it there is no proxy. `base` is the folder of its paths."""
    section = top.section("proxy")
    stack = stacks.text("proxy", with_project(project, "proxystack"), pattern=NAME,
                        want="a stack name")  # fmt: skip
    image = images.text("proxy", "caddy:2.10.2", pattern=IMAGE, want="an image name")
    if "proxy" not in top:
        return Proxy(stack=stack, image=image)
    apps = tuple(host.name for host in hosts if host.role == "app")
    staging = section.flag("staging", False)
    default = STAGING if staging else DIRECTORY
    if staging and "acme_directory" in section:
        section.fail("staging", "is Let's Encrypt's: leave it out beside acme_directory")
    proxy = Proxy(
        stack=stack,
        image=image,
        hosts=section.texts("hosts", apps, pattern=NAME, want="hosts of this file"),
        certificates=section.choice("certificates", "acme", CERTIFICATES),
        email=section.text("email", "", pattern=_MAIL, want="a mail address"),
        acme_directory=section.text("acme_directory", default, pattern=URL, want="an https URL"),
        acme_root=optional_path(section, "acme_root", base),
        http_port=section.integer("http_port", 80, low=1, high=65535),
        https_port=section.integer("https_port", 443, low=1, high=65535),
        wait=section.duration("wait", 30, low=1, high=600),
        # SwarmKit waits for an old task for a minute at most before it starts the new one.
        drain=section.duration("drain", 10, low=1, high=45),
        trusted_proxies=section.texts("trusted_proxies", (), pattern=_NETWORK, want="networks such "
                                      "as 10.0.0.0/8"),
    )  # fmt: skip
    _check(section, proxy, {host.name for host in hosts})
    section.finish()
    return proxy


def _is_address(domain: str) -> bool:
    try:
        ipaddress.ip_address(domain)
    except ValueError:
        return False
    return True


def _check(section: Section, proxy: Proxy, known: set[str]) -> None:
    for name in proxy.hosts:
        if name not in known:
            section.fail("hosts", f"{name!r} is not a host of this file")
    if not proxy.hosts:
        section.fail("hosts", "names no host, and no host has 'role: app'")
    if proxy.http_port == proxy.https_port:
        section.fail("https_port", f"{proxy.https_port} is also http_port")
    if proxy.certificates == "acme" and len(proxy.hosts) > 1:
        section.fail(
            "hosts",
            "with 'certificates: acme' name one host: the certificate authority asks any host of "
            "the domain, and only the one that applied for a certificate can answer",
        )


def with_domain(app: App, section: Section, proxy: Proxy) -> App:
    """The app with its public address, where the proxy gives it one."""
    domain = section.text("domain", "", pattern=DOMAIN, want="a domain name in lower case")
    if not proxy.hosts:
        check_domain(section, domain, "", proxy)
        return app
    if not domain:
        section.fail("domain", "is missing: the name that the proxy answers for")
        return app
    check_domain(section, domain, app.public_url, proxy)
    # Whoever is in front of the proxy may have a certificate, and another port.
    return replace(app, domain=domain, public_url=app.public_url or public_url(domain, proxy))


def check_domain(section: Section, domain: str, url: str, proxy: Proxy) -> None:
    """Record what is wrong with an app's domain, and with its public address beside it."""
    if domain and not proxy.hosts:
        section.fail("domain", "needs the section 'proxy': docs/proxy.md")
    if domain and _is_address(domain) and proxy.certificates != "none":
        section.fail("domain", "is an IP address, which certificates are not for")
    if domain and url and proxy.certificates != "none":
        section.fail("public_url", f"follows from {section.at('domain')}: leave it out")


def public_url(domain: str, proxy: Proxy) -> str:
    """The address by which the proxy serves a domain."""
    scheme, port, usual = (
        ("http", proxy.http_port, 80)
        if proxy.certificates == "none"
        else ("https", proxy.https_port, 443)
    )
    shown = "" if port == usual else f":{port}"
    return f"{scheme}://{domain}{shown}"
