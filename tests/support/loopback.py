"""A local server that fails as servers and networks do, in the order that a test chooses."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

PAGE = b"<!DOCTYPE html><title>Sign in to the hotel's network</title>"


class FaultServer(ThreadingHTTPServer):
    """Serves `files`, with one fault of `script` per request; the last fault repeats.

    Attributes:
        faults: Fault by file name, overriding the script.
        asked: Path of each request.
        parts: Range header of each request.
        ranges: Whether Range requests are supported.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FaultHandler)
        self.files: dict[str, bytes] = {}
        self.script: list[str] = ["good"]
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []
        self.parts: list[str | None] = []
        self.ranges = True
        self.stop_stalling = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, *arguments: object) -> None:
        """Print nothing when a client disconnects."""


class FaultHandler(BaseHTTPRequestHandler):
    """Answers GET with the faults of its `FaultServer`."""

    server: FaultServer

    def do_GET(self) -> None:
        name, wanted = unquote(self.path[1:]), self.headers["Range"]
        self.server.asked.append(name)
        self.server.parts.append(wanted)
        script = self.server.script
        fault = self.server.faults.get(name) or (script.pop(0) if len(script) > 1 else script[0])
        content = self.server.files.get(name)
        if fault.isdecimal() or content is None:
            self.reply(int(fault) if fault.isdecimal() else 404, PAGE)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if wanted and self.server.ranges and start >= len(content):
            self.reply(416, b"")
            return
        getattr(self, "send_" + fault.replace(" ", "_"))(content, start)

    def reply(
        self, status: int, body: bytes, length: int | None = None, part: str = "", encoding: str = ""
    ) -> None:
        self.send_response(status)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if part:
            self.send_header("Content-Range", part)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def body(self, content: bytes, start: int, end: int | None = None, length: int | None = None) -> None:
        """Send `content` from `start` to `end`, and declare its full length unless another is given."""
        part = f"bytes {start}-{len(content) - 1}/{len(content)}" if start else ""
        promised = len(content) - start if length is None else length
        self.reply(206 if start else 200, content[start:end], promised, part)
        self.wfile.flush()

    def send_good(self, content: bytes, start: int) -> None:
        self.body(content, start)

    def send_encoded(self, content: bytes, start: int) -> None:
        """Declare gzip as the encoding, as some object stores do for .gz files: clients would unpack it."""
        accepted = "gzip" in self.headers["Accept-Encoding"]
        self.reply(200, content, encoding="gzip" if accepted else "identity")

    def send_truncated(self, content: bytes, start: int) -> None:
        self.body(content, start, (start + len(content)) // 2)

    def send_no_length(self, content: bytes, start: int) -> None:
        self.body(content, start, length=-1)

    def send_no_length_and_truncated(self, content: bytes, start: int) -> None:
        self.body(content, start, (start + len(content)) // 2, length=-1)

    def send_one_byte_wrong(self, content: bytes, start: int) -> None:
        middle = len(content) // 2
        self.body(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], start)

    def send_longer(self, content: bytes, start: int) -> None:
        self.body(content + b"x", start)

    def send_page(self, content: bytes, start: int) -> None:
        self.reply(200, PAGE)

    def send_reset(self, content: bytes, start: int) -> None:
        self.body(content, start, (start + len(content)) // 2)
        self.hang_up()

    def send_reset_at_once(self, content: bytes, start: int) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def send_stall(self, content: bytes, start: int) -> None:
        self.body(content, start, (start + len(content)) // 2)
        self.server.stop_stalling.wait(20)

    def send_silence(self, content: bytes, start: int) -> None:
        self.server.stop_stalling.wait(20)

    def send_other_part(self, content: bytes, start: int) -> None:
        self.reply(206, content[5:], part=f"bytes 5-{len(content) - 1}/{len(content)}")

    def send_loop(self, content: bytes, start: int) -> None:
        self.redirect(self.path)

    def send_local(self, content: bytes, start: int) -> None:
        self.redirect("file:///etc/passwd")

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(server: FaultServer) -> Iterator[None]:
    """Serve in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.stop_stalling.set()
        server.shutdown()
        thread.join()


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Yield a running server."""
    with FaultServer() as server, serving(server):
        yield server
