"""mcp-session-proxy: a session-mapping reverse proxy for MCP.

Reading order is request order; a module may import what stands below it, never above:

    cli         arguments and exit codes
    app         the composition root: builds everything, owns lifetimes
    admin       the operator's side: operations over HTTP
    commands    the operator's command line, which asks the admin API
    downstream  the client side: an HTTP server, and who gets which request
    handover    a new process takes the place of this one
    control     what an operator can do: look, move, drain, swap, reload
    routes      which path and host lead to which sessions and which pool
    registry    the sessions alive in one route
    relay       what runs a session: calls, readers, bindings, moves
    upstream    the server side: connections, the pool of a route, health, probes
    store       the log of what was sent, with its bounds
    observe     what is told to logs and counters
    config      the settings
    clock       time, timers, entropy
    core        the protocol: codecs, state tables, decisions; no I/O, no time
    errors      the error tree
"""

__version__ = "0.1.0"
