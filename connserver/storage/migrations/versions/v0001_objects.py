"""Version 1: the cluster's identity, the groups' fences and watermarks, the objects' images."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

CLUSTER = """
CREATE TABLE cluster (
    name text NOT NULL,
    format integer NOT NULL,
    partition_groups integer NOT NULL CHECK (partition_groups BETWEEN 1 AND 65536),
    created_at timestamptz NOT NULL DEFAULT now(),
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
)
"""

PARTITION_GROUPS = """
CREATE TABLE partition_groups (
    group_id integer PRIMARY KEY,
    era bigint NOT NULL,
    view bigint NOT NULL,
    archived_op bigint NOT NULL,
    first_partition integer NOT NULL,
    last_partition integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (0 <= first_partition AND first_partition <= last_partition AND last_partition <= 65535)
) WITH (fillfactor = 50)
"""

# Rows are replaced over and over: room on each page keeps an update within it, off the index.
OBJECTS = """
CREATE TABLE objects (
    oid bigint PRIMARY KEY,
    kind text NOT NULL,
    schema integer NOT NULL,
    data bytea NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
"""

COMMENTS = (
    "COMMENT ON COLUMN objects.oid IS 'the unsigned 64-bit id as a signed number: "
    "partitions from 32768 up are negative'",
    "COMMENT ON COLUMN partition_groups.archived_op IS 'objects holds the group as it was after this "
    "operation of its replicated log'",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in (CLUSTER, PARTITION_GROUPS, OBJECTS, *COMMENTS):
        op.execute(statement)
