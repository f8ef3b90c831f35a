"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_pkey")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("duplicates", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("verdict IN ('accepted', 'ignored', 'malformed')", name=op.f("events_verdict_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
        sa.UniqueConstraint("source", "external_id", name=op.f("events_source_external_id_key")),
    )
    op.create_index("events_received", "events", ["received_at"], unique=False)
    op.create_table(
        "generations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("index", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("mapping_hash", sa.Text(), nullable=False),
        sa.Column("scanned_to", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("documents", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('building', 'live', 'previous', 'failed', 'dropped')", name=op.f("generations_state_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("generations_pkey")),
        sa.UniqueConstraint("index", name=op.f("generations_index_key")),
    )
    op.create_index(
        "generations_one_live",
        "generations",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state IN ('live', 'building')"),
    )
    op.create_table(
        "locations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("locations_pkey")),
        sa.UniqueConstraint("source_id", name=op.f("locations_source_id_key")),
    )
    op.create_table(
        "payments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("amount_received", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.CHAR(length=3), nullable=False),
        sa.Column("observation", sa.BigInteger(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("payments_pkey")),
        sa.UniqueConstraint("source_id", name=op.f("payments_source_id_key")),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.TEXT()), server_default="{}", nullable=False),
        sa.Column("threads", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("processes_pkey")),
    )
    op.create_table(
        "products",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("price", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.CHAR(length=3), nullable=True),
        sa.Column("source_version", sa.BigInteger(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("misses", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(price IS NULL) = (currency IS NULL)", name=op.f("products_price_has_currency_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("products_pkey")),
        sa.UniqueConstraint("source_id", name=op.f("products_source_id_key")),
    )
    op.create_index(
        "products_sku_key", "products", ["sku"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("queues_pkey")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("args", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("deaths", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pushes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("process_id", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("unique_key", sa.Text(), nullable=True),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.Column("slot_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'running', 'succeeded', 'dead', 'cancelled')", name=op.f("runs_state_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("runs_pkey")),
        postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
    )
    op.create_index("runs_dead", "runs", ["id"], unique=False, postgresql_where=sa.text("state = 'dead'"))
    op.create_index(
        "runs_due", "runs", ["queue", "due_at", "id"], unique=False, postgresql_where=sa.text("state = 'waiting'")
    )
    op.create_index("runs_job", "runs", ["job", "id"], unique=False)
    op.create_index(
        "runs_schedule",
        "runs",
        ["schedule"],
        unique=False,
        postgresql_where=sa.text("schedule IS NOT NULL AND state IN ('waiting', 'queued', 'running')"),
    )
    op.create_index("runs_queued", "runs", ["queued_at"], unique=False, postgresql_where=sa.text("state = 'queued'"))
    op.create_index("runs_running", "runs", ["process_id"], unique=False, postgresql_where=sa.text("state = 'running'"))
    op.create_index(
        "runs_unique_key", "runs", ["unique_key"], unique=True, postgresql_where=sa.text("unique_key IS NOT NULL")
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("next_fire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("schedules_pkey")),
    )
    op.create_index(
        "schedules_due",
        "schedules",
        ["next_fire_at"],
        unique=False,
        postgresql_where=sa.text("retired_at IS NULL AND paused_at IS NULL"),
    )
    op.create_table(
        "search_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("search_changes_pkey")),
    )
    op.create_index("search_changes_due", "search_changes", ["due_at"], unique=False)
    op.create_table(
        "streams",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("high_water", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("walk_full", sa.Boolean(), nullable=True),
        sa.Column("walk_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("walk_cursor", sa.Text(), nullable=True),
        sa.Column("walk_started", sa.DateTime(timezone=True), nullable=True),
        sa.Column("walk_max_seen", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "counts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("etag_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("walked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("full_walked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_deletions", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("streams_pkey")),
        sa.UniqueConstraint("upstream", "name", name=op.f("streams_upstream_name_key")),
    )
    op.create_table(
        "upstreams",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("upstreams_pkey")),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("process_id", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'snoozed', 'cancelled', 'timed_out', 'shutdown', 'lost')",
            name=op.f("attempts_outcome_check"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("attempts_run_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("attempts_pkey")),
        sa.UniqueConstraint("run_id", "number", name=op.f("attempts_run_id_number_key")),
    )
    op.create_index("attempts_finished_at", "attempts", ["finished_at"], unique=False)
    op.create_table(
        "log_lines",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("log_lines_run_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("log_lines_pkey")),
    )
    op.create_index("log_lines_run", "log_lines", ["run_id", "id"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("quarantine_stream_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("quarantine_pkey")),
        sa.UniqueConstraint("stream_id", "fingerprint", name=op.f("quarantine_stream_id_fingerprint_key")),
    )
    op.create_index(
        "quarantine_open", "quarantine", ["stream_id"], unique=False, postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_table(
        "search_rejects",
        sa.Column("generation_id", sa.BigInteger(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name=op.f("search_rejects_generation_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("generation_id", "product_id", name=op.f("search_rejects_pkey")),
    )
    op.create_table(
        "sightings",
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("sightings_stream_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("stream_id", "source_id", name=op.f("sightings_pkey")),
    )
    op.create_table(
        "slots",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("fire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('ran', 'coalesced', 'skipped_paused', 'fired_by_hand')",
            name=op.f("slots_outcome_check"),
        ),
        sa.ForeignKeyConstraint(["schedule"], ["schedules.name"], name=op.f("slots_schedule_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("slots_pkey")),
        sa.UniqueConstraint("schedule", "fire_at", name=op.f("slots_schedule_fire_at_key")),
    )
    op.create_table(
        "stock_levels",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("location_id", sa.BigInteger(), nullable=False),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("source_reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("incoming", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "available",
            sa.BigInteger(),
            sa.Computed("on_hand - reserved - source_reserved", persisted=True),
            nullable=False,
        ),
        sa.Column("oversold", sa.Boolean(), sa.Computed("on_hand < 0", persisted=True), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("source_version", sa.BigInteger(), nullable=False),
        sa.Column("source_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("misses", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("reserved >= 0", name=op.f("stock_levels_reserved_not_negative_check")),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("stock_levels_location_id_fkey")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("stock_levels_product_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("stock_levels_pkey")),
        sa.UniqueConstraint("product_id", "location_id", name=op.f("stock_levels_product_id_location_id_key")),
        sa.UniqueConstraint("source_id", name=op.f("stock_levels_source_id_key")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index(op.f("stock_levels_location_id_idx"), "stock_levels", ["location_id"], unique=False)
    op.create_table(
        "stream_moves",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("moved_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("moved_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("stream_moves_stream_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("stream_moves_pkey")),
    )
    op.create_index(op.f("stream_moves_stream_id_idx"), "stream_moves", ["stream_id"], unique=False)
    op.create_table(
        "stock_movements",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("level_id", sa.BigInteger(), nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("quantity_after", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("source_ref", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("delta <> 0", name=op.f("stock_movements_moves_something_check")),
        sa.ForeignKeyConstraint(["level_id"], ["stock_levels.id"], name=op.f("stock_movements_level_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("stock_movements_pkey")),
        sa.UniqueConstraint("level_id", "source_ref", name=op.f("stock_movements_level_id_source_ref_key")),
    )


def downgrade() -> None:
    op.drop_table("stock_movements")
    op.drop_index(op.f("stream_moves_stream_id_idx"), table_name="stream_moves")
    op.drop_table("stream_moves")
    op.drop_index(op.f("stock_levels_location_id_idx"), table_name="stock_levels")
    op.drop_table("stock_levels")
    op.drop_table("slots")
    op.drop_table("sightings")
    op.drop_table("search_rejects")
    op.drop_index("quarantine_open", table_name="quarantine", postgresql_where=sa.text("resolved_at IS NULL"))
    op.drop_table("quarantine")
    op.drop_index("log_lines_run", table_name="log_lines")
    op.drop_table("log_lines")
    op.drop_index("attempts_finished_at", table_name="attempts")
    op.drop_table("attempts")
    op.drop_table("upstreams")
    op.drop_table("streams")
    op.drop_index("search_changes_due", table_name="search_changes")
    op.drop_table("search_changes")
    op.drop_index(
        "schedules_due", table_name="schedules", postgresql_where=sa.text("retired_at IS NULL AND paused_at IS NULL")
    )
    op.drop_table("schedules")
    op.drop_index("runs_unique_key", table_name="runs", postgresql_where=sa.text("unique_key IS NOT NULL"))
    op.drop_index("runs_running", table_name="runs", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("runs_queued", table_name="runs", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index(
        "runs_schedule",
        table_name="runs",
        postgresql_where=sa.text("schedule IS NOT NULL AND state IN ('waiting', 'queued', 'running')"),
    )
    op.drop_index("runs_job", table_name="runs")
    op.drop_index("runs_due", table_name="runs", postgresql_where=sa.text("state = 'waiting'"))
    op.drop_index("runs_dead", table_name="runs", postgresql_where=sa.text("state = 'dead'"))
    op.drop_table("runs")
    op.drop_table("queues")
    op.drop_index("products_sku_key", table_name="products", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("products")
    op.drop_table("processes")
    op.drop_table("payments")
    op.drop_table("locations")
    op.drop_index(
        "generations_one_live", table_name="generations", postgresql_where=sa.text("state IN ('live', 'building')")
    )
    op.drop_table("generations")
    op.drop_index("events_received", table_name="events")
    op.drop_table("events")
    op.drop_table("audit")
