"""What a message may repeat of a file: printable, and never much of it."""

from collections.abc import Iterable


def excerpt(text: str, length: int = 100) -> str:
    """The beginning of a text from a file, in printable ASCII.

    Args:
        text: what the file says.
        length: how many characters of it come back, at most.
    """
    shown = ascii(text[: length + 1])[1:-1]
    return shown if len(shown) <= length else f'{shown[: length - 3]}...'


def listing(names: Iterable[str], length: int = 90) -> str:
    """The first of a file's names, with commas between, likewise."""
    shown = ''
    for name in names:
        longer = f'{shown}, {excerpt(name)}' if shown else excerpt(name)
        if len(longer) > length - 5:
            return f'{shown}, ...' if shown else excerpt(longer, length)
        shown = longer
    return shown
