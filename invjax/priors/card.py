"""What is known of a prior beside its weights: its card, and tuned defaults."""

import json
import math
import os
import pathlib
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from invjax import schedule

ANY = 'any'
# The number of steps for which a method's own defaults stand.
_OWN_STEPS = 100


class Card(Mapping):
    """The contents of `card.json` of a prior, and of the two tables beside it.

    A mapping of plain data that does not change and can be hashed, so that a
    prior may carry it through `jax.jit`.

    Attributes:
        tuned: entries of `defaults.toml`, see `default_settings`.
        choices: entries of `choices.toml`, see `choice`.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        tuned: tuple = (),
        choices: tuple = (),
    ):
        self._fields = dict(fields)
        self.tuned = tuple(tuned)
        self.choices = tuple(choices)
        self._text = json.dumps(self._fields, sort_keys=True)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> 'Card':
        """The card of a prior's folder; ValueError if it cannot be read."""
        folder = pathlib.Path(folder)
        try:
            fields = json.loads((folder / 'card.json').read_text())
            tables = []
            for name, key in (('defaults', 'entry'), ('choices', 'choice')):
                path = folder / f'{name}.toml'
                text = path.read_text() if path.is_file() else ''
                tables.append(tuple(tomllib.loads(text).get(key, ())))
            return cls(fields, *tables)
        except (OSError, ValueError) as error:
            raise ValueError(
                f'{folder} has no card or defaults that can be read: {error}'
            ) from None

    @property
    def name(self) -> str:
        """What the prior is called."""
        return self._fields.get('name', 'prior')

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dict(self._fields)

    def default_settings(
        self, method: str, task: str | None, num_steps: int | str = 100
    ) -> dict[str, Any]:
        """The tuned hyperparameters, by name; none where nothing was tuned.

        They are those of the number of steps, among the tuned ones, that is
        nearest by ratio. The method's own stand for 100 steps where nothing was
        tuned there. An entry for a task comes before one for any task.

        Args:
            method: a name.
            task: a name, or None for a measurement of no known task.
            num_steps: any form that `schedule.respace` takes.

        Raises:
            ValueError: by `schedule.respace`.
        """
        tuned: dict[int, dict] = {}
        for of_task in (ANY, task):
            for entry in self.tuned:
                if entry['method'] == method and of_task in entry['tasks']:
                    steps = entry.get('num_steps', _OWN_STEPS)
                    tuned[steps] = entry.get('settings', {})
        if not tuned:
            return {}
        tuned.setdefault(_OWN_STEPS, {})
        train_steps = self._fields.get('num_train_steps', 1000)
        number = len(schedule.respace(num_steps, train_steps))
        nearest = min(tuned, key=lambda n: abs(math.log(n / number)))
        return dict(tuned[nearest])

    def choice(self, task: str | None, aim: str) -> Mapping[str, Any] | None:
        """The entry of `choices.toml` for a task and an aim, if there is one."""
        for entry in self.choices:
            if (entry['task'], entry['aim']) == (task, aim):
                return entry
        return None

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other) -> bool:
        return isinstance(other, Card) and self._text == other._text

    def __repr__(self) -> str:
        return f'Card({self.name})'
