"""What docstrings say of arguments and attributes, so that it is said once."""

import inspect
import re


def entries(docstring: str | None, section: str) -> dict[str, str]:
    """Name to text, of a section such as `Args` or `Attributes`.

    Args:
        docstring: in the form of Google's style guide; None has no entries.
        section: its heading, without the colon.
    """
    text = inspect.cleandoc(docstring or '')
    _, _, body = text.partition(f'{section}:\n')
    body, _, _ = body.partition('\n\n')
    found: dict[str, str] = {}
    last: list[str] = []
    for line in body.splitlines():
        match = re.match(r' {4}(\w[\w, ]*): (.*)', line)
        if match:
            last = [name.strip() for name in match[1].split(',')]
            found |= dict.fromkeys(last, match[2].strip())
        else:
            for name in last:
                found[name] = f'{found[name]} {line.strip()}'.strip()
    return found


def first_line(docstring: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    text = inspect.cleandoc(docstring or '')
    return ' '.join(text.partition('\n\n')[0].split())
