"""Plugins in C++ and other languages with a C ABI: from a library to a `Plugin` like any other.

Guards the rule that behind this package nobody knows in which language a plugin is written: what a library
declares goes through the same assembly, and its methods through the same transactions.
"""

from partition.native.load import load_library

__all__ = ["load_library"]
