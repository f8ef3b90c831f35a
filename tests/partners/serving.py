"""A tiny real server for a partner's interface: a table of routes, and what was asked."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson


@dataclass
class Request:
    """One request; header names are lower case, a body of JSON is read."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Response:
    """What is answered: bytes as they are, anything else as JSON."""

    payload: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Request], Response]


@dataclass
class Partner:
    """The server: its address, its routes by `METHOD /path` (the longest that fits), and what it was asked."""

    url: str
    routes: dict[str, Route]
    asked: list[Request] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        self.asked.append(request)
        line = f"{request.method} {request.path}"
        fitting = [route for route in self.routes if line.startswith(route)]
        return self.routes[max(fitting, key=len)](request) if fitting else Response({"error": "no such path"}, 404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    partner: Partner


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(address.query))
        request = Request(self.command, address.path, query, headers, orjson.loads(content) if content else None)
        response = self.server.partner.answer(request)
        body = response.payload if isinstance(response.payload, bytes) else orjson.dumps(response.payload)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Stay silent."""


@contextmanager
def serving(routes: dict[str, Route]) -> Iterator[Partner]:
    """Serve while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.partner = Partner(f"http://127.0.0.1:{server.server_address[1]}", routes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.partner
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
