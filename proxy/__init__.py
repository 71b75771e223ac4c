"""mcp-session-proxy: a session-mapping reverse proxy for MCP.

Reading order is request order; a module may import what stands below it, never above:

    cli         arguments and exit codes
    app         the composition root: builds everything, owns lifetimes
    downstream  the client side: an HTTP server, and who gets which request
    registry    the sessions alive in this process
    relay       what runs a session: calls, readers, binding
    upstream    the server side: one HTTP client, waiting for a server to come back
    store       the log of what was sent, with its bounds
    observe     what is told to logs and counters
    config      the settings
    clock       time, timers, entropy
    core        the protocol: codecs, state tables, decisions; no I/O, no time
    errors      the error tree
"""

__version__ = "0.1.0"
