"""The environment that eager PyTorch computes fast in on a CPU."""

import os
import sys

from flawsmith.common.child import COMPUTE_ENVIRONMENT


def restart_in_compute_environment(module: str) -> None:
    """Run `python -m module` again with `COMPUTE_ENVIRONMENT`, unless it is set: glibc reads it at the start only."""
    if any(os.environ.get(name) != value for name, value in COMPUTE_ENVIRONMENT.items()):
        os.execve(  # noqa: S606 - the same program again
            sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **COMPUTE_ENVIRONMENT}
        )
