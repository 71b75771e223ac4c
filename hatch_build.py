"""What goes into a wheel: the compiled modules as well, where they can be made (native.py).

A machine without a C compiler gets the sources alone, which do the same; pip says so with -v, and `status` afterwards.
An editable installation runs the checkout, which `make native` compiles in place.
"""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledModules(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles before a wheel is packed, and leaves the checkout as it was."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name what was made."""
        self._native: Any = None
        if self.target_name != "wheel" or version == "editable":
            return
        spec = importlib.util.spec_from_file_location("native", Path(self.root, "native.py"))
        assert spec is not None
        assert spec.loader is not None
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        if not native.is_current():
            self._native = native
            try:
                native.build()
            # mypyc exits; whatever it was, the sources do the same.
            except (Exception, SystemExit) as error:
                native.remove()
                self.app.display_warning(f"not compiled, a call takes up to 1.7 times the CPU: {error!r}")
                return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in native.compiled():
            build_data["force_include"][str(path)] = path.relative_to(self.root).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what was made for the wheel alone: it would hide what is changed later."""
        if self._native is not None:
            self._native.remove()
