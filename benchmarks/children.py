"""Running commands of wsdino from a benchmark, in processes that end with it."""

from __future__ import annotations

import subprocess
import sys

_COMMAND = (
    "from wsdino.stopping import end_with_parent; end_with_parent(); "
    "from wsdino.cli.main import main; main()"
)


def wsdino(*arguments: object, quiet: bool = False) -> None:
    """Run a command and wait for it; it ends too when this process is killed, however that is.

    Raises
    ------
    subprocess.CalledProcessError
        The command failed.
    """
    command = [sys.executable, "-c", _COMMAND, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=quiet)
