"""Memory in huge pages, for programs whose steps each ask for much of it.

A compiled step takes its memory from the C library and gives it back at its
end. In pages of 4 KiB the kernel then hands out half a million of them a step,
which is a fifth of a step of training on two cores (docs/performance.md). The
GNU C library asks for huge pages if its environment says so when a process
starts (`man mallopt`, glibc.malloc.hugetlb), so the process starts once more.
"""

import os
import pathlib
import platform
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
    cannot be asked for in this way, come unasked, or the environment decides.
    """
    given = os.environ.get(VARIABLE, '')
    if _TUNABLE in given or not _can_be_asked_for():
        return
    tunables = f'{given}:{_TUNABLE}=1' if given else f'{_TUNABLE}=1'
    environment = {**os.environ, VARIABLE: tunables, _MARK: given}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _can_be_asked_for() -> bool:
    if not sys.executable or not _MODE.exists():
        return False
    library, version = platform.libc_ver()
    if library != 'glibc':
        return False
    numbers = tuple(int(part) for part in version.split('.')[:2])
    return numbers >= _LEAST_VERSION and '[madvise]' in _MODE.read_text()


def environment_without() -> dict[str, str]:
    """The environment as it was before `use`."""
    environment = dict(os.environ)
    if _MARK in environment:
        before = environment.pop(_MARK)
        del environment[VARIABLE]
        if before:
            environment[VARIABLE] = before
    return environment
