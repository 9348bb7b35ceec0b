"""How a binary runs: its flags are parsed, and a user's mistake is one sentence."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from invjax import huge_pages
from invjax.commandline.flags import Flags, Given

_USAGE_ERROR = 2
_INTERRUPTED = 130


def run(
    main: Callable[[Given], None],
    flags: Flags,
    argv: Sequence[str] | None = None,
    needs_huge_pages: Callable[[Given], bool] | None = None,
) -> None:
    """Run a binary; leaves by `sys.exit` where something went wrong.

    Args:
        main: takes the values of the flags.
        flags: of the binary.
        argv: the name of the program and its arguments; by default those that
            the process has.
        needs_huge_pages: whether the process starts once more (`huge_pages`).
    """
    try:
        given = flags.parse(sys.argv if argv is None else argv)
        if given.help:
            print(flags.help())
            return
        if needs_huge_pages is not None and needs_huge_pages(given):
            huge_pages.use()
        # A run of the binary may be stopped like one in a terminal.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        main(given)
    except (ValueError, OSError) as error:
        _fail(_one_line(error))
    except KeyboardInterrupt:
        print('interrupted; what was written before stays.', file=sys.stderr)
        # Threads of compilation cannot be interrupted, and would be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)


def _interrupt(signum, frame):
    del signum, frame
    raise KeyboardInterrupt


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}.'
    return ' '.join(str(error).split())


def _fail(sentence: str):
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(_USAGE_ERROR)
