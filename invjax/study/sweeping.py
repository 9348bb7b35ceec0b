"""A grid of hyperparameters over several images, in one compiled program."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from invjax import operators, restoration
from invjax.methods import Method, method_class
from invjax.study import running, summaries
from invjax.study.cells import cell_id, read
from invjax.study.plan import MEASUREMENT, Data, Plan, grid
from invjax.study.summaries import words


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What came out of a sweep.

    Attributes:
        cells: dicts of id, protocol and scores, the measurements' first.
        varied: names of what was varied.
        num_computed: cells that were not there before.
        seconds: that they took.
    """

    cells: Sequence[dict]
    varied: Sequence[str]
    num_computed: int
    seconds: float

    def group(self, protocol: Mapping[str, Any]) -> tuple:
        """What the cells of a row share: method, then (name, value) pairs."""
        values = {
            **protocol['settings'],
            'noise_std': protocol['noise_std'],
        }
        return (
            protocol['method'],
            *((n, values[n]) for n in self.varied if n in values),
        )

    def rows(self) -> dict[tuple, dict]:
        """Group to the estimates of its scores over images."""
        return summaries.summarise(self.cells, self.group)

    def table(self) -> list[str]:
        """A line a group: means with standard errors."""
        lines = []
        for (method, *setting), scores in self.rows().items():
            title = ' '.join([method, *(f'{n} {v:g}' for n, v in setting)])
            numbers = '  '.join(
                f'{name} {words(estimate)}' for name, estimate in scores.items()
            )
            lines.append(f'{title:<36} {numbers}')
        return lines

    def __repr__(self):
        return '\n'.join(self.table())


def plan_sweep(
    data: Data | None,
    task: str,
    method: str | type[Method],
    values: Mapping[str, Sequence[float]],
    num_steps: int | str = 100,
    *,
    settings: Mapping[str, Any] | None = None,
    noise_std: float = 0.05,
    **of_plan: Any,
) -> Plan:
    """The plan of a grid; every setting is checked before any work.

    Args:
        data: None as long as the prior is not loaded; its tuned defaults are
            then left out.
        task: a name.
        method: a name or a class, with the prior's defaults for the task.
        values: name to values; `noise_std` too may be among them.
        num_steps: any form that `schedule.respace` takes.
        settings: flat, the same for all.
        noise_std: where it is not varied.
        **of_plan: see `Plan`.

    Raises:
        ValueError: for a name that there is not, or a value out of its range.
    """
    operators.check_names(task, of_plan.get('task_parameters') or {})
    cls = method_class(method) if isinstance(method, str) else method
    values = dict(values)
    noise_stds = values.pop('noise_std', [noise_std])
    prior = None if data is None else data.prior
    methods = tuple(
        restoration.resolve(
            cls, prior, task, num_steps, {**(settings or {}), **setting}
        ).method
        for setting in grid(**values)
    )
    return Plan(task, methods, num_steps, tuple(noise_stds), **of_plan)


def sweep(
    data: Data,
    task: str,
    method: str | type[Method],
    values: Mapping[str, Sequence[float]],
    num_steps: int | str = 100,
    folder: str | os.PathLike | None = None,
    *,
    how: Mapping[str, Any] | None = None,
    **of_plan: Any,
) -> Sweep:
    """Restore all images by a method with each combination of some values.

        sweep(data, 'box_inpainting', 'dps', {'zeta': [1, 3, 6]})

    Args:
        data: prior and images.
        task, method, values, num_steps: see `plan_sweep`.
        folder: where cells are kept and continued; None keeps them for this
            call alone.
        how: arguments of `running.compute`.
        **of_plan: see `plan_sweep`.

    Raises:
        ValueError: see `plan_sweep`, before any work.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return sweep(
                data, task, method, values, num_steps, name, how=how, **of_plan
            )
    plan = plan_sweep(data, task, method, values, num_steps, **of_plan)
    done = running.compute(folder, plan, data, **(how or {}))
    return collect(folder, done, list(values))


def collect(folder, done: running.Done, varied: Sequence[str]) -> Sweep:
    """What is in a folder of a sweep's cells; others may be at work on some."""
    written = {cell['id']: cell for cell in read(folder)}
    names = [cell_id(cell) for cell in [*done.measured, *done.cells]]
    found = [written[name] for name in names if name in written]
    return Sweep(found, varied, done.num_computed, done.seconds)


def is_complete(found: Sweep, done: running.Done) -> bool:
    """Whether all cells of a plan are there."""
    return len(found.cells) == len(done.measured) + len(done.cells)


def is_measurement(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is a measurement and no restoration."""
    return cell['protocol']['method'] == MEASUREMENT
