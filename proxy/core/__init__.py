"""The sans-I/O heart: codecs, tables and machines that never wait, never log and never ask for the time.

Everything here takes its input as arguments (`now`, entropy, bytes) and returns values, so that all of it
is tested without a socket. May import `proxy.errors` and nothing else of the package.
"""
