"""JSON from outside -> plain data: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Given the text of a JSON document, return its data.

    Raises ValueError, and nothing else: also for what Python's reader takes and JSON has not
    (NaN), for nesting that is too deep for it, and for bytes that are no UTF-8.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
