"""What we keep: the tables of Headrace and the states they may be in.

Postgres is the only memory of the system; whatever is in Redis or in the search index can be rebuilt from here.
This package knows nothing of jobs, brokers or upstreams.

    runs              one enqueued piece of work; outbox, delay, retry and dead letter are its states
    batches           runs that were enqueued together, counted until the last has ended
    attempts          one finished execution of a run
    log_lines         what a run said while it worked, capped
    calls             what attempts asked of the outside, and what came of it: the journal of effects
    redrives          dead runs that are run again with care; redriven is what became of each
    queues            a queue, its limit, and whether an operator paused it
    pauses            a pause of a job or a key
    schedules, slots  a rule in time; one planned fire of it with its one outcome
    processes         who is alive: heartbeats of workers, relays, schedulers
    events            one received webhook: raw bytes, verdict, what it caused
    upstreams         an account at a third party and whether an operator paused it
    streams           one kind of thing synced: cursor, high-water mark; stream_moves is its history
    sightings         what a full walk of a stream has seen so far
    quarantine        items that would not validate
    products, locations, stock_levels, stock_movements    the shop's own truth
    orders, order_lines    what somebody wants to buy; reservations keep its stock, fulfilments ship it once
    stock_adjustments what the warehouse has to be told of that
    checkout_sessions, payments, refunds, disputes    Stripe's objects as last observed
    event_marks       how far events were read that nobody had accepted
    search_changes    what the index still has to learn
    generations       physical search indices; search_rejects are documents they refused
    alerts            what should not go on, with its alert_notices; silences are times in which nobody is told
    users             who may see and do what; sign_ins and api_tokens are what they come with, wrong_passwords a count
    audit             what an operator did, to what, and why
"""

from models._base import Base, Kept
from models.adjustment import Adjustment
from models.alert import Alert, AlertNotice, Kind, Silence, What
from models.audit import AuditEntry
from models.batch import Batch
from models.call import Call
from models.event import Event, Verdict
from models.order import Fulfilment, Order, OrderLine, OrderState, Reservation, StockState
from models.pause import Pause
from models.payment import CheckoutSession, Dispute, EventMark, Payment, Refund
from models.process import Process
from models.queue import Queue
from models.redrive import Fate, Redrive, Redriven
from models.run import FINAL, MOVES, NEVER, Attempt, LogLine, Outcome, Run, State
from models.schedule import Schedule, Slot
from models.search import Generation, SearchChange, SearchReject
from models.stock import FILE, Location, Product, StockFile, StockFilePart, StockLevel, StockMovement
from models.stream import Quarantine, Sighting, Stream, StreamMove
from models.upstream import Upstream
from models.user import ApiToken, Role, SignIn, User, WrongPassword

__all__ = [
    "FILE",
    "FINAL",
    "MOVES",
    "NEVER",
    "Adjustment",
    "Alert",
    "AlertNotice",
    "ApiToken",
    "Attempt",
    "AuditEntry",
    "Base",
    "Batch",
    "Call",
    "CheckoutSession",
    "Dispute",
    "Event",
    "EventMark",
    "Fate",
    "Fulfilment",
    "Generation",
    "Kept",
    "Kind",
    "Location",
    "LogLine",
    "Order",
    "OrderLine",
    "OrderState",
    "Outcome",
    "Pause",
    "Payment",
    "Process",
    "Product",
    "Quarantine",
    "Queue",
    "Redrive",
    "Redriven",
    "Refund",
    "Reservation",
    "Role",
    "Run",
    "Schedule",
    "SearchChange",
    "SearchReject",
    "Sighting",
    "SignIn",
    "Silence",
    "Slot",
    "State",
    "StockFile",
    "StockFilePart",
    "StockLevel",
    "StockMovement",
    "StockState",
    "Stream",
    "StreamMove",
    "Upstream",
    "User",
    "Verdict",
    "What",
    "WrongPassword",
]
