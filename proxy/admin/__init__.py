"""The admin API: operations over HTTP, on a listener of its own.

`operations` says what there is, `guard` who may ask, `server` serves it, `events` the feed, `openapi` describes it all.
"""
