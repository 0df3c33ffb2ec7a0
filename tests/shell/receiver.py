"""A receiver of pings on a free port of the loopback, which it writes into the file "port".

usage: receiver.py FOLDER. Each request becomes a line "METHOD PATH BYTES" of the file "requests"
there, its body the file "body". The file "answer" there holds what it answers: a status, "stall"
or "redirect" (to a path that answers 200); without it 200. It ends after a minute.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])
ENDED = threading.Event()


class Receiver(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        (FOLDER / "body").write_bytes(body)
        with (FOLDER / "requests").open("a") as requests:
            requests.write(f"{self.command} {self.path} {len(body)}\n")
        answer = FOLDER / "answer"
        said = answer.read_text().strip() if answer.exists() else "200"
        if said == "stall":
            ENDED.wait(60)
            return
        self.send_response(302 if said == "redirect" else int(said))
        if said == "redirect":
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_words: object) -> None:
        pass


with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
    server.daemon_threads = True
    threading.Timer(60, server.shutdown).start()
    (FOLDER / "port.partial").write_text(str(server.server_port))
    (FOLDER / "port.partial").rename(FOLDER / "port")
    server.serve_forever()
