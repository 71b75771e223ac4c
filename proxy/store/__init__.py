"""Where logs and sessions are kept: `base.py` is the contract, the other modules fulfil it."""
