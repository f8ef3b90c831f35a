"""Marks for the search index, and a ledger that only grows.

The marks are set by statement-level triggers over transition tables: one insert per statement however many rows it
touched, in the writer's own transaction. Updates that change nothing a document shows leave no mark. Transition tables
carry no statistics, so the planner would pair old and new rows one by one: it is told not to.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The read ordinal starts at the clock: after a restore of an older database new ordinals are above all the index holds.
SEQUENCES = """
CREATE SEQUENCE observations;
CREATE SEQUENCE search_versions;
SELECT setval('search_versions', (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
"""

FUNCTIONS = """
CREATE FUNCTION mark_inserted_products() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO search_changes (product_id) SELECT id FROM new_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION mark_updated_products() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO search_changes (product_id)
    SELECT n.id FROM new_rows n JOIN old_rows o USING (id)
    WHERE (n.sku, n.name, n.brand, n.category, n.price, n.currency, n.deleted_at)
        IS DISTINCT FROM (o.sku, o.name, o.brand, o.category, o.price, o.currency, o.deleted_at);
    RETURN NULL;
END $$;

CREATE FUNCTION mark_inserted_levels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO search_changes (product_id) SELECT DISTINCT product_id FROM new_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION mark_updated_levels() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO search_changes (product_id)
    SELECT DISTINCT n.product_id FROM new_rows n JOIN old_rows o USING (id)
    WHERE (n.on_hand, n.reserved, n.source_reserved, n.deleted_at)
        IS DISTINCT FROM (o.on_hand, o.reserved, o.source_reserved, o.deleted_at);
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% only grows: correct it with a new row', TG_TABLE_NAME;
END $$;
"""

TRIGGERS = """
CREATE TRIGGER products_inserted AFTER INSERT ON products
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mark_inserted_products();
CREATE TRIGGER products_updated AFTER UPDATE ON products
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mark_updated_products();
CREATE TRIGGER stock_levels_inserted AFTER INSERT ON stock_levels
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mark_inserted_levels();
CREATE TRIGGER stock_levels_updated AFTER UPDATE ON stock_levels
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mark_updated_levels();
CREATE TRIGGER stock_movements_grow BEFORE UPDATE OR DELETE ON stock_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_grows BEFORE UPDATE OR DELETE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(SEQUENCES)
    op.execute(FUNCTIONS)
    op.execute(TRIGGERS)


def downgrade() -> None:
    for table, trigger in (
        ("products", "products_inserted"),
        ("products", "products_updated"),
        ("stock_levels", "stock_levels_inserted"),
        ("stock_levels", "stock_levels_updated"),
        ("stock_movements", "stock_movements_grow"),
        ("audit", "audit_grows"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for function in (
        "mark_inserted_products",
        "mark_updated_products",
        "mark_inserted_levels",
        "mark_updated_levels",
        "refuse_change",
    ):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DROP SEQUENCE search_versions; DROP SEQUENCE observations")
