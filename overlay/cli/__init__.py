"""The command line. Each command group has a module of its own; `app` assembles them and turns errors into exit codes.

Exit codes: 0 done; 1 unexpected error; 2 wrong usage, configuration or request; 3 the job failed (no provider, too
dear, provider gone); 4 money (unfunded, payment refused); 5 the chain could not be reached; 130 interrupted.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run `cocoon` with the arguments of this process and exit."""
    # What is imported stays to the end: the collector walking through it again and again was a sixth of every start.
    gc.disable()
    from overlay.cli.app import run

    gc.freeze()
    gc.enable()
    sys.exit(run(sys.argv[1:]))
