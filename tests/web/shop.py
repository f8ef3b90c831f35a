"""A shop with something of everything, for pages to show."""

from sqlalchemy import Connection, text

from tests.databases import TABLES

EMPTY = f"""
DO $$ DECLARE written text; BEGIN
    SELECT string_agg(name, ', ') INTO written FROM ({TABLES}) AS tables (name) WHERE name <> 'processes';
    IF written IS NOT NULL THEN EXECUTE 'TRUNCATE ' || written || ' RESTART IDENTITY CASCADE'; END IF;
    DELETE FROM processes WHERE kind <> 'web';
END $$
"""

STATEMENTS = """
INSERT INTO products (source_id, sku, name, brand, price, currency, source_version, source_updated_at)
SELECT 'p' || n, lpad((n * 7919)::text, 8, '0'),
       (ARRAY['Oat drink barista 1 l', 'Sourdough rye loaf', 'Kidney beans in chilli sauce 400 g', 'Darjeeling',
              'Sea salt crackers', 'Mountain honey 500 g', 'Dishwasher tablets lemon, 40 pieces'])[n % 7 + 1],
       'Mill & Sons', 100 + n, 'USD', 1, now()
FROM generate_series(1, 1234) AS n;
INSERT INTO locations (source_id, name) SELECT 'loc_' || n, 'Store ' || n FROM generate_series(1, 5) AS n;
INSERT INTO stock_levels (source_id, product_id, location_id, on_hand, source_version, source_updated_at)
SELECT 'il_' || p.id, p.id, 1 + p.id % 5, 40, 1, now() FROM products p;
INSERT INTO stock_movements (level_id, delta, kind, quantity_after, source_ref, occurred_at)
SELECT id, CASE WHEN id % 4 = 0 THEN 24 ELSE -(1 + id % 3) END,
       CASE WHEN id % 3 = 0 THEN 'event' ELSE 'sync' END, 40 - id % 9, 'v1', now() - (1235 - id) * interval '3 s'
FROM stock_levels ORDER BY id;
TRUNCATE search_changes;
INSERT INTO search_changes (product_id) SELECT id FROM products WHERE id <= 3;
INSERT INTO generations (index, state, mapping_hash, documents, promoted_at, created_at)
VALUES ('products-20261122-6f1c', 'previous', 'a', 1200, now() - interval '2 days', now() - interval '2 days'),
       ('products-20261123-b0d4', 'live', 'a', 1234, now() - interval '5 hours', now() - interval '5 hours');
INSERT INTO processes (kind, host, pid, version, queues, threads, started_at) VALUES
    ('worker', 'mill-1', 4121, '0.1.0', '{alerts,default,maintenance,search,stripe,warehouse}', 8,
     now() - interval '3 hours'),
    ('worker', 'mill-2', 4122, '0.1.0', '{alerts,default,maintenance,search,stripe,warehouse}', 8,
     now() - interval '3 hours'),
    ('relay', 'mill-1', 4119, '0.1.0', '{}', 0, now() - interval '3 hours'),
    ('scheduler', 'mill-1', 4120, '0.1.0', '{}', 0, now() - interval '3 hours');
INSERT INTO runs (job, queue, args, state, attempt, max_attempts, created_at, due_at, started_at, finished_at, result)
SELECT (ARRAY['warehouse.apply_event', 'search.index_changes', 'stripe.project'])[n % 3 + 1],
       (ARRAY['warehouse', 'search', 'stripe'])[n % 3 + 1], '{}', 'succeeded', 1, 10,
       t, t, t + interval '20 ms', t + interval '1 s' * (0.05 + (n % 13) * 0.031), NULL
FROM generate_series(1, 900) AS n, LATERAL (SELECT now() - (900 - n) * interval '3.9 s' AS t) AS at;
INSERT INTO attempts (run_id, number, started_at, finished_at, outcome)
SELECT id, 1, started_at, finished_at, CASE WHEN id % 97 = 0 THEN 'failed' ELSE 'succeeded' END FROM runs
WHERE id % (5 + (extract(minute FROM finished_at)::int % 4)) <> 0;
INSERT INTO runs (job, queue, args, state, attempt, max_attempts, started_at, finished_at, result)
VALUES ('search.verify', 'search', '{}', 'succeeded', 1, 10, now() - interval '31 s', now() - interval '30 s',
        '{"documents": 1234, "products": 1234, "missing": 0, "stale": 0, "orphans": 0, "rejected": 0}');
INSERT INTO runs (job, queue, args, state, max_attempts, due_at)
SELECT 'search.index_changes', 'search', '{}', 'waiting', 10, now() + interval '20 s' FROM generate_series(1, 4);
INSERT INTO runs (job, queue, args, state, attempt, max_attempts, started_at, process_id)
VALUES ('warehouse.sync', 'warehouse', '{}', 'running', 1, 10, now() - interval '3 s', 1);
INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES
    ('warehouse.sync', 'every 3600 s', 'UTC', now() + interval '41 minutes'),
    ('search.verify', 'cron 15 4 * * *', 'UTC', now() + interval '9 hours'),
    ('warehouse.walk', 'cron 30 3 * * *', 'UTC', now() + interval '8 hours');
INSERT INTO schedules (name, rule, zone, next_fire_at)
SELECT 'canary.' || queue, 'every 1 min', 'UTC', date_trunc('minute', now()) + interval '1 min'
FROM unnest('{alerts,maintenance,search,stripe,warehouse}'::text[]) AS queue;
INSERT INTO slots (schedule, fire_at, outcome, run_id) VALUES
    ('warehouse.sync', now() - interval '19 minutes', 'ran', 1),
    ('search.verify', now() - interval '15 hours', 'ran', 2);
INSERT INTO streams (upstream, name, high_water, walked_at, walk_full, counts) VALUES
    ('warehouse', 'products', now() - interval '20 minutes', now() - interval '19 minutes', NULL, '{"seen": 1234}'),
    ('warehouse', 'stock_levels', now() - interval '19 minutes', now() - interval '19 minutes', false, '{"seen": 40}');
INSERT INTO quarantine (stream_id, fingerprint, reason, raw) VALUES (1, 'x', 'price: below zero', '{}');
INSERT INTO events (source, external_id, type, verdict, headers, body, duplicates, received_at)
SELECT 'warehouse', 'msg_' || n, 'inventory_level.updated', CASE WHEN n % 19 = 0 THEN 'ignored' ELSE 'accepted' END,
       '{}', '', (n % 11 = 0)::int, now() - n * interval '7 s' FROM generate_series(1, 412) AS n;
"""

