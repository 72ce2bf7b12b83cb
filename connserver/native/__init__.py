"""Plugins in C++: the C ABI, its C++ wrapper, the host's source, and how both are compiled.

Guards the rule that nobody needs a compiler who has no plugin in C++: nothing here is compiled when
ConnServer is installed. The host, a small library between Python and plugins, is compiled once per machine
when it is first needed and kept in the user's cache folder; it needs a C compiler and no Python headers.
"""
