"""Choose a method's hyperparameters for one measurement, without its truth."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from invjax import (
    batch,
    keys,
    metrics,
    notebook,
    operators,
    restoration,
    tuning,
)
from invjax.methods import Method, method_class
from invjax.problem import Problem
from invjax.study.plan import grid as combinations
from invjax.study.summaries import Setting
from invjax.types import MaskOperator

CRITERIA = ('auto', 'default', 'discrepancy', 'held_out')
# What the prior's defaults were found for (docs/defaults.md).
_DEFAULT_NOISE_STD = 0.05
_DEFAULT_NUM_STEPS = '100'


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was tried, and what was chosen.

    Attributes:
        rows: a setting each: `setting` and its scores.
        samples: (S, H, W, C), the restorations of the rows.
        chosen: index of the row.
        by: the criterion.
        method: the method with the chosen setting.
    """

    rows: Sequence[dict]
    samples: np.ndarray
    chosen: int
    by: str
    method: Method

    @property
    def setting(self) -> dict[str, float]:
        """The chosen values, by name."""
        return self.rows[self.chosen]['setting']

    def table(self) -> list[str]:
        """A line a setting, the chosen one with a star."""
        lines = []
        for i, row in enumerate(self.rows):
            setting = ' '.join(f'{n} {v:g}' for n, v in row['setting'].items())
            numbers = '  '.join(
                f'{name} {value:.3f}'
                for name, value in row.items()
                if name != 'setting'
            )
            mark = '*' if i == self.chosen else ' '
            lines.append(f'{mark} {setting:<24} {numbers}')
        return lines

    def __repr__(self):
        return '\n'.join([f'chosen by {self.by}:', *self.table()])

    def _repr_html_(self):
        shown = {
            Setting(self.method.name, tuple(row['setting'].items())).line(): x
            for row, x in zip(self.rows, self.samples, strict=True)
        }
        return notebook.as_html(shown, repr(self))


def grid_of_method(
    method: str | type[Method], values: Mapping[str, Sequence[float]] | None
) -> dict[str, Sequence[float]]:
    """The values that are tried: those given, or the method's own.

    Raises:
        ValueError: if there are neither.
    """
    cls = method_class(method) if isinstance(method, str) else method
    found = dict(values or cls.tuning_grid)
    if not found:
        raise ValueError(f'{cls.name} has nothing to tune; give a grid.')
    return found


