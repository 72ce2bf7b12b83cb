"""A gossip process started by itself, where the supervisor cannot fork: `python -P -m gossip …`."""

from connserver.process import run_spawned
from gossip.daemon import main

if __name__ == "__main__":
    run_spawned(main)
