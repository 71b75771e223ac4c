"""Compile the modules that a call passes through, beside their sources: `python native.py`.

Owns which modules those are. The same source runs either way, and the tests hold for both; compiled, a call takes 0.6
to 0.8 of the CPU (decision 0018). A module is left as it is where its classes are read, or derived from, by those who
know nothing of compiled ones: `INTERPRETED` says which and why.

Needs a C compiler, Python's headers and mypy. What is made carries Python's version in its name, so another interpreter
reads the sources. This one prefers it to the source, so what is old has to go first: `STAMP` names the sources that it
was made of.
"""

import argparse
import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "native"
STAMP = BUILD / "sources"
NAME = "mcp_session_proxy"
"""Of the module that holds all that is compiled; each of the others is only a way into it."""

OPTIMIZE = "2"
"""The C compiler's -O. 1 takes three quarters of the time and gives nearly the same, 0 twice the time of a call."""
TOOLS = ("native.py", "constraints.txt", "pyproject.toml")

PACKAGES = ("core", "relay", "store", "upstream", "downstream")
MODULES = ("clock", "registry", "routes", "wheel")

_SCHEMAS = "msgspec reads the annotations of its classes, which a compiled class keeps only in part"
_AIOHTTP = "its classes derive from aiohttp's"
_RARE = "it is no part of a call"
INTERPRETED = {
    "proxy/core/identity.py": _SCHEMAS,
    "proxy/core/jsonrpc.py": _SCHEMAS,
    "proxy/core/retry.py": _SCHEMAS,
    "proxy/relay/tasks.py": _SCHEMAS,
    "proxy/upstream/http.py": _AIOHTTP,
    "proxy/downstream/server.py": _AIOHTTP,
    "proxy/downstream/leaving.py": "a class in server.py derives from its class",
    "proxy/downstream/wire.py": "its class derives from that of leaving.py",
    "proxy/downstream/sockets.py": _RARE,
    "proxy/upstream/prober.py": _RARE,
}


def sources() -> list[str]:
    """Return the modules to compile, as paths below the root."""
    found = [path for package in PACKAGES for path in sorted((ROOT / "proxy" / package).glob("[!_]*.py"))]
    found += [ROOT / "proxy" / f"{name}.py" for name in MODULES]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if name not in INTERPRETED]


def digest(names: Iterable[str] | None = None, optimize: str = OPTIMIZE) -> str:
    """Name what would be compiled of these files: other sources, another tool, interpreter or way.

    Without *names* it is of all there is: constants and types of what is left interpreted are compiled in as well.
    """
    whole = hashlib.sha256(f"{sys.version}\0{optimize}".encode())
    if names is None:
        names = [*TOOLS, *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "proxy").rglob("*.py"))]
    for name in names:
        whole.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    return whole.hexdigest()


def compiled() -> Iterator[Path]:
    """Yield every compiled module that stands among the sources."""
    yield from ROOT.glob(f"{NAME}__mypyc.*")
    yield from (path for pattern in ("*.so", "*.pyd") for path in (ROOT / "proxy").rglob(pattern))


def is_current() -> bool:
    """Tell whether what stands there was made of the present sources."""
    return STAMP.exists() and STAMP.read_text() == digest() and any(compiled())


def remove() -> None:
    """Take away what was compiled, so that the sources are what runs."""
    STAMP.unlink(missing_ok=True)
    for path in list(compiled()):
        path.unlink()


def build(optimize: str = OPTIMIZE) -> None:
    """Compile in place, on all processors."""
    from mypyc.build import mypycify  # noqa: PLC0415 - whoever only asks needs none of it
    from setuptools import Extension, setup  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    def changed_at(path: Path) -> float:
        return path.stat().st_mtime if path.exists() else 0.0

    class Build(build_ext):
        """Compiles the files of an extension side by side, and only those that changed."""

        def build_extension(self, ext: Extension) -> None:
            shared = max((changed_at(path) for path in BUILD.rglob("*.h")), default=0.0)

            def compile_one(source: str) -> str:
                (made,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
                if changed_at(Path(made)) <= max(changed_at(Path(source)), shared):
                    self.compiler.compile(
                        [source], self.build_temp, include_dirs=ext.include_dirs, extra_postargs=ext.extra_compile_args
                    )
                return made

            largest_first = sorted(ext.sources, key=lambda source: Path(source).stat().st_size, reverse=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                ext.extra_objects = list(pool.map(compile_one, largest_first))
            ext.sources = []
            super().build_extension(ext)

    made_of = digest(optimize=optimize)
    # A file of C may come out the same for another interpreter or another way to compile it; what is made of it is not.
    objects = BUILD / digest(TOOLS, optimize)[:12]
    remove()
    os.chdir(ROOT)
    BUILD.mkdir(parents=True, exist_ok=True)
    told = io.StringIO()
    try:
        # It remarks on every generator that it makes a list of; what counts is why it gave up.
        with contextlib.redirect_stdout(told):
            extensions = mypycify(
                ["--config-file", str(ROOT / "pyproject.toml"), *sources()],
                opt_level=optimize,
                debug_level="0",
                multi_file=True,
                target_dir=BUILD.relative_to(ROOT).as_posix(),
                group_name=NAME,
            )
    except SystemExit:
        print(told.getvalue(), file=sys.stderr)
        raise
    for extension in extensions:
        # A new compiler's new warning is no reason to run twice as slowly.
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
    places = ["--build-temp", str(objects), "--build-lib", str(BUILD / "lib")]
    setup(
        name=NAME,
        packages=[],
        ext_modules=extensions,
        cmdclass={"build_ext": Build},
        script_args=["--quiet", "--no-user-cfg", "build_ext", "--inplace", "--force", *places],
    )
    STAMP.write_text(made_of)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Compile the hot modules beside their sources.")
    parser.add_argument("--remove", action="store_true", help="take away what was compiled")
    parser.add_argument("--optimize", default=OPTIMIZE, choices="0123", help="the C compiler's -O")
    options = parser.parse_args()
    if options.remove:
        remove()
    elif not is_current():
        print("compiling what a call passes through; a minute, then only what changed", file=sys.stderr)
        build(options.optimize)


if __name__ == "__main__":
    main()
