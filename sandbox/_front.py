"""The front of the embedded search server: HTTP in, the same HTTP out, other media types.

The official client asks for `application/vnd.elasticsearch+json; compatible-with=9`, which the embedded server
answers with 406. The front writes plain JSON (and newline-delimited JSON) instead, and gives the answer the type that
was asked for. Nothing else is touched. Each client connection has one kept connection of its own to the server; when
that one is gone the answer is 503 and the next request dials again, so the front outlives any restart behind it.

Run as `python -m sandbox._front PORT SERVER_PORT`; prints one line once it listens.
"""

import json
import re
import select
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_VENDORED = re.compile(r"application/vnd\.elasticsearch\+(json|x-ndjson)\s*;\s*compatible-with=(\d+)")
_OF_ONE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}
_SERVER_SECONDS = 120.0


class Front(ThreadingHTTPServer):
    """Listens on `port` for the server on `server_port`, both on 127.0.0.1."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, server_port: int) -> None:
        super().__init__(("127.0.0.1", port), _Conversation)
        self.behind = server_port


class _Conversation(BaseHTTPRequestHandler):
    """One client connection and the server connection that belongs to it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Front

    def setup(self) -> None:
        super().setup()
        self._behind = HTTPConnection("127.0.0.1", self.server.behind, timeout=_SERVER_SECONDS)

    def finish(self) -> None:
        self._behind.close()
        super().finish()

    def forward(self) -> None:
        """Pass the request on and its answer back."""
        if "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Send the body with a Content-Length: chunks are not read here.")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            response = self._ask(body)
            content = response.read()
        except (OSError, HTTPException):
            self._behind.close()
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The embedded search server is away; try again later.")
            return
        self._answer(response, content)

    def _ask(self, body: bytes) -> HTTPResponse:
        if _hung_up(self._behind):
            self._behind.close()  # it dials again by itself
        headers = {k.lower(): v for k, v in self.headers.items() if k.lower() not in _OF_ONE_CONNECTION}
        for name in headers.keys() & {"accept", "content-type"}:
            headers[name] = _VENDORED.sub(r"application/\1", headers[name])
        self._behind.request(self.command, self.path, body=body or None, headers=headers)
        return self._behind.getresponse()

    def _answer(self, response: HTTPResponse, content: bytes) -> None:
        length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        wanted = _VENDORED.search(self.headers.get("Accept", ""))
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if wanted and name.lower() == "content-type":
                self.send_header(name, value.replace("application/json", wanted.group()))
            elif name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self._send(length, content)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        content = json.dumps({"error": {"type": "sandbox_front", "reason": reason}, "status": status}).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        if status is HTTPStatus.LENGTH_REQUIRED:
            self.send_header("Connection", "close")  # the unread body would be taken for the next request
        self._send(str(len(content)), b"" if self.command == "HEAD" else content)

    def _send(self, length: str, content: bytes) -> None:
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: a line per request would be the slowest part of it."""


for _method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(_Conversation, f"do_{_method}", _Conversation.forward)


def _hung_up(connection: HTTPConnection) -> bool:
    # Between two requests a server has nothing to say: what can be read then is its farewell.
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def main() -> None:
    """Serve until killed."""
    port, server_port = (int(argument) for argument in sys.argv[1:3])
    with Front(port, server_port) as front:
        print("listening", flush=True)
        front.serve_forever()


if __name__ == "__main__":
    main()
