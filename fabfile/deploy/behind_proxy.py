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


def other_app_behind(compose: Mapping[str, Any], main: str, proxy: Proxy) -> dict[str, Any]:
    """Given the compose file of an app beside NocoDB, return it with `main` behind the proxy.

    As for NocoDB, but how it is told to end, and for how long it may take, is its own: it may have
    to write something down. Where its file says nothing, it may take as long as NocoDB.
    """
    own = {
        key: compose["services"][main][key]
        for key in ("stop_signal", "stop_grace_period")
        if key in compose["services"][main]
    }
    changed = behind(compose, main, proxy, network="swarmkeep_proxy")
    service = {**changed["services"][main], **own}
    if "stop_signal" not in own:
        del service["stop_signal"]
    return {**changed, "services": {**changed["services"], main: service}}


def behind(
    compose: Mapping[str, Any], main: str, proxy: Proxy, network: str = "frontend"
) -> dict[str, Any]:
    """Given the app's compose file, return it with the service `main` behind the proxy, whose
    network is called `network` there.

    It publishes no port, joins the proxy's network, and its new task answers before the old one
    goes. Docker's DNS forgets a task before its end begins; for its grace period of `proxy.drain`
    seconds it answers on, since it does not react to the signal that begins its end.
    """
    service = dict(compose["services"][main])
    service.pop("ports", None)
    networks = service.get("networks") or []
    service["networks"] = (
        {**networks, network: None} if isinstance(networks, Mapping) else [*networks, network]
    )
    deploy = {**(service.get("deploy") or {}), "endpoint_mode": "dnsrr"}
    for key in ("update_config", "rollback_config"):
        deploy[key] = {**(deploy.get(key) or {}), "order": "start-first"}
    service |= {
        "deploy": deploy,
        "stop_signal": UNHEARD_SIGNAL,
        "stop_grace_period": f"{proxy.drain}s",
    }
    external = {"external": True, "name": proxy.network}
    return {
        **compose,
        "services": {**compose["services"], main: service},
        "networks": {**(compose.get("networks") or {}), network: external},
    }
