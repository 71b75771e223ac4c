"""The server side of the proxy: `base.py` is the contract, `wire.py` and `http.py` fulfil it, `recovery.py` waits."""
