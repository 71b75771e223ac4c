"""Random bytes for the edges: a second reader of HTTP, transports in memory, grammars, a coverage-guided fuzzer."""