def tune(
    measured: Problem,
    prior,
    method: str | type[Method] | Method = 'dps',
    grid: Mapping[str, Sequence[float]] | None = None,
    num_steps: int | str = 100,
    *,
    by: str = 'auto',
    hold_out: float = 0.1,
    seed: int | jax.Array = 0,
    max_lanes: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> Choice:
    """Restore by each setting of a grid, and choose one by the measurement.

        tune(measured, prior, 'dps', {'zeta': [1, 3, 6]}).method

    Args:
        measured: of which a truth, if there is one, is scored and never used.
        prior: see `invjax.load_prior`.
        method: a name, a class or a value; see `restoration.resolve`.
        grid: name to values, of which one is chosen; by default the method's
            own, and with it the prior's tuned defaults.
        num_steps: any form that `schedule.respace` takes.
        by: `discrepancy`, the residual nearest to what the noise explains;
            `held_out`, for masks, what best foretells measured pixels that it
            has not seen; `default`, the tuned one, which must be in the grid;
            `auto`, what lost least over 50 faces (docs/evidence.md).
        hold_out: fraction of the measured pixels that `held_out` keeps back.
        seed: of everything random, or a key.
        max_lanes, on_progress: see `batch.run_batches`.
        **settings: hyperparameters and choices, the same for all.

    Raises:
        ValueError: for what there is not or is out of range, for a criterion
            that cannot be used here, or if no setting gave a finite picture.
    """
    if by not in CRITERIA:
        raise ValueError(
            f'by must be one of {", ".join(CRITERIA)}, got {by!r}.'
        )
    if not float(measured.noise_std):
        raise ValueError(
            'noise_std must be above 0: without noise every residual but 0 is '
            'too large.'
        )
    is_mask = isinstance(measured.operator, MaskOperator)
    if by == 'held_out' and not is_mask:
        raise ValueError(
            'held_out needs a measurement by a mask, got '
            f'{type(measured.operator).__name__}.'
        )

    def resolve(more):
        return restoration.resolve(
            method, prior, measured.task, num_steps, {**settings, **more}
        ).method

    usual = resolve({})
    values = grid_of_method(type(usual), grid)
    default = {name: usual.settings()[name] for name in _names(usual, values)}
    has_tuned = _has_tuned(method, prior, measured.task, num_steps)
    tried = combinations(**values)
    if not grid and has_tuned and default not in tried:
        # Nobody has asked for other values than these.
        tried.append(default)
    if by == 'default' and default not in tried:
        raise ValueError(
            f'by=default needs {default} in the grid, which {usual.name} has '
            'by default; it is not there.'
        )
    if by == 'auto':
        by = _least_loss(measured, num_steps, has_tuned and default in tried)
    methods = [resolve(setting) for setting in tried]
    root = keys.root(seed)
    problems, held_out = [measured], None
    if is_mask:
        seen, held_out = tuning.hold_out(
            keys.of_held_out(root), measured, hold_out
        )
        problems.append(seen)
    result = batch.run_lanes(
        batch.make_lanes(root, problems, methods),
        prior,
        num_steps,
        max_lanes=max_lanes,
        on_progress=on_progress,
    )
    restored = result.x.reshape(
        len(problems), len(methods), *result.x.shape[1:]
    )
    of_lanes = batch.first_nonfinite_step(result.info) >= 0
    failed = np.any(of_lanes.reshape(len(problems), len(methods)), axis=0)
    rows = []
    for i, setting in enumerate(tried):
        x = restored[0, i]
        row = {
            'setting': setting,
            'chi_square': float(tuning.chi_square(x, measured)),
        }
        if held_out is not None:
            row['held_out'] = float(tuning.chi_square(restored[1, i], held_out))
        if measured.truth is not None:
            row['psnr'] = float(metrics.psnr(x, measured.truth))
        if failed[i]:
            # Clipping can make numbers of what has none.
            row |= dict.fromkeys(row.keys() - {'setting'}, math.nan)
        rows.append(row)
    chosen = choose(rows, by, default)
    return Choice(rows, restored[0], chosen, by, methods[chosen])


def _names(method: Method, values: Mapping[str, Any]) -> Iterable[str]:
    """The names of a grid, once it is known that the method has them."""
    type(method).check_names(values)
    return values


def choose(rows: Sequence[dict], by: str, default: Mapping[str, float]) -> int:
    """The row that a criterion prefers; what is not finite never is.

    Args:
        rows: with `setting`, `chi_square` and, for `held_out`, that.
        by: `default`, `discrepancy` or `held_out`.
        default: the setting of `default`.

    Raises:
        ValueError: if no row is finite.
    """
    if by == 'default':
        (chosen,) = [i for i, r in enumerate(rows) if r['setting'] == default]
        return chosen
    if by == 'discrepancy':
        values = tuning.discrepancy(np.array([r['chi_square'] for r in rows]))
    else:
        values = np.array([row[by] for row in rows])
    if not np.isfinite(values).any():
        raise ValueError(
            'no setting gave a finite restoration; try smaller steps.'
        )
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


def _has_tuned(method, prior, task: str | None, num_steps) -> bool:
    """Whether a method, by its name or class, has tuned settings here."""
    card = getattr(prior, 'card', None)
    if card is None or isinstance(method, Method):
        return False
    name = method if isinstance(method, str) else method.name
    return bool(card.default_settings(name, task, num_steps))


def _least_loss(measured: Problem, num_steps, has_default: bool) -> str:
    """The criterion that lost least on 50 faces (docs/evidence.md)."""
    as_there = (
        abs(float(measured.noise_std) - _DEFAULT_NOISE_STD) < 1e-6
        and str(num_steps) == _DEFAULT_NUM_STEPS
        and _is_usual(measured)
    )
    if has_default and as_there:
        return 'default'
    if measured.task == 'random_inpainting':
        return 'held_out'
    return 'discrepancy'


def _is_usual(measured: Problem) -> bool:
    """Whether the operator has the parameters that its task has by default."""
    if measured.task not in operators.OPERATORS:
        return False
    usual = operators.make_operator(
        measured.task, jax.random.key(0), measured.image_shape
    )

    def described(operator):
        # Where pixels are missing is random; how many is a parameter.
        found = operator.describe()
        return {n: v for n, v in found.items() if n != 'missing_within'}

    return described(usual) == described(measured.operator)
