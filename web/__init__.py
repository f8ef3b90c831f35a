"""What people and senders reach: the webhook receiver, the health verdict, the metrics and the pages.

One process of this kind serves HTTP; any number may run. It keeps nothing to itself: what it was told is in Postgres
before it answers, and what it shows it has just read there.
"""
