"""The flags of a binary, by absl, in an object of its own.

    FLAGS = Flags(__doc__)
    FLAGS.integer('num_samples', 1, 'How many to draw.', at_least=1)

    def main(given):
        print(given.num_samples)

Each binary has its own object, so that several can be imported into one program,
and `--help` shows its own flags alone.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

GENERAL = 'general'


class _Bounds(NamedTuple):
    """What a number must be; `above` leaves the bound itself out."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    def words(self) -> str:
        parts = []
        if self.at_least is not None:
            parts.append(f'at least {self.at_least:g}')
        if self.above is not None:
            parts.append(f'above {self.above:g}')
        if self.at_most is not None:
            parts.append(f'at most {self.at_most:.10g}')
        return ' and '.join(parts) or 'finite'

    def contains(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )


class Given:
    """The values of a binary's flags: attributes that do not change.

    Attributes:
        groups: name of a group to what stands on the command line of it, name
            to value; see `Flags.group`.
        on_command_line: names of the flags that stand there.
    """

    groups: Mapping[str, Mapping[str, Any]]
    on_command_line: Sequence[str]

    def __init__(self, values: Mapping[str, Any], groups, on_command_line=()):
        self.__dict__.update(
            values,
            groups=groups,
            on_command_line=tuple(on_command_line),
            _values=dict(values),
        )

    def __setattr__(self, name, value):
        raise AttributeError(f'flags do not change, got {name} = {value!r}.')

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f'there is no flag --{name}.')

    def as_dict(self) -> dict[str, Any]:
        """Every flag, name to value, as plain data for a record."""
        return dict(self.__dict__['_values'])


class Flags:
    """Flags that a binary defines, in sections.

    Args:
        description: of the binary; its docstring.
    """

    def __init__(self, description: str | None):
        self.description = (description or '').strip()
        self._values = flags.FlagValues()
        # Title of a section to names of flags and what is said of them there.
        self._sections: dict[str, dict[str, str]] = {}
        self._groups: dict[str, list[str]] = {}
        self._bounds: dict[str, _Bounds] = {}
        self.boolean('help', False, 'Show this help.')

    def string(self, name: str, default: str | None, words: str, **kwargs):
        """A text."""
        flags.DEFINE_string(name, default, words, flag_values=self._values)
        self._note(name, **kwargs)

    def strings(self, name: str, default: Sequence[str], words: str, **kwargs):
        """Texts, parted by commas."""
        flags.DEFINE_list(name, list(default), words, flag_values=self._values)
        self._note(name, **kwargs)

    def repeated(self, name: str, words: str, **kwargs):
        """A text that may be given several times."""
        flags.DEFINE_multi_string(name, [], words, flag_values=self._values)
        self._note(name, **kwargs)

    def choice(
        self,
        name: str,
        default: str | None,
        names: Sequence[str],
        words: str,
        **kwargs,
    ):
        """One of some names."""
        flags.DEFINE_enum(
            name, default, list(names), words, flag_values=self._values
        )
        self._note(name, **kwargs)

    def boolean(self, name: str, default: bool | None, words: str, **kwargs):
        """True or false: --name, --noname."""
        flags.DEFINE_bool(name, default, words, flag_values=self._values)
        self._note(name, **kwargs)

    def integer(
        self,
        name: str,
        default: int | None,
        words: str,
        at_least: int | None = None,
        at_most: int | None = 2**31 - 1,
        **kwargs,
    ):
        """A whole number."""
        flags.DEFINE_integer(name, default, words, flag_values=self._values)
        self._note(name, _Bounds(at_least, None, at_most), **kwargs)

    def number(
        self,
        name: str,
        default: float | None,
        words: str,
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
        bounded: bool = True,
        **kwargs,
    ):
        """A real number, finite; unless others check it (`bounded=False`)."""
        flags.DEFINE_float(name, default, words, flag_values=self._values)
        bounds = _Bounds(at_least, above, at_most) if bounded else None
        self._note(name, bounds, **kwargs)

    def _note(
        self,
        name: str,
        bounds: _Bounds | None = None,
        section: str | None = GENERAL,
        group: str | None = None,
    ):
        if section is not None:
            self.describe(name, section, self._words(name, bounds))
        if group is not None:
            self._groups.setdefault(group, []).append(name)
        if bounds is not None:
            self._bounds[name] = bounds

    def describe(self, name: str, section: str, words: str) -> None:
        """Say in a section of the help what a flag means there."""
        self._sections.setdefault(section, {})[name] = words

    def _words(self, name: str, bounds: _Bounds | None) -> str:
        """What is said of a flag where nothing else is."""
        flag = self._values[name]
        words = flag.help or ''
        if bounds is not None:
            words += f' ({bounds.words()})'
        if flag.default is not None and name != 'help':
            shown = flag.default_as_str or repr(flag.default)
            words += ' [' + shown.strip("'") + ']'
        return words

    def parse(self, argv: Sequence[str]) -> Given:
        """The values that a command line gives.

        Args:
            argv: the name of the program, and its arguments.

        Raises:
            ValueError: one sentence on what is wrong with an argument.
        """
        # What an earlier call has left.
        self._values.unparse_flags()
        try:
            rest = self._values(list(argv))
        except flags.Error as error:
            raise ValueError(_sentence(str(error))) from None
        if len(rest) > 1:
            raise ValueError(f'arguments must be flags, got {rest[1]!r}.')
        values = {n: self._values[n].value for n in self._values}
        for name, bounds in self._bounds.items():
            value = values[name]
            if value is not None and not bounds.contains(value):
                raise ValueError(
                    f'--{name} must be {bounds.words()}, got {value:g}.'
                )
        groups = {
            group: {n: values[n] for n in names if values[n] is not None}
            for group, names in self._groups.items()
        }
        present = [n for n in self._values if self._values[n].present]
        return Given(values, groups, present)

    def help(self) -> str:
        """What `--help` prints: the description, then the flags by section."""
        lines = [self.description, '']
        for title, described in self._sections.items():
            lines += [f'{title}:']
            for name, words in described.items():
                is_switch = isinstance(self._values[name], flags.BooleanFlag)
                shown = '--[no]' if is_switch else '--'
                lines += textwrap.wrap(
                    f'  {shown}{name}: {words}', 78, subsequent_indent=' ' * 8
                )
            lines.append('')
        return '\n'.join(lines)


def _sentence(words: str) -> str:
    """What absl says of a mistake, without Python's words for a number."""
    words = words.replace('\n', ' ')
    for python, kind in (
        ('invalid literal for int', 'a whole number'),
        ('could not convert string to float', 'a number'),
    ):
        found = re.fullmatch(rf'flag (--\w+)=(.*): {python}.*', words)
        if found:
            return f'{found[1]} must be {kind}, got {found[2]!r}.'
    return words
