"""Memory in huge pages, for programs whose steps each ask for much of it.

A compiled step takes its memory from the C library and gives it back at its
end. In pages of 4 KiB the kernel then hands out half a million of them a step,
which is a quarter of a step of training on two cores (docs/performance.md). The
GNU C library asks for huge pages if its environment says so when a process
starts (its manual, 'Memory Allocation Tunables'), so the process starts once
more.
"""

import contextlib
import os
import pathlib
import platform
import re
import sys

VARIABLE = 'GLIBC_TUNABLES'
# Set where `use` has set the other, which other programs are then not given.
_MARK = 'INVJAX_HUGE_PAGES'
_TUNABLE = 'glibc.malloc.hugetlb'
_MODE = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
_LEAST_VERSION = (2, 35)


def use() -> None:
    """Start this process again, with huge pages, as the same command.

    To be called before there is anything to lose. Nothing happens where they
    cannot be asked for in this way or come unasked; where the environment has
    the tunable, as `GLIBC_TUNABLES=glibc.malloc.hugetlb=0`; in IPython and in a
    debugger; and for a program that came by standard input.
    """
    given = os.environ.get(VARIABLE, '')
    # With the mark it has started once more, whatever became of the rest.
    if _TUNABLE in given or _MARK in os.environ or not _can_be_asked_for():
        return
    arguments = sys.orig_argv[1:]
    is_within = 'IPython' in sys.modules or sys.gettrace() is not None
    if is_within or not arguments or arguments[0] == '-':
        return
    tunables = f'{given}:{_TUNABLE}=1' if given else f'{_TUNABLE}=1'
    environment = {**os.environ, VARIABLE: tunables, _MARK: given}
    sys.stdout.flush()
    sys.stderr.flush()
    # Without them it is slower, and no worse.
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *arguments], environment)


def _can_be_asked_for() -> bool:
    try:
        mode = _MODE.read_text()
    except OSError:
        return False
    library, version = platform.libc_ver()
    numbers = re.match(r'(\d+)\.(\d+)', version)
    if library != 'glibc' or numbers is None or not sys.executable:
        return False
    is_known = tuple(map(int, numbers.groups())) >= _LEAST_VERSION
    return is_known and '[madvise]' in mode


def environment_without() -> dict[str, str]:
    """The environment as it was before `use`."""
    environment = dict(os.environ)
    if _MARK in environment:
        before = environment.pop(_MARK)
        environment.pop(VARIABLE, None)
        if before:
            environment[VARIABLE] = before
    return environment
