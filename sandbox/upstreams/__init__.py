"""Stand-in upstreams: a warehouse and a Stripe that behave, and misbehave, like the real ones.

The warehouse serves a retailer's real catalogue at its real stores and replays a year of its real sales as stock
changes with signed webhooks; Stripe keeps payments and refunds and sends their events. Both run in one process of
their own (`python -m sandbox.upstreams`, or `Upstreams.start()` from Python) and fail on demand.
"""

from sandbox.upstreams.controls import Admin
from sandbox.upstreams.process import Upstreams

__all__ = ["Admin", "Upstreams"]
