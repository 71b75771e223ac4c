"""What runs a session: the client's requests and the upstream's answers meet here, as plain calls.

Nothing in this package awaits or owns a task: clients are reached through a `Sink`, upstreams through an `Edge`, time
through a `Clock`. A whole session can therefore be driven step by step in a test, with every interleaving.

    context.py      what all sessions of a process share
    session.py      one session: its parts, its time, its ends
    inbox.py        one POST of a session, handed to who deals with it
    call.py         one POST with requests, from arrival to its terminal entry
    note.py         one POST with notifications or responses
    patience.py     a bounded wait for the upstream
    resumption.py   a call's broken upstream stream, asked for again
    readers.py      the clients that read: the standalone stream, resumes, gaps
    feed.py         the only writer of a session's SSE bodies
    binder.py       the binding: who waits for it, what is done when it changes
    rebuild.py      the stored handshake again, for a new upstream session
    standalone.py   the upstream's side of the standalone stream
    probe.py        a ping inside the upstream session, to tell silence and refusal from loss
    opening.py      an `initialize`, which makes a session
    passthrough.py  what no session of the proxy carries, forwarded unchanged
    replies.py      every answer the proxy makes up itself
    farewell.py     a DELETE to the upstream
    wheel.py        many things to look at once in a period, on one timer
"""
