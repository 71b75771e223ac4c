"""What the outside sees: `hooks` says what happened, `metrics` counts it, `logs` writes it, `feed` keeps it.

Nothing is imported here: who only observes need not load the logging library.
"""