TROUBLES = """
UPDATE processes SET heartbeat_at = now() - interval '40 s' WHERE kind = 'relay';
INSERT INTO queues VALUES ('stripe', now() - interval '6 minutes', 'ada', 'provider maintenance');
INSERT INTO runs (job, queue, args, state, attempt, failures, max_attempts, started_at, finished_at, error)
VALUES ('stripe.project', 'stripe', '{}', 'dead', 10, 10, 10, now() - interval '250 s', now() - interval '249 s',
        'stripe refused GET /v1/payment_intents/pi_3Q with 401: the key is wrong or expired, set STRIPE_API_KEY.');
INSERT INTO runs (job, queue, args, state, max_attempts, due_at)
SELECT 'search.index_changes', 'search', '{}', 'waiting', 10, now() - interval '95 s' FROM generate_series(1, 1800);
UPDATE streams SET walked_at = now() - interval '3 hours' WHERE name = 'stock_levels';
"""


def clear(connection: Connection) -> None:
    """Empty the database; only the web process that serves it keeps its row."""
    connection.execute(text(EMPTY))


def fill(connection: Connection) -> None:
    """Put the shop into an empty database; everything is well in it."""
    connection.execute(text(STATEMENTS))


def trouble(connection: Connection) -> None:
    """Let things go wrong in it."""
    connection.execute(text(TROUBLES))
