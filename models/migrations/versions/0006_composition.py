"""Chains, batches and parents: what a run waits for, belongs to and came from.

Two statement-level triggers do what must happen in the transaction that moves a run, whoever moves it. They look at one
transition table and leave at once when no member and no predecessor is in it. Each statement inside them sees what was
committed before it began, also when the moving statement had to wait for a lock: that closes the race between the end
of a run and an enqueue behind it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A run behind another one waits until `models.run.NEVER`.
NEVER = "timestamptz '9999-12-31 00:00:00+00'"

FUNCTIONS = f"""
CREATE FUNCTION release_runs_behind(ended bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE runs SET due_at = clock_timestamp() WHERE id IN (
        SELECT id FROM runs WHERE after_id = ANY(ended) AND state = 'waiting' AND due_at = {NEVER}
        ORDER BY id FOR UPDATE);
END $$;

-- All that wait behind at once, not one level after the other: a long chain must not nest triggers.
CREATE FUNCTION cancel_runs_behind(ended bigint[], why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH RECURSIVE behind AS (
        SELECT id, after_id AS first FROM runs
        WHERE after_id = ANY(ended) AND state = 'waiting' AND due_at = {NEVER}
        UNION ALL
        SELECT r.id, b.first FROM runs r JOIN behind b ON r.after_id = b.id
        WHERE r.state = 'waiting' AND r.due_at = {NEVER}
    ), held AS (
        SELECT r.id, b.first FROM runs r JOIN behind b USING (id) ORDER BY r.id FOR UPDATE OF r
    )
    UPDATE runs r
    SET state = 'cancelled', finished_at = now(), unique_key = NULL,
        error = 'cancelled with run ' || h.first || ', which it waited for and which ' || why
    FROM held h WHERE r.id = h.id AND r.state = 'waiting';
END $$;

CREATE FUNCTION count_batches(batches_moved bigint[], succeeded bigint[], dead bigint[], cancelled bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM batches WHERE id = ANY(batches_moved) ORDER BY id FOR UPDATE;
    UPDATE batches b
    SET succeeded = b.succeeded + m.succeeded, dead = b.dead + m.dead, cancelled = b.cancelled + m.cancelled
    FROM unnest(batches_moved, count_batches.succeeded, count_batches.dead, count_batches.cancelled)
        AS m (id, succeeded, dead, cancelled)
    WHERE b.id = m.id;
END $$;

CREATE FUNCTION runs_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    members boolean; done bigint[]; gone bigint[];
    moved bigint[]; succeeded bigint[]; dead bigint[]; cancelled bigint[];
BEGIN
    SELECT bool_or(n.batch_id IS NOT NULL), array_agg(n.id) FILTER (WHERE n.followed AND n.state = 'succeeded'),
           array_agg(n.id) FILTER (WHERE n.followed AND n.state = 'cancelled')
    INTO members, done, gone FROM new_rows n;
    IF done IS NOT NULL THEN PERFORM release_runs_behind(done); END IF;
    IF gone IS NOT NULL THEN PERFORM cancel_runs_behind(gone, 'was cancelled'); END IF;
    IF NOT coalesce(members, false) THEN RETURN NULL; END IF;
    SELECT array_agg(d.batch_id), array_agg(d.succeeded), array_agg(d.dead), array_agg(d.cancelled)
    INTO moved, succeeded, dead, cancelled
    FROM (
        SELECT m.batch_id, coalesce(sum(m.step) FILTER (WHERE m.state = 'succeeded'), 0) AS succeeded,
               coalesce(sum(m.step) FILTER (WHERE m.state = 'dead'), 0) AS dead,
               coalesce(sum(m.step) FILTER (WHERE m.state = 'cancelled'), 0) AS cancelled
        FROM (SELECT n.batch_id, n.state, 1 AS step FROM new_rows n
              UNION ALL SELECT o.batch_id, o.state, -1 FROM old_rows o) AS m
        WHERE m.batch_id IS NOT NULL GROUP BY m.batch_id
    ) AS d WHERE d.succeeded <> 0 OR d.dead <> 0 OR d.cancelled <> 0;
    IF moved IS NOT NULL THEN PERFORM count_batches(moved, succeeded, dead, cancelled); END IF;
    RETURN NULL;
END $$;

-- At the commit of whoever wrote the run, so that the run before it is locked for that moment only.
CREATE FUNCTION follow_run() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before record;
BEGIN
    SELECT state, followed INTO before FROM runs WHERE id = NEW.after_id FOR NO KEY UPDATE;
    IF NOT FOUND OR before.state = 'succeeded' THEN
        UPDATE runs SET due_at = clock_timestamp() WHERE id = NEW.id AND state = 'waiting' AND due_at = {NEVER};
    ELSIF NOT before.followed THEN
        UPDATE runs SET followed = true WHERE id = NEW.after_id;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION run_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cancel_runs_behind(ARRAY[OLD.id], 'is no longer kept');
    RETURN NULL;
END $$;

CREATE FUNCTION enqueue_callback(callback jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    IF callback IS NULL THEN RETURN NULL; END IF;
    INSERT INTO runs (job, queue, priority, key, args, max_attempts, due_at)
    SELECT c.job, c.queue, c.priority, c.key, c.args, c.max_attempts, clock_timestamp()
    FROM jsonb_to_record(callback)
        AS c (job text, queue text, priority smallint, key text, args jsonb, max_attempts smallint)
    RETURNING id INTO written;
    RETURN written;
END $$;

CREATE FUNCTION end_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.finished_at IS NULL AND NEW.total = NEW.succeeded + NEW.dead + NEW.cancelled THEN
        NEW.finished_at := clock_timestamp();
        NEW.finish_run_id := enqueue_callback(NEW.on_finish);
    END IF;
    IF NEW.succeeded_at IS NULL AND NEW.total = NEW.succeeded THEN
        NEW.succeeded_at := clock_timestamp();
        NEW.success_run_id := enqueue_callback(NEW.on_success);
    END IF;
    RETURN NEW;
END $$;
"""

TRIGGERS = f"""
CREATE TRIGGER runs_moved AFTER UPDATE ON runs
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION runs_moved();
CREATE CONSTRAINT TRIGGER runs_follow AFTER INSERT OR UPDATE OF state, due_at ON runs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.after_id IS NOT NULL AND NEW.state = 'waiting' AND NEW.due_at = {NEVER})
    EXECUTE FUNCTION follow_run();
CREATE TRIGGER runs_removed AFTER DELETE ON runs FOR EACH ROW WHEN (OLD.followed) EXECUTE FUNCTION run_removed();
CREATE TRIGGER batches_end BEFORE UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION end_batch();
"""

RELATIONS = ("batch_id", "after_id", "parent_id")


def upgrade() -> None:
    for name in RELATIONS:
        op.add_column("runs", sa.Column(name, sa.BigInteger(), nullable=True))
        where = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"runs_{name.removesuffix('_id')}", "runs", [name, "id"], postgresql_where=where)
    op.add_column("runs", sa.Column("followed", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        *(
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
            for name in ("succeeded", "dead", "cancelled")
        ),
        sa.Column("on_finish", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("on_success", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("finish_run_id", sa.BigInteger(), nullable=True),
        sa.Column("success_run_id", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("succeeded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("least(succeeded, dead, cancelled) >= 0", name=op.f("batches_not_negative_check")),
        sa.CheckConstraint("total >= succeeded + dead + cancelled", name=op.f("batches_total_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
        postgresql_with={"fillfactor": "50"},
    )
    op.execute(FUNCTIONS)
    op.execute(TRIGGERS)


def downgrade() -> None:
    for trigger in ("runs_moved", "runs_follow", "runs_removed"):
        op.execute(f"DROP TRIGGER {trigger} ON runs")
    op.drop_table("batches")
    for function in (
        "runs_moved()",
        "follow_run()",
        "run_removed()",
        "end_batch()",
        "enqueue_callback(jsonb)",
        "release_runs_behind(bigint[])",
        "cancel_runs_behind(bigint[], text)",
        "count_batches(bigint[], bigint[], bigint[], bigint[])",
    ):
        op.execute(f"DROP FUNCTION {function}")
    for name in RELATIONS:
        op.drop_index(f"runs_{name.removesuffix('_id')}", table_name="runs")
        op.drop_column("runs", name)
    op.drop_column("runs", "followed")
