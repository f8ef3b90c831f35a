"""Two doors: senders of webhooks go straight to the receiver, everybody else through the application and its guard.

The receiver needs no routes, no user and none of the application's middleware, and what those cost a request is as much
as it does itself. Its senders are known by their signatures.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

#: Where addresses of webhooks begin.
WEBHOOKS = "/webhooks/"


class Doors:
    """The whole of what answers on our port.

    Args:
        receiver: Answers below `/webhooks/`.
        app: Answers everything else, and lives as long as the process.
    """

    def __init__(self, receiver: ASGIApp, app: ASGIApp) -> None:
        self._receiver = receiver
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        door = self._receiver if scope["type"] == "http" and scope["path"].startswith(WEBHOOKS) else self._app
        await door(scope, receive, send)
