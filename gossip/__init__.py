"""The gossip process: membership, routing and the replicated logs of one node."""
