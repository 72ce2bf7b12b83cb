"""The process tree of one host: what runs (plan), when (tree), and the shell that makes it so.

`cs-cluster up` is this package: a pure machine decides starts, restarts and the order of stopping;
a fork server, one process with everything imported, makes the children cheaply; a keeper runs
PostgreSQL. Whichever of them dies, and however, nothing is left running without a supervisor.
"""
