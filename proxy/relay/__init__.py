"""What runs a session: the client's requests and the upstream's answers meet here, as plain calls.

Nothing in this package awaits or owns a task: clients are reached through a `Sink`, upstreams through an `Edge`, time
through a `Clock`. A whole session can therefore be driven step by step in a test, with every interleaving.

    context.py     what all sessions of a process share
    session.py     one session: its requests, its binding, its readers
    call.py        one POST with requests, from arrival to its terminal entry
    note.py        one POST with notifications or responses
    opening.py     an `initialize`, which makes a session
    rebuild.py     the stored handshake again, for a new upstream session
    standalone.py  the upstream's side of the standalone stream
    probe.py       a ping inside the upstream session, to tell silence and refusal from loss
    feed.py        the only writer of a session's SSE bodies
    passthrough.py what has no session: modern requests, and legacy ones without an id
    replies.py     every answer the proxy makes up itself
"""
