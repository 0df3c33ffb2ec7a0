"""What changes in the app's stack when it stands behind the proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabfile.config.proxy import Proxy

UNHEARD_SIGNAL = "SIGWINCH"
"""What begins the end of a task of the app: nothing reacts to it, so requests are answered on."""


def is_behind(compose: Mapping[str, Any], proxy: Proxy) -> bool:
    """Whether an app's compose file, or release, joins the network of this proxy."""
    entries = (compose.get("networks") or {}).values()
    return proxy.network in [str((entry or {}).get("name")) for entry in entries]


def stopping_first(compose: Mapping[str, Any], main: str) -> dict[str, Any]:
    """The same with the old task stopped before the new one starts: for a version that changes
    tables, which the old one must not meet. Requests wait at the proxy meanwhile.
    """
    service = dict(compose["services"][main])
    deploy = dict(service.get("deploy") or {})
    for key in ("update_config", "rollback_config"):
        deploy[key] = {**(deploy.get(key) or {}), "order": "stop-first"}
    services = {**compose["services"], main: {**service, "deploy": deploy}}
    return {**compose, "services": services}


def behind(compose: Mapping[str, Any], main: str, proxy: Proxy) -> dict[str, Any]:
    """Given the app's compose file, return it with the service `main` behind the proxy.

    It publishes no port, joins the proxy's network, and its new task answers before the old one
    goes. Docker's DNS forgets a task before its end begins; for its grace period of `proxy.drain`
    seconds it answers on, since it does not react to the signal that begins its end.
    """
    service = dict(compose["services"][main])
    service.pop("ports", None)
    networks = service.get("networks") or []
    service["networks"] = (
        {**networks, "frontend": None} if isinstance(networks, Mapping) else [*networks, "frontend"]
    )
    deploy = {**(service.get("deploy") or {}), "endpoint_mode": "dnsrr"}
    for key in ("update_config", "rollback_config"):
        deploy[key] = {**(deploy.get(key) or {}), "order": "start-first"}
    service |= {
        "deploy": deploy,
        "stop_signal": UNHEARD_SIGNAL,
        "stop_grace_period": f"{proxy.drain}s",
    }
    frontend = {"external": True, "name": proxy.network}
    return {
        **compose,
        "services": {**compose["services"], main: service},
        "networks": {**(compose.get("networks") or {}), "frontend": frontend},
    }
