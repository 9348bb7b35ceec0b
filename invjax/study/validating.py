"""Every method and operator against posteriors that are known.

Three priors on 8 x 8 images: a Gaussian of smooth images, a mixture of two of
them, and Student-t coefficients, which have heavy tails; all linear operators;
two noise levels. Each method is shown at the one of
its `validation_settings` with the smallest sliced-Wasserstein distance, so that
what is left is the method's own error and not a matter of tuning. `exact` is
guidance by the likelihood's closed-form score, which the third prior does not
have; `floor` is as many exact samples, of the third by Gibbs sampling.

Each row is written to `rows.jsonl` as it is found. The same call continues where
it was interrupted, and others add methods to the same tables.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import keys, operators, problem, schedule, validation
from invjax.diffusion import Transition
from invjax.methods import METHODS, Method
from invjax.priors import gaussian, mixture, student_t
from invjax.strict_json import as_json
from invjax.study.cells import cut_torn_line

NOISE_STDS = (0.1, 0.3)  # in [-1, 1] units
NUM_STEPS = (10, 30, 100, 300, 1000)
FLOOR = 'floor'
ROWS = 'rows.jsonl'
# Of what a row's names mean; raised when the same ones would mean other numbers:
# 2, keys that do not overlap; 3, tails.
_PROTOCOL = 3
_SHAPE = (8, 8, 1)
_LEVEL = 0.4
# Heavy tails, a kurtosis of 9, that still let covariances have standard errors:
# with 4 degrees of freedom or less a fourth moment is infinite.
_DEGREES = 5.0
# The default blur, in proportion to 8 pixels, would be none.
_TASK_PARAMETERS = {'gaussian_deblur': {'blur_size': 5, 'blur_std': 1.0}}
_SKIPPED = (
    # Of one channel, it is the identity; jpeg needs three.
    *('colorization', 'jpeg'),
    # Not linear: their posteriors are not known.
    *('high_dynamic_range', 'nonlinear_deblur', 'phase_retrieval'),
)
EXACT = validation.ExactGuidance(
    transition=Transition(variance='posterior', clip=False)
)
PRIORS = ('gaussian', 'mixture', 'student_t')
TASKS = tuple(name for name in operators.OPERATORS if name not in _SKIPPED)
# Samples given each of `num_measurements`: all levels of coverage are multiples
# of a twentieth.
NUM_RANKED = 19
_LEAST_MEASUREMENTS = 5 * (NUM_RANKED + 1)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What is asked for.

    Attributes:
        methods: each where an operator lets it.
        num_steps: of each case, any form that `schedule.respace` takes.
        num_samples: of each posterior.
        seed: of everything random.
        priors, tasks: some of PRIORS and TASKS.
        num_measurements: of the histograms of ranks; 0 for none.

    Raises:
        ValueError: for a number of steps, a prior or a task that there is not,
            or too few measurements.
    """

    methods: Sequence[type[Method]] = tuple(
        cls for name, cls in METHODS.items() if name != 'unconditional'
    )
    num_steps: int | str = 100
    num_samples: int = 2000
    seed: int = 0
    priors: Sequence[str] = PRIORS
    tasks: Sequence[str] = TASKS
    num_measurements: int = 200

    def __post_init__(self):
        schedule.respace(self.num_steps)
        for kind, names, known in (
            ('prior', self.priors, PRIORS),
            ('task', self.tasks, TASKS),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(
                        f'{kind} must be one of {", ".join(known)}, got '
                        f'{name!r}.'
                    )
        if 0 < self.num_measurements < _LEAST_MEASUREMENTS:
            raise ValueError(
                f'num_measurements must be {_LEAST_MEASUREMENTS} or more, for '
                f'five at each of {NUM_RANKED + 1} ranks, or 0, got '
                f'{self.num_measurements}.'
            )


# Of rows, what was computed.
COMPUTED = ('setting', 'ranks', *validation.Errors._fields)


class Case(NamedTuple):
    """A problem whose posterior is known.

    Attributes:
        prior_name, task, noise_std: what tells it from the others.
        prior: in closed form.
        measured: the problem.
        posterior: exact, in float64: with `mean`, `covariance` and `sample`.
        as_prior: the posterior as a prior; None where it has no closed form.
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
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        cut_torn_line(path)
        lines = path.read_text().splitlines() if path.is_file() else []
        self._found = {}
        for row in map(_parse, lines):
            if row.get('protocol') == _PROTOCOL:
                self._found[_name(row)] = row

    def get(
        self,
        inputs: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Any]],
    ) -> dict:
        """A row, computed if it is not there.

        Args:
            inputs: all that tells the row from others.
            compute: () -> what is found.
        """
        name = _name(inputs)
        if name not in self._found:
            line = json.dumps(as_json({**inputs, **compute()}))
            with self._path.open('a') as file:
                file.write(line + '\n')
            self._found[name] = _parse(line)
        return self._found[name]


def _inputs(
    case: Case,
    method: type[Method] | Method | None,
    num_steps: int | str,
    tried: Sequence[dict],
    asked: Validation,
) -> dict:
    """What tells a row from others; without a method it is the floor's."""
    return {
        'protocol': _PROTOCOL,
        'prior': case.prior_name,
        'task': case.task,
        'noise_std': case.noise_std,
        'method': method.name if method else FLOOR,
        'version': method.version if method else 1,
        'num_steps': str(num_steps),
        'num_samples': asked.num_samples,
        'seed': asked.seed,
        'tried': list(tried),
    }


def _name(row: Mapping[str, Any]) -> str:
    """What tells a row from others: all but what was computed."""
    inputs = {n: v for n, v in row.items() if n not in COMPUTED}
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
        folder: where ROWS is kept.
    """
    kept = Rows(folder / ROWS)
    rows: list[dict] = []
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


def cases(asked: Validation) -> Iterator[Case]:
    """All problems that are asked for: a prior, a task, a noise level each."""
    root = keys.root(asked.seed)
    key_operator, key_noise = keys.of_operator(root), keys.of_noise(root)
    # Of the clean image, which counts as one more of the data set.
    key_x = keys.of_operator(root, 1)
    made = _priors()
    for name in dict.fromkeys(asked.priors):
        prior = made[name]
        for task in dict.fromkeys(asked.tasks):
            operator = operators.make_operator(
                task, key_operator, _SHAPE, **_TASK_PARAMETERS.get(task, {})
            )
            matrix = dense(operator)
            for noise_std in NOISE_STDS:
                measured = problem.measure(
                    key_noise, prior.sample(key_x), operator, noise_std
                )
                posterior, as_prior = posterior_of(
                    prior, matrix, measured.y, noise_std
                )
                yield Case(
                    name, task, noise_std, prior, measured, posterior, as_prior
                )


def _priors() -> dict[str, Any]:
    """Each of PRIORS; the deviation of a pixel is about 0.3 in all of them."""
    alpha_bar = schedule.alpha_bars(schedule.linear_betas())
    rows, columns = np.divmod(np.arange(64), 8)
    squares = sum(np.subtract.outer(v, v) ** 2 for v in (rows, columns))
    smooth = 0.3**2 * (np.exp(-np.sqrt(squares) / 2) + 0.02 * np.eye(64))
    levels = [
        gaussian.GaussianPrior.from_covariance(
            np.full(_SHAPE, level), smooth, alpha_bar
        )
        for level in (-_LEVEL, _LEVEL)
    ]
    # The cosine transform, in which smooth images are nearly uncorrelated.
    waves = np.cos(np.pi * np.outer(np.arange(8) + 0.5, np.arange(8)) / 8) / 2
    waves[:, 0] /= np.sqrt(2)
    basis = np.kron(waves, waves)
    variances = np.diag(basis.T @ smooth @ basis)
    return {
        'gaussian': levels[1],
        'mixture': mixture.MixturePrior.from_components(
            np.array([0.5, 0.5]), levels
        ),
        'student_t': student_t.StudentTPrior.from_basis(
            np.full(_SHAPE, _LEVEL), basis, variances, _DEGREES, alpha_bar
        ),
    }


def dense(operator) -> np.ndarray:
    """A linear operator as a matrix, (M, D)."""
    return gaussian.dense_matrix(operator.forward, operator.image_shape)


def posterior_of(prior, matrix: np.ndarray, y, noise_std: float):
    """A posterior, and itself as a prior; see `Case`."""
    if isinstance(prior, student_t.StudentTPrior):
        return student_t.GibbsPosterior(prior, matrix, y, noise_std), None
    if isinstance(prior, mixture.MixturePrior):
        modes = mixture.mixture_posterior(prior, matrix, y, noise_std)
        return modes, mixture.MixturePrior.from_covariances(
            modes.weights, modes.means, modes.covariances, prior.alpha_bar
        )
    found = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
    return found, gaussian.GaussianPrior.from_covariance(
        found.mean, found.covariance, prior.alpha_bar
    )


def _floor(case: Case, kept: Rows, asked: Validation) -> dict:
    """The row of as many exact samples."""

    def compute():
        rng = np.random.default_rng(asked.seed + 1)
        samples = case.posterior.sample(rng, asked.num_samples)
        return {'setting': {}, **_errors(case, samples, asked)}

    return kept.get(_inputs(case, None, asked.num_steps, [], asked), compute)


def _rows_of(
    case: Case, kept: Rows, num_steps, asked: Validation
) -> Iterator[dict]:
    """The rows of exact guidance and of each method that can."""

    def exact():
        samples = _draw(case, EXACT, num_steps, asked, case.as_prior)
        return {'setting': {}, **_errors(case, samples, asked)}

    if case.as_prior is not None:
        yield kept.get(_inputs(case, EXACT, num_steps, [], asked), exact)
    for cls in asked.methods:
        able = _able(cls, case.measured.operator)
        if able:
            tried = [setting for setting, _ in able]
            yield kept.get(
                _inputs(case, cls, num_steps, tried, asked),
                functools.partial(best, case, able, num_steps, asked),
            )


def with_setting(cls: type[Method], setting: Mapping[str, Any]) -> Method:
    """A method as it is validated: of posterior variance, never clipped."""
    return cls.of({**setting, 'variance': 'posterior', 'clip': False})


def _able(cls: type[Method], operator) -> list[tuple[dict, Method]]:
    """The settings of a method that can do an operator, each with its value."""
    found = []
    for setting in cls.validation_settings:
        method = with_setting(cls, setting)
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
) -> dict:
    """The `setting` of the least sliced distance, and its errors by name.

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
    return {'setting': setting, **_errors(case, samples, asked)}


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
