"""The memory that a process has taken.

The standard library alone: both sides of a benchmark use it.
"""

import pathlib
import resource
import sys

_STATUS = pathlib.Path('/proc/self/status')


def peak_bytes() -> int:
    """The most that this process has held at once."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return 1024 * int(line.split()[1])
    # On Linux this would count what the parent held when it started us.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak
