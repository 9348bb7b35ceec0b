"""Every method and operator against posteriors that are known in closed form.

Two priors on 8 x 8 images, a Gaussian of smooth images and a mixture of two of
them; all linear operators; two noise levels. Each method is shown at the one of
its `validation_settings` with the smallest sliced-Wasserstein distance, so that
what is left is the method's own error and not a matter of tuning. `exact` is
guidance by the likelihood's closed-form score; `floor` is as many exact samples.

Each row is written to `rows.jsonl` as it is found. The same call continues where
it was interrupted, and others add methods to the same tables.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import keys, operators, problem, schedule, validation
from invjax.diffusion import Transition
from invjax.methods import METHODS, Method
from invjax.priors import gaussian, mixture
from invjax.strict_json import as_json
from invjax.study.cells import cut_torn_line
from invjax.types import LinearOperator

NOISE_STDS = (0.1, 0.3)  # in [-1, 1] units
NUM_STEPS = (10, 30, 100, 300, 1000)
FLOOR = 'floor'
# Of what a row's names mean; raised when the same ones would mean other numbers:
# 2, keys that do not overlap.
_PROTOCOL = 2
_SHAPE = (8, 8, 1)
# The default blur, in proportion to 8 pixels, would be none.
_TASK_PARAMETERS = {'gaussian_deblur': {'blur_size': 5, 'blur_std': 1.0}}
# Of one channel, it is the identity; jpeg needs three.
_SKIPPED = ('colorization', 'jpeg')
_TRANSITION = Transition(variance='posterior', clip=False)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What is asked for.

    Attributes:
        methods: each where an operator lets it.
        num_steps: of each case, any form that `schedule.respace` takes.
        num_samples: of each posterior.
        seed: of everything random.

    Raises:
        ValueError: for a number of steps that there is not.
    """

    methods: Sequence[type[Method]] = tuple(
        cls for name, cls in METHODS.items() if name != 'unconditional'
    )
    num_steps: int | str = 100
    num_samples: int = 2000
    seed: int = 0

    def __post_init__(self):
        schedule.respace(self.num_steps)


class Case(NamedTuple):
    """A problem whose posterior is known.

    Attributes:
        prior_name, task, noise_std: what tells it from the others.
        prior: in closed form.
        measured: the problem.
        posterior: exact, in float64: with `mean`, `covariance` and `sample`.
        as_prior: the posterior as a prior.
    """

    prior_name: str
    task: str
    noise_std: float
    prior: Any
    measured: problem.Problem
    posterior: Any
    as_prior: Any


class Validated(NamedTuple):
    """Rows, as plain data.

    Each has `prior`, `task`, `noise_std`, `method`, `version`, `num_steps`,
    `num_samples`, `seed`, the settings `tried` and the best `setting` of them,
    and the errors of `validation.Errors`, each with its standard error.

    Attributes:
        rows: of all cases.
        by_steps: method to its rows at each of NUM_STEPS, for one case.
    """

    rows: list[dict]
    by_steps: dict[str, dict[int, dict]]


class Rows:
    """Rows that are on disk already, and those that are added.

    Args:
        path: of the file, one row a line.
        asked: what all rows share.
    """

    def __init__(self, path: pathlib.Path, asked: Validation):
        self._path = path
        self._asked = asked
        cut_torn_line(path)
        lines = path.read_text().splitlines() if path.is_file() else []
        self._found = {}
        for row in map(_parse, lines):
            if row.get('protocol') == _PROTOCOL:
                self._found[_name(row)] = row

    def get(
        self,
        case: Case,
        method: str,
        version: int,
        num_steps: int | str,
        tried: Sequence[dict],
        compute: Callable[[], tuple[dict, dict]],
    ) -> dict:
        """A row, computed if it is not there.

        Args:
            case: of the row.
            method, version: name of the method, and its version.
            num_steps: see `Validation`.
            tried: settings that are tried; others are another row.
            compute: () -> the best setting, and errors by name.
        """
        row = {
            'protocol': _PROTOCOL,
            'prior': case.prior_name,
            'task': case.task,
            'noise_std': case.noise_std,
            'method': method,
            'version': version,
            'num_steps': str(num_steps),
            'num_samples': self._asked.num_samples,
            'seed': self._asked.seed,
            'tried': list(tried),
        }
        name = _name(row)
        if name not in self._found:
            setting, errors = compute()
            line = json.dumps(as_json({**row, 'setting': setting, **errors}))
            with self._path.open('a') as file:
                file.write(line + '\n')
            self._found[name] = _parse(line)
        return self._found[name]


