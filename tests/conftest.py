"""What holds for all tests: they see signals as a program at a terminal does."""

from __future__ import annotations

import signal

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: then ^C
# could not be shown to end anything.
signal.signal(signal.SIGINT, signal.default_int_handler)
