"""The command line for whoever operates a running proxy: each command asks its admin API.

Nothing is imported here and nothing below loads a server: the line is read, asked and printed at once. `table` lists
the commands, `dispatch` finds the one that is meant, `client` asks, `layout` and `console` print.
"""

GROUPS = ("sessions", "upstreams", "jobs", "events", "config", "status", "reload", "upgrade")
"""The first words of commands; a command line without one of them serves."""
