"""The persistent store: the embedded PostgreSQL, its lock, the schema and bounded connections."""
