"""A real HTTP server that answers by script, one step per request: well, badly, slowly, or not at all."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson

Step = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Seen:
    """One request as the server got it; header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """The server: what it was asked, and what it will answer. The last step is repeated for ever."""

    url: str
    steps: list[Step]
    seen: list[Seen] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: whoever hangs or drips stops."""

    def will(self, *steps: Step) -> None:
        self.steps[:] = steps

    def next_step(self) -> Step:
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.script.seen.append(Seen(self.command, self.path, headers, body))
        self.server.script.next_step()(self)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Scripted

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on us is what some tests are about."""


@contextmanager
def scripted_server(certificates: Path | None = None) -> Iterator[Scripted]:
    """Serve while the block runs; with certificates, by TLS as ``localhost``."""
    server = _Server(("127.0.0.1", 0), _Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    if certificates is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificates / "localhost.pem", certificates / "localhost.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_address[1]}"
    script = server.script = Scripted(url, [reply(200, {})])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def reply(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> Step:
    """Answer at once. Bytes are sent as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)

    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return step


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def break_off(handler: BaseHTTPRequestHandler) -> None:
    """Promise a hundred bytes, send ten, close."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


def hang(script: Scripted) -> Step:
    """Say nothing until the test is over."""

    def step(handler: BaseHTTPRequestHandler) -> None:
        script.released.wait(60)
        handler.close_connection = True

    return step


def drip(script: Scripted, pause: float) -> Step:
    """Send a byte, wait, send a byte, and so on: each read succeeds, the body never ends."""

    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not script.released.wait(pause):
            handler.wfile.write(b" ")
            handler.wfile.flush()
        handler.close_connection = True

    return step
