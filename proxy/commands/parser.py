"""Own how a wrong argument is told: in one line, as any other configuration error, and without the usage.

Imported by who serves too: loads nothing but argparse.
"""

import argparse
from typing import NoReturn

from proxy.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises what `argparse` would end the process with."""

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message} (see --help)")
