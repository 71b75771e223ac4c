"""What runs a session: the client's requests and the upstream's answers meet here, as plain calls.

Nothing in this package awaits or owns a task: clients are reached through a `Sink`, upstreams through an `Edge`, time
through a `Clock`. A whole session can therefore be driven step by step in a test, with every interleaving.

    context.py      what all sessions of a route share
    session.py      one session: its parts, its time, its ends
    inbox.py        one POST of a session, handed to who deals with it
    call.py         one POST with requests, from arrival to its terminal entry
    attempt.py      the same at its upstream: room, sending, the answer's bytes
    repeating.py    whether a call that may have run is sent again
    inquiry.py      asking a server which of its tools may run twice
    remembering.py  what an answer says of the session that lasts
    tasks.py        tasks, which pin a session to the upstream session that runs them
    cutting.py      large responses, passed on in parts
    note.py         one POST with notifications or responses
    patience.py     a bounded wait for the upstream
    resumption.py   a call's broken upstream stream, asked for again
    readers.py      the clients that read: the standalone stream, resumes, gaps
    feed.py         the only writer of a session's SSE bodies
    leg.py          one binding at work: its member, its link, its ping
    binder.py       the present binding: who waits for it, what is done when it changes
    move.py         another binding in its place while it still serves
    rebuild.py      the stored handshake again, for a new upstream session
    standalone.py   the upstream's side of the standalone stream
    probe.py        a ping inside the upstream session, to tell silence and refusal from loss
    silence.py      whose server is asked for a sign of life
    opening.py      an `initialize`, which makes a session
    passthrough.py  what no session of the proxy carries, forwarded unchanged
    replies.py      every answer the proxy makes up itself
    farewell.py     a DELETE to the upstream
"""
