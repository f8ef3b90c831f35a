"""`python -m web`: one web process, until a signal asks it to stop."""

import signal
import socket
from threading import Thread
from types import FrameType

import uvicorn

from web.app import build
from workers.entry import enter
from workers.process import Presence

#: Requests at the same time; those above are answered 503 at once.
CONCURRENCY = 1_000
#: Seconds that requests under way get to finish on a stop.
GRACE = 10


def main() -> None:
    """Serve until stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with enter("web", connections=10) as runtime:
        app = build(runtime)
        listening = _listen(runtime.settings.core.host, runtime.settings.core.port)
        print(f"Headrace answers on http://localhost:{listening.getsockname()[1]}", flush=True)  # noqa: T201 - told once
        presence = Presence(runtime.machinery, "web")
        # Entering waits for Postgres; meanwhile we already answer, if only to say that it is away.
        Thread(target=presence.start, name="presence", daemon=True).start()
        try:
            uvicorn.Server(_config(app, runtime.settings.core.proxies)).run(sockets=[listening])
        finally:
            presence.stop()


def _leave(number: int, frame: FrameType | None) -> None:
    # The server stops gracefully on its own handler and then raises the signal once more: here it ends the process
    # in order, saying goodbye in the ledger, where the default would kill it.
    del number, frame
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        hint = "set PORT to a free one, or HOST to an address of this machine"
        raise SystemExit(f"headrace: cannot listen on {host} port {port} ({error.strerror}): {hint}") from None


def _config(app: object, proxies: list[str]) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type] # uvicorn's own types are narrower than ASGI
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        limit_concurrency=CONCURRENCY,
        timeout_graceful_shutdown=GRACE,
    )


if __name__ == "__main__":
    main()
