"""`python -m sandbox.upstreams`: the stand-in warehouse and Stripe as one process."""

from sandbox.upstreams.server import main

main()
