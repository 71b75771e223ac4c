"""The client side of the proxy: `listener.py` sorts requests, `server.py` speaks HTTP through aiohttp."""
