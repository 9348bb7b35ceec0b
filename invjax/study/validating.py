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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from invjax import keys, operators, problem, schedule, validation
from invjax.diffusion import Transition
from invjax.methods import METHODS
from invjax.priors import gaussian, mixture
from invjax.study.cells import cut_torn_line
from invjax.study.evaluation import setting_words
from invjax.types import LinearOperator

NOISE_STDS = (0.1, 0.3)  # in [-1, 1] units
NUM_STEPS = (10, 30, 100, 300, 1000)
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
        methods: names.
        num_steps: of each case, any form that `schedule.respace` takes.
        num_samples: of each posterior.
        seed: of everything random.
    """

    methods: Sequence[str] = tuple(n for n in METHODS if n != 'unconditional')
    num_steps: int | str = 100
    num_samples: int = 2000
    seed: int = 0


class Case(NamedTuple):
    """A problem whose posterior is known."""

    words: tuple  # prior, task, noise_std
    prior: object
    measured: problem.Problem
    posterior: object  # exact, float64
    as_prior: object  # the posterior, as a prior


# What tells one row from another.
_NAMES = (
    'prior',
    'task',
    'noise_std',
    'method',
    'version',
    'num_steps',
    'num_samples',
    'seed',
)


class _Kept:
    """Rows that are on disk already, and those that are added."""

    def __init__(self, path: pathlib.Path, asked: Validation):
        self._path = path
        self._asked = asked
        cut_torn_line(path)
        lines = path.read_text().splitlines() if path.is_file() else []
        rows = map(json.loads, lines)
        # Older rows have no version of their method.
        self._found = {self._name(row): row for row in rows if 'version' in row}

    def __call__(self, case: Case, method: str, num_steps, compute) -> dict:
        """The row of a case and method; `compute()` -> setting, errors."""
        prior, task, noise_std = case.words
        row = {
            'prior': prior,
            'task': task,
            'noise_std': noise_std,
            'method': method,
            'version': METHODS[method].version if method in METHODS else 1,
            'num_steps': str(num_steps),
            'num_samples': self._asked.num_samples,
            'seed': self._asked.seed,
        }
        name = self._name(row)
        if name not in self._found:
            setting, errors = compute()
            row |= {'setting': setting, **errors}
            with self._path.open('a') as file:
                file.write(json.dumps(row) + '\n')
            self._found[name] = row
        return self._found[name]

    @staticmethod
    def _name(row) -> tuple:
        return tuple(row[name] for name in _NAMES)


def validate(
    asked: Validation, folder: pathlib.Path
) -> tuple[list[dict], dict[str, dict[int, dict]]]:
    """All rows, and those of one case by the number of steps.

    Args:
        asked: see there.
        folder: where rows are kept.

    Returns:
        Rows, dicts, and method to its rows at each of NUM_STEPS.
    """
    found = list(cases(asked.seed))
    kept = _Kept(folder / 'rows.jsonl', asked)
    rows = [row for case in found for row in _compare(case, kept, asked)]
    return rows, _errors_by_steps(found, kept, asked)


def cases(seed: int = 0) -> Iterator[Case]:
    """All problems: a prior, a task and a noise level each."""
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
    priors = {
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
                words = name, task, noise_std
                yield Case(words, prior, measured, posterior, as_prior)


def _posterior(prior, matrix, y, noise_std, alpha_bar):
    if isinstance(prior, mixture.MixturePrior):
        found = mixture.mixture_posterior(prior, matrix, y, noise_std)
        return found, mixture.MixturePrior.from_covariances(
            found.weights, found.means, found.covariances, alpha_bar
        )
    found = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
    return found, gaussian.GaussianPrior.from_covariance(
        found.mean, found.covariance, alpha_bar
    )


def _draw(case, method, num_steps, asked: Validation):
    steps = schedule.reverse_steps(case.prior.alpha_bar, num_steps)
    return validation.draw(
        keys.of_sample(keys.root(asked.seed)),
        method,
        steps,
        case.measured,
        case.prior,
        asked.num_samples,
    )


def _errors(case, samples, asked) -> dict:
    """Each error with its standard error; infinite where samples are not."""
    if samples is None:  # No setting gave finite ones.
        return {name: (np.inf, 0.0) for name in validation.Errors._fields}
    rng = np.random.default_rng(asked.seed)
    values, deviations = validation.errors(samples, case.posterior, rng)
    return {
        name: (float(value), float(deviation))
        for name, value, deviation in zip(
            values._fields, values, deviations, strict=True
        )
    }


def _compare(case, kept, asked):
    """A row for each method, at its best setting."""

    def floor():
        rng = np.random.default_rng(asked.seed + 1)
        exact_samples = case.posterior.sample(rng, asked.num_samples)
        return {}, _errors(case, exact_samples, asked)

    yield kept(case, 'floor', asked.num_steps, floor)
    yield from _rows(case, kept, asked.num_steps, asked)


def _rows(case, kept, num_steps, asked):
    """The rows of exact guidance and of each method that can."""

    def exact():
        method = validation.ExactGuidance(case.as_prior, transition=_TRANSITION)
        samples = _draw(case, method, num_steps, asked)
        return {}, _errors(case, samples, asked)

    yield kept(case, 'exact', num_steps, exact)
    for method in asked.methods:
        if isinstance(case.measured.operator, METHODS[method].needs):
            yield kept(
                case,
                method,
                num_steps,
                functools.partial(best, case, method, num_steps, asked),
            )


def best(case, method: str, num_steps, asked: Validation) -> tuple[dict, dict]:
    """The setting of the least sliced distance, and its errors."""

    def sliced_and_samples(setting):
        value = METHODS[method].of(
            {**setting, 'variance': 'posterior', 'clip': False}
        )
        # As an array, another number compiles nothing anew.
        value = jax.tree.map(np.float32, value)
        samples = np.asarray(_draw(case, value, num_steps, asked))
        if not np.all(np.isfinite(samples)):
            return np.inf, None
        rng = np.random.default_rng(asked.seed)
        values, _ = validation.errors(samples, case.posterior, rng, 0)
        return values.sliced, samples

    settings = METHODS[method].validation_settings
    tried = [(*sliced_and_samples(s), s) for s in settings]
    _, samples, setting = min(tried, key=lambda found: found[0])
    return dict(setting), _errors(case, samples, asked)


def _errors_by_steps(found, kept, asked) -> dict[str, dict[int, dict]]:
    """Method to its rows at each number of steps, for one case."""
    case = next(
        c for c in found if c.words[:2] == ('gaussian', 'gaussian_deblur')
    )
    by_steps: dict[str, dict[int, dict]] = {}
    for num_steps in NUM_STEPS:
        for row in _rows(case, kept, num_steps, asked):
            by_steps.setdefault(row['method'], {})[num_steps] = row
    return by_steps


def _pair(pair) -> str:
    return f'{pair[0]:.3f} +- {pair[1]:.3f}'


def summary(rows: Sequence[dict]) -> list[str]:
    """The median over all cases, a line a method."""
    names = validation.Errors._fields
    methods = [*dict.fromkeys(row['method'] for row in rows)]
    num_cases = sum(row['method'] == methods[0] for row in rows)
    lines = [
        f'Medians over {num_cases} cases:',
        '',
        f'| method | {" | ".join(names)} |',
        '| --- ' * (1 + len(names)) + '|',
    ]
    for method in methods:
        medians = (
            np.median([r[name][0] for r in rows if r['method'] == method])
            for name in names
        )
        numbers = ' | '.join(f'{median:.3f}' for median in medians)
        lines.append(f'| `{method}` | {numbers} |')
    return lines


def table(rows: Sequence[dict]) -> list[str]:
    """Every case, in Markdown."""
    names = validation.Errors._fields
    lines = [
        '',
        'Each case:',
        '',
        f'| prior | task | noise | method | setting | {" | ".join(names)} |',
        '| --- ' * (5 + len(names)) + '|',
    ]
    for row in rows:
        setting = setting_words(row['setting'])
        numbers = ' | '.join(_pair(row[name]) for name in names)
        lines.append(
            f'| {row["prior"]} | `{row["task"]}` | {row["noise_std"]} '
            f'| `{row["method"]}` | {setting} | {numbers} |'
        )
    return lines


def table_of_steps(by_steps: dict[str, dict[int, dict]]) -> list[str]:
    """Sliced distances by the number of steps, in Markdown."""
    lines = [
        '',
        f'Sliced distance by the number of steps, Gaussian prior, '
        f'`gaussian_deblur`, noise {NOISE_STDS[0]}:',
        '',
        f'| method | {" | ".join(map(str, NUM_STEPS))} |',
        '| --- ' * (1 + len(NUM_STEPS)) + '|',
    ]
    for method, errors in by_steps.items():
        numbers = ' | '.join(_pair(e['sliced']) for e in errors.values())
        lines.append(f'| `{method}` | {numbers} |')
    return lines
