"""What is known of a prior beside its weights: its card, and tuned defaults."""

import json
import math
import os
import pathlib
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from invjax import schedule

ANY = 'any'
# The number of steps for which a method's own defaults stand.
_OWN_STEPS = 100


class Coverage(NamedTuple):
    """How often intervals of a method's samples hold the truth, as measured.

    Attributes:
        method, task, num_steps: of which it was measured.
        num_images: over which it is a mean.
        nominal: how often they should, rising, from 0 to 1.
        observed: how often they do.
        standard_error: of the latter.
    """

    method: str
    task: str
    num_steps: str
    num_images: int
    nominal: tuple[float, ...]
    observed: tuple[float, ...]
    standard_error: tuple[float, ...]


class Card(Mapping):
    """The contents of a prior's `card.json`, and of the tables beside it.

    A mapping of plain data that does not change and can be hashed, so that a
    prior may carry it through `jax.jit`.

    Attributes:
        tuned: entries of `defaults.toml`, see `default_settings`.
        calibrated: entries of `calibration.toml`, see `coverage`.
        choices: entries of `choices.toml`, see `choice`.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        tuned: tuple = (),
        calibrated: tuple = (),
        choices: tuple = (),
    ):
        self._fields = dict(fields)
        self.tuned = tuple(tuned)
        self.calibrated = tuple(calibrated)
        self.choices = tuple(choices)
        self._text = json.dumps(self._fields, sort_keys=True)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> 'Card':
        """The card of a prior's folder; ValueError if it cannot be read."""
        folder = pathlib.Path(folder)
        try:
            fields = json.loads((folder / 'card.json').read_text())
            return cls(
                fields,
                read_entries(folder / 'defaults.toml'),
                read_entries(folder / 'calibration.toml'),
                read_entries(folder / 'choices.toml', 'choice'),
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f'{folder} has no card, defaults or calibration that can be '
                f'read: {error}'
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
        """The hyperparameters of `default_entry`; none where it has none."""
        return dict(
            self.default_entry(method, task, num_steps).get('settings', {})
        )

    def default_entry(
        self, method: str, task: str | None, num_steps: int | str = 100
    ) -> Mapping[str, Any]:
        """The entry of `defaults.toml` for a run; empty where nothing is there.

        It is that of the number of steps, among those that have one, that is
        nearest by ratio. The method's own settings stand for 100 steps where
        nothing is said of these. An entry for a task comes before one for any
        task.

        Args:
            method: a name.
            task: a name, or None for a measurement of no known task.
            num_steps: any form that `schedule.respace` takes.

        Raises:
            ValueError: by `schedule.respace`.
        """
        known: dict[int, Mapping] = {}
        for of_task in (ANY, task):
            for entry in self.tuned:
                if entry['method'] == method and of_task in entry['tasks']:
                    known[entry.get('num_steps', _OWN_STEPS)] = entry
        if not known:
            return {}
        known.setdefault(_OWN_STEPS, {})
        train_steps = self._fields.get('num_train_steps', 1000)
        number = len(schedule.respace(num_steps, train_steps))
        return known[min(known, key=lambda n: abs(math.log(n / number)))]

    def coverage(
        self,
        method: str,
        task: str | None,
        num_steps: int | str,
        noise_std: float,
        settings: Mapping[str, Any],
    ) -> Coverage | None:
        """What was measured of a method's calibration, or None.

        It says nothing of another task, noise or number of steps than it was
        measured with, nor of other settings.

        Args:
            method, task: names.
            num_steps: as it was given.
            noise_std: in [-1, 1] units.
            settings: all that the method has, name to value.
        """
        for entry in self.calibrated:
            asked = (method, task, str(num_steps).strip())
            there = (entry['method'], entry['task'], str(entry['num_steps']))
            own = entry.get('settings', {})
            if (
                asked == there
                and math.isclose(noise_std, entry['noise_std'], rel_tol=1e-3)
                and all(_same(settings.get(n), v) for n, v in own.items())
            ):
                return Coverage(
                    entry['method'],
                    entry['task'],
                    str(entry['num_steps']),
                    int(entry['num_images']),
                    *(
                        tuple(map(float, entry[name]))
                        for name in ('nominal', 'observed', 'standard_error')
                    ),
                )
        return None

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


def read_entries(
    path: pathlib.Path, key: str = 'entry'
) -> tuple[dict[str, Any], ...]:
    """The tables `[[key]]` of a file; none where there is no file."""
    text = path.read_text() if path.is_file() else ''
    return tuple(tomllib.loads(text).get(key, ()))


def _same(value: Any, other: Any) -> bool:
    """Whether two settings are one; numbers may have gone through float32."""
    if isinstance(other, str | bool) or value is None:
        return value == other
    return math.isclose(float(value), float(other), rel_tol=1e-5)
