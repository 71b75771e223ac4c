"""The coverage-guided fuzzer: `python tests/fuzz/fuzz_edges.py TARGET [CORPUS...] [-libFuzzer options]`.

Targets: downstream, upstream, sse, jsonrpc. New inputs are written to the first corpus directory, none by default but
the committed seeds are always read. A crash is an input that broke a law (`laws.py`, `harness.py`); play it again by
naming its file instead of a directory.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

with atheris.instrument_imports(include=["proxy.core", "proxy.downstream", "proxy.upstream"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz one target."""
    if sys.argv[1:2] == [] or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}")
    name, *options = sys.argv[1:]
    if not any(Path(option).is_file() for option in options):
        options.append(str(HERE / "corpus" / name))
    atheris.Setup([sys.argv[0], *options], TARGETS[name](ExitStack()))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
