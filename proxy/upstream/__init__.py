"""The server side of the proxy: `base.py` is the contract, `http.py` speaks it over aiohttp, `recovery.py` waits."""
