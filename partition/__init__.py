"""The partition worker: one process per partition group and node that executes its callbacks."""