def _name(row: dict) -> str:
    """What tells a row from others: all but what was computed."""
    computed = ('setting', *validation.Errors._fields)
    inputs = {n: v for n, v in row.items() if n not in computed}
    return json.dumps(as_json(inputs), sort_keys=True)


def _parse(line: str) -> dict:
    """A row of a line; JSON has no infinity, which stands there as null."""
    row = json.loads(line)
    for name in validation.Errors._fields:
        if name in row:
            row[name] = [np.inf if v is None else v for v in row[name]]
    return row


def validate(
    found: Sequence[Case], asked: Validation, folder: pathlib.Path
) -> Validated:
    """All rows, each kept as it is found.

    Args:
        found: from `cases`, or some like those.
        asked: see there.
        folder: where `rows.jsonl` is kept.
    """
    kept = Rows(folder / 'rows.jsonl', asked)
    rows = []
    for case in found:
        rows.append(_floor(case, kept, asked))
        rows += _rows_of(case, kept, asked.num_steps, asked)
    by_steps: dict[str, dict[int, dict]] = {}
    case = _case_of_steps(found)
    for num_steps in NUM_STEPS:
        for row in _rows_of(case, kept, num_steps, asked):
            by_steps.setdefault(row['method'], {})[num_steps] = row
    return Validated(rows, by_steps)


def _case_of_steps(found: Sequence[Case]) -> Case:
    """The case that is shown by the number of steps; else the first."""
    for case in found:
        if case[:2] == ('gaussian', 'gaussian_deblur'):
            return case
    return found[0]


def cases(seed: int = 0) -> Iterator[Case]:
    """All problems: a prior, a task and a noise level each.

    Args:
        seed: of the clean images, operators and noise.
    """
    alpha_bar = schedule.alpha_bars(schedule.linear_betas())
    rows, columns = np.divmod(np.arange(64), 8)
    squares = sum(np.subtract.outer(v, v) ** 2 for v in (rows, columns))
    smooth = 0.3**2 * (np.exp(-np.sqrt(squares) / 2) + 0.02 * np.eye(64))
    levels = [
        gaussian.GaussianPrior.from_covariance(
            np.full(_SHAPE, level), smooth, alpha_bar
        )
        for level in (-0.4, 0.4)
    ]
    priors: dict[str, gaussian.GaussianPrior | mixture.MixturePrior] = {
        'gaussian': levels[1],
        'mixture': mixture.MixturePrior.from_components(
            np.array([0.5, 0.5]), levels
        ),
    }
    root = keys.root(seed)
    key_operator, key_noise = keys.of_operator(root), keys.of_noise(root)
    # Of the clean image, which counts as one more of the data set.
    key_x = keys.of_operator(root, 1)
    for name, prior in priors.items():
        for task in operators.OPERATORS:
            if task in _SKIPPED:
                continue
            operator = operators.make_operator(
                task, key_operator, _SHAPE, **_TASK_PARAMETERS.get(task, {})
            )
            if not isinstance(operator, LinearOperator):
                continue  # Its posterior has no closed form.
            matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
            for noise_std in NOISE_STDS:
                measured = problem.measure(
                    key_noise, prior.sample(key_x), operator, noise_std
                )
                posterior, as_prior = _posterior(
                    prior, matrix, measured.y, noise_std, alpha_bar
                )
                yield Case(
                    name, task, noise_std, prior, measured, posterior, as_prior
                )


