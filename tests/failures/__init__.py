"""Failures of real processes: load over raw sockets, faults, and a judge that reads only the bytes.

`wire` and `transcript` are what was said; `workloads` and `load` say it; `nodes`, `network` and `database`
are a cluster of three nodes that can be broken; `faults` and its sisters break it; `reading` and `judge`
decide from the transcript alone; `trial` puts one of each together and `pauses` measures. Nothing here
uses the Python client of the product, so that its mistakes and ours cannot agree.
"""
