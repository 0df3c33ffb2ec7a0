"""NocoDB's own settings that are nobody's business, such as its login secret, from the vault.

Variables of a service are for everybody to read who may ask Docker, and NocoDB reads most of its
settings from nowhere else. So they come as a Docker secret with a line of JavaScript, which Node.js
runs before NocoDB: https://nodejs.org/api/cli.html#-r---require-module
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fabfile.base.errors import ConfigError
from fabfile.vault.reading import NOCODB_ENVIRONMENT, Secrets

NAME = "nocodb_environment"
_PATH = f"/run/secrets/{NAME}"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHORT = 8
"""Shorter values, such as "true", would take words out of everything that is shown."""


def of(secrets: Secrets) -> dict[str, str]:
    """The settings in the vault. Raises ConfigError where they are no JSON object of texts."""
    entry = secrets.get(NOCODB_ENVIRONMENT)
    if entry is None:
        return {}
    try:
        data = json.loads(entry.reveal())
    except ValueError:
        data = None
    if not isinstance(data, dict) or not all(
        _VARIABLE.fullmatch(key) and isinstance(value, str) for key, value in data.items()
    ):
        raise ConfigError(
            f"{secrets.file}: {NOCODB_ENVIRONMENT} is no JSON object of variables and texts",
            hint='write it like {"NC_SMTP_HOST": "mail.example.com"}: inv secrets.edit',
        )
    return data


def script(settings: Mapping[str, str]) -> bytes:
    """What the secret holds. Variables of the service itself come first."""
    text = json.dumps(settings, sort_keys=True)
    # A set of its own in place of process.env would not reach what Node.js itself reads.
    line = f"for (const [k, v] of Object.entries({text})) process.env[k] ??= v;\n"
    return line.encode()


def hidden(settings: Mapping[str, str]) -> list[str]:
    """The values that must never be shown."""
    return [value for value in settings.values() if len(value) >= _SHORT]


def added(compose: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Given the app's compose file, return it with this version of the secret for NocoDB.

    Raises ConfigError where it has NODE_OPTIONS in a form that cannot be added to.
    """
    service = dict(compose["services"]["nocodb"])
    environment = service.get("environment") or {}
    if isinstance(environment, list):
        environment = dict(str(item).partition("=")[::2] for item in environment)
    options = f"{environment.get('NODE_OPTIONS') or ''} --require={_PATH}".strip()
    service["environment"] = {**environment, "NODE_OPTIONS": options}
    service["secrets"] = [*(service.get("secrets") or ()), {"source": NAME, "target": NAME}]
    return {
        **compose,
        "services": {**compose["services"], "nocodb": service},
        "secrets": {**(compose.get("secrets") or {}), NAME: {"external": True, "name": version}},
    }
