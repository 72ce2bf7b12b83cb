"""The gateway: client sockets on one side, the primaries of all partition groups on the other."""
