"""Several questions to a Docker engine in one process, by its HTTP API.

`docker system dial-stdio` joins its input and output to the engine's socket, as `docker -H ssh://`
has it done on the other machine (Docker 18.09 and later). Starting the `docker` command is most of
what a question costs, so all of them go through one.
"""

from __future__ import annotations

import http.client
import io
import json
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

from fabfile.base import json_text


@dataclass(frozen=True)
class Answer:
    """What the engine answered to one question: an HTTP status, and JSON; 0 for no answer."""

    status: int
    body: str

    @property
    def error(self) -> str:
        """Its message, if it is an error."""
        if not self.status:
            return "the engine's answer ends too early"
        try:
            return str(json_text.parse(self.body)["message"])
        except (ValueError, TypeError, KeyError):
            return f"HTTP status {self.status}"


def path(resource: str, **filters: Sequence[str]) -> str:
    """The path of a list, such as "services", of what fits any value of each filter."""
    wanted = {key: dict.fromkeys(values, True) for key, values in filters.items()}
    return f"/{resource}" + (f"?filters={quote(json.dumps(wanted))}" if wanted else "")


def ask_script(questions: Mapping[str, str]) -> str:
    """Given paths by name, return a shell line that prints what `parse` reads.

    What the `docker` command says itself is in its output, too.
    """
    head = "HTTP/1.1\r\nHost: docker\r\n"
    # The engine drops the question at which its input ends: that is one which nobody needs.
    lines = [f"GET {path} {head}" for path in (*questions.values(), "/_ping")]
    lines[-1] += "Connection: close\r\n"
    text = shlex.quote("\r\n".join(lines) + "\r\n")
    return f"echo {' '.join(questions)}; printf %s {text} | docker system dial-stdio 2>&1\n"


def parse(text: str) -> tuple[dict[str, Answer], str]:
    """Given what `ask_script` printed, return the answers by name, one for each question, and what
    else was said.
    """
    names, _, said = text.partition("\n")
    before, separator, answers = said.partition("HTTP/1.1 ")
    source = _Source((separator + answers).encode())
    found = dict.fromkeys(names.split(), Answer(0, ""))
    for name in found:
        # It wants nothing of a socket but its file.
        response = http.client.HTTPResponse(cast("socket.socket", source))
        try:
            response.begin()
            if response.length is None and not response.chunked:
                break  # cut off in its head, which would say how long it is
            found[name] = Answer(response.status, response.read().decode())
        except (http.client.HTTPException, ValueError):
            break
    return found, before.strip()


class _Source(io.BytesIO):
    """One connection's bytes, from which each response reads on."""

    def makefile(self, *_: object) -> io.BytesIO:
        return self

    def close(self) -> None:
        """Only the last reader could: the next response is read from here."""
