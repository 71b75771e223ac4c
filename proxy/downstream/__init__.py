"""The client side of the proxy: `listener.py` sorts requests, `wire.py` speaks usual HTTP, `server.py` all of it."""
