"""An app for tests of the proxy: it says what it was asked, counts what it is sent, takes its time,
and speaks WebSocket. Runs by itself in a container: python3 proxied_app.py.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import time
from typing import Any

_BLOCK = 1 << 20


class App(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._echo_one_frame()
        elif self.path.startswith("/slow/"):
            time.sleep(float(self.path.rpartition("/")[2]))
            self._say({"slow": self.path})
        else:
            self._say({"path": self.path, "headers": dict(self.headers), "filler": "x" * 4096})

    def do_POST(self) -> None:
        left, got = int(self.headers["Content-Length"]), 0
        while got < left:
            got += len(self.rfile.read(min(_BLOCK, left - got)))
        self._say({"got": got})

    def _say(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Powered-By", "something")
        self.end_headers()
        self.wfile.write(body)

    def _echo_one_frame(self) -> None:
        """RFC 6455: a short text frame of the client's, sent back."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        length = self.rfile.read(2)[1] & 127
        mask, body = self.rfile.read(4), self.rfile.read(length)
        text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))
        self.wfile.write(bytes([0x81, len(text)]) + text)
        self.close_connection = True


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
