"""What cells say together: means over images, with standard errors."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from invjax import metrics
from invjax.methods import METHODS


class Setting(NamedTuple):
    """A method with its settings, or with those that count.

    Attributes:
        method: its name.
        values: (name, value) pairs.
    """

    method: str
    values: tuple[tuple[str, Any], ...] = ()

    def words(self) -> str:
        """The values, such as `zeta 3, normalise gradient`."""
        return ', '.join(
            f'{name} {value}'
            if isinstance(value, str | bool)
            else f'{name} {value:g}'
            for name, value in self.values
        )

    def line(self) -> str:
        """The method and the values, such as `dps zeta 3`."""
        return f'{self.method} {self.words()}'.strip()


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        setting: that its cells share.
        scores: name to the estimate over images.
    """

    setting: Setting
    scores: dict[str, metrics.Estimate]


def choose_samples(
    cells: Sequence[dict], most: float, costs: Sequence[str] = ()
) -> list[dict]:
    """Of each image the sample with the least residual, as one has no truth.

    Args:
        cells: from `cells.read`, with chi_square among their scores.
        most: the largest chi-square of a sample that explains the measurement.
        costs: scores that add up over the samples of an image.

    Returns:
        A cell an image. Its scores have `success` too: the fraction of the image's
        samples that explain the measurement. A cost that a sample lacks is NaN.
    """
    by_image: dict[Any, list[dict]] = {}
    for cell in cells:
        by_image.setdefault(cell['protocol']['image'], []).append(cell)
    chosen = []
    for samples in by_image.values():
        residuals = np.array(
            [_number(c['scores'].get('chi_square')) for c in samples]
        )
        # A sample that is not finite explains nothing, and is taken last.
        best = samples[
            np.argmin(np.where(np.isnan(residuals), np.inf, residuals))
        ]
        added = {
            n: sum(_number(c['scores'].get(n)) for c in samples) for n in costs
        }
        success = {'success': float(np.mean(residuals <= most))}
        chosen.append(
            {**best, 'scores': {**best['scores'], **added, **success}}
        )
    return chosen


Group = TypeVar('Group', bound=tuple)


def summarise(
    cells: Sequence[dict], key: Callable[[dict], Group]
) -> dict[Group, dict[str, metrics.Estimate]]:
    """Mean and standard error over images, of each group of cells.

    Several samples of one image are averaged first: they are not independent
    images.

    Args:
        cells: from `cells.read`.
        key: of a protocol: what the cells of a group share.

    Returns:
        Group to the estimate of each score, groups in order of appearance. A
        score that is not finite, or that some of a group's cells lack, makes
        its group's estimate not finite.
    """
    groups: dict[Group, dict[Any, list[dict]]] = {}
    for cell in cells:
        group = groups.setdefault(key(cell['protocol']), {})
        image = group.setdefault(cell['protocol']['image'], [])
        image.append(cell['scores'])
    return {
        group: {
            name: metrics.mean_and_standard_error(
                [
                    np.mean([_number(s.get(name)) for s in samples])
                    for samples in by_image.values()
                ]
            )
            for name in dict.fromkeys(
                name
                for samples in by_image.values()
                for scores in samples
                for name in scores
            )
        }
        for group, by_image in groups.items()
    }


def words(estimate: metrics.Estimate | None, is_count: bool = False) -> str:
    """An estimate with its standard error, where it has one."""
    if estimate is None or np.isnan(estimate.mean):
        return '-'
    if is_count:
        return f'{estimate.mean:g}'
    if np.isnan(estimate.standard_error):
        return f'{estimate.mean:.3f}'
    return f'{estimate.mean:.3f} +- {estimate.standard_error:.3f}'


def shown_settings(
    settings: Mapping[str, Any], method: str = ''
) -> dict[str, Any]:
    """What a reader needs of a method's settings, as they are in a protocol.

    That is its numbers, but for an eta of 0 and those that its choices leave
    unread, and its choices and switches where they are not the default ones.

    Args:
        settings: name to value; infinity may be the text 'inf'.
        method: its name; without it choices and switches are left out.
    """
    default = _default_settings(method)
    only_with = METHODS[method].only_with if method in METHODS else {}
    shown = {}
    for name, value in settings.items():
        if name in only_with:
            field, needed = only_with[name]
            if settings.get(field, needed) != needed:
                continue
        if value == 'inf':
            value = math.inf
        if isinstance(value, str | bool):
            if method and value != default.get(name):
                shown[name] = value
        elif (name, value) != ('eta', 0):
            shown[name] = value
    return shown


@functools.cache
def _default_settings(method: str) -> Mapping[str, Any]:
    return METHODS[method]().settings() if method in METHODS else {}


def setting_words(settings: Mapping[str, Any], method: str = '') -> str:
    """`shown_settings` in words, such as `zeta 3, normalise gradient`."""
    shown = shown_settings(settings, method)
    return Setting(method, tuple(shown.items())).words()


def _number(value) -> float:
    return np.nan if value is None else float(value)