def _posterior(prior, matrix, y, noise_std, alpha_bar):
    if isinstance(prior, mixture.MixturePrior):
        modes = mixture.mixture_posterior(prior, matrix, y, noise_std)
        return modes, mixture.MixturePrior.from_covariances(
            modes.weights, modes.means, modes.covariances, alpha_bar
        )
    found = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
    return found, gaussian.GaussianPrior.from_covariance(
        found.mean, found.covariance, alpha_bar
    )


def _floor(case: Case, kept: Rows, asked: Validation) -> dict:
    """The row of as many exact samples."""

    def compute():
        rng = np.random.default_rng(asked.seed + 1)
        samples = case.posterior.sample(rng, asked.num_samples)
        return {}, _errors(case, samples, asked)

    return kept.get(case, FLOOR, 1, asked.num_steps, [], compute)


def _rows_of(
    case: Case, kept: Rows, num_steps, asked: Validation
) -> Iterator[dict]:
    """The rows of exact guidance and of each method that can."""
    guidance = validation.ExactGuidance(transition=_TRANSITION)

    def exact():
        samples = _draw(case, guidance, num_steps, asked, case.as_prior)
        return {}, _errors(case, samples, asked)

    yield kept.get(case, guidance.name, guidance.version, num_steps, [], exact)
    for cls in asked.methods:
        able = _able(cls, case.measured.operator)
        if able:
            yield kept.get(
                case,
                cls.name,
                cls.version,
                num_steps,
                [setting for setting, _ in able],
                functools.partial(best, case, able, num_steps, asked),
            )


def _able(cls: type[Method], operator) -> list[tuple[dict, Method]]:
    """The settings of a method that can do an operator, each with its value."""
    found = []
    for setting in cls.validation_settings:
        method = cls.of({**setting, 'variance': 'posterior', 'clip': False})
        try:
            method.check_operator(operator)
        except ValueError:
            continue
        found.append((dict(setting), method))
    return found


def best(
    case: Case,
    tried: Sequence[tuple[dict, Method]],
    num_steps: int | str,
    asked: Validation,
) -> tuple[dict, dict]:
    """The setting of the least sliced distance, and its errors by name.

    Errors are infinite where no setting gives finite samples.

    Args:
        case: that is restored.
        tried: settings, each with the method that has it.
        num_steps: see `Validation`.
        asked: see there.
    """
    least, setting, samples = np.inf, tried[0][0], None
    for candidate, method in tried:
        drawn = np.asarray(_draw(case, method, num_steps, asked))
        if np.all(np.isfinite(drawn)):
            rng = np.random.default_rng(asked.seed)
            values, _ = validation.errors(drawn, case.posterior, rng, 0)
            if values.sliced < least:
                least, setting, samples = values.sliced, candidate, drawn
    return setting, _errors(case, samples, asked)


def _draw(case, method: Method, num_steps, asked, posterior=None):
    """Samples, (n, H, W, C), of the same keys for all methods and settings."""
    method.check(len(case.prior.alpha_bar))
    return validation.draw(
        keys.of_sample(keys.root(asked.seed)),
        # As arrays, other numbers compile nothing anew.
        jax.tree.map(np.float32, method),
        schedule.reverse_steps(case.prior.alpha_bar, num_steps),
        case.measured,
        case.prior,
        asked.num_samples,
        posterior,
    )


def _errors(case: Case, samples, asked: Validation) -> dict:
    """Each error with its standard error; infinite where there are no samples."""
    names = validation.Errors._fields
    if samples is None:
        return {name: (np.inf, 0.0) for name in names}
    rng = np.random.default_rng(asked.seed)
    pairs = zip(*validation.errors(samples, case.posterior, rng), strict=True)
    return {
        name: (float(value), float(deviation))
        for name, (value, deviation) in zip(names, pairs, strict=True)
    }
