"""Every method and operator against posteriors that are known in closed form.

    python -m experiments.validate --out=validation

Two priors on 8 x 8 images, a Gaussian of smooth images and a mixture of two of
them; all linear operators; two noise levels. Each method has a grid of settings and is
shown at the one with the smallest sliced-Wasserstein distance, so that what is
left is the method's own error and not a matter of tuning. `exact` is guidance
by the likelihood's closed-form score; `floor` is as many exact samples.

Each row is written to `rows.jsonl` as it is found. The same command continues
where it was interrupted, and others add methods to the same tables.
"""

import functools
import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from invjax.conditioners import (
    CONDITIONERS,
    check_operator,
    hyperparameters,
    make_conditioner,
)

from experiments import common, plots
from invjax import operators, problem, records, schedule, validation
from invjax.diffusion import Transition
from invjax.priors import gaussian, mixture

_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 2000, 'Of each posterior.', lower_bound=100
)
_METHODS = flags.DEFINE_list(
    'methods',
    [name for name in CONDITIONERS if name != 'unconditional'],
    'Where the operator lets them.',
)
_NOISE_STDS = (0.1, 0.3)  # in [-1, 1] units
_NUM_STEPS = (10, 30, 100, 300, 1000)
_SHAPE = (8, 8, 1)
# The default blur, in proportion to 8 pixels, would be none.
_TASK_PARAMETERS = {'gaussian_deblur': {'blur_size': 5, 'blur_std': 1.0}}
# Of one channel, it is the identity; jpeg needs three.
_SKIPPED = ('colorization', 'jpeg')
_TRANSITION = Transition(variance='posterior', clip=False)
_LARGEST_SHOWN = 5.0  # error, in the plot


def _exact(posterior):
    return validation.exact_guidance(posterior, _TRANSITION)


@functools.cache
def _factory(method, names):
    """For `validation.draw`: the method as a function of numbers."""

    def make(*values):
        settings = dict(zip(names, values, strict=True))
        return make_conditioner(
            method, variance='posterior', clip=False, **settings
        )

    return make


def _able(case) -> list[str]:
    """The methods that can do a case's operator."""
    found = []
    for method in _METHODS.value:
        try:
            check_operator(method, case.measured.operator)
        except ValueError:
            continue
        found.append(method)
    return found


# The hyperparameters that are tried, and their values; for a method that is not
# here, its defaults.
_GRIDS = {
    'sdedit': (('tau',), [(v,) for v in (50.0, 100.0, 200.0, 400.0, 600.0)]),
    'score_ald': (
        ('gamma_0', 'gamma_T'),
        [(gamma, gamma) for gamma in (1.0, 3.0, 10.0, 30.0)],
    ),
    'dps': (('zeta',), [(v,) for v in (0.03, 0.1, 0.3, 1.0, 3.0)]),
    'mcg': (('zeta',), [(v,) for v in (0.03, 0.1, 0.3, 1.0, 3.0)]),
    'pigdm': (('spread',), [(v,) for v in (0.3, 1.0)]),
    'c_pigdm': (('strength',), [(v,) for v in (1.0, 4.0, 16.0)]),
    'dmps': (('strength',), [(v,) for v in (1.0, 1.75)]),
    'diffpir': (('lam',), [(v,) for v in (1.0, 7.0, 50.0)]),
    'reddiff': (('weight',), [(v,) for v in (0.25, 1.0)]),
}


class _Case(NamedTuple):
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
    'num_steps',
    'num_samples',
    'seed',
)


class _Kept:
    """Rows that are on disk already, and those that are added."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        records.cut_torn_line(path)
        lines = path.read_text().splitlines() if path.is_file() else []
        rows = map(json.loads, lines)
        self._found = {self._name(row): row for row in rows}

    def __call__(self, case: _Case, method: str, num_steps, compute) -> dict:
        """The row of a case and method; `compute()` -> setting, errors."""
        prior, task, noise_std = case.words
        row = {
            'prior': prior,
            'task': task,
            'noise_std': noise_std,
            'method': method,
            'num_steps': str(num_steps),
            'num_samples': _NUM_SAMPLES.value,
            'seed': common.SEED.value,
        }
        name = self._name(row)
        if name not in self._found:
            setting, errors = compute()
            row |= {'setting': list(setting), **errors}
            with self._path.open('a') as file:
                file.write(json.dumps(row) + '\n')
            self._found[name] = row
        return self._found[name]

    @staticmethod
    def _name(row) -> tuple:
        return tuple(row[name] for name in _NAMES)


def main():
    for method in _METHODS.value:
        hyperparameters(method)  # Refuses a name that there is not.
    out = common.make_folder(common.OUT.value)
    start = time.perf_counter()
    cases = list(_cases())
    kept = _Kept(out / 'rows.jsonl')
    rows = [row for case in cases for row in _compare(case, kept)]
    by_steps = _errors_by_steps(cases, kept)
    lines = _summary(rows) + _table_of_steps(by_steps) + _table(rows)
    (out / 'validation.md').write_text('\n'.join(lines) + '\n')
    _plot(out, by_steps)
    record = {
        'rows': rows,
        'by_steps': by_steps,
        'seconds': time.perf_counter() - start,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'validation.json', record)
    print('\n'.join(lines))
    print(f'{record["seconds"]:.0f} s; written: {out}/validation.md and .png')


def _cases():
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
    key = jax.random.key(common.SEED.value)
    key_x, key_operator, key_noise = jax.random.split(key, 3)
    for name, prior in priors.items():
        for task in operators.OPERATORS:
            if task in _SKIPPED:
                continue
            operator = operators.make_operator(
                task, key_operator, _SHAPE, **_TASK_PARAMETERS.get(task, {})
            )
            if not hasattr(operator, 'adjoint'):
                continue  # Its posterior has no closed form.
            matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
            for noise_std in _NOISE_STDS:
                measured = problem.measure(
                    key_noise, prior.sample(key_x), operator, noise_std
                )
                posterior, as_prior = _posterior(
                    prior, matrix, measured.y, noise_std, alpha_bar
                )
                words = name, task, noise_std
                yield _Case(words, prior, measured, posterior, as_prior)


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


def _draw(case, make, arguments, num_steps):
    steps = schedule.reverse_steps(case.prior.alpha_bar, num_steps)
    return validation.draw(
        jax.random.key(common.SEED.value),
        make,
        arguments,
        steps,
        case.measured,
        case.prior,
        _NUM_SAMPLES.value,
    )


def _errors(case, samples) -> dict:
    """Each error with its standard error; infinite where samples are not."""
    if samples is None:  # No setting gave finite ones.
        return {name: (np.inf, 0.0) for name in validation.Errors._fields}
    rng = np.random.default_rng(common.SEED.value)
    values, deviations = validation.errors(samples, case.posterior, rng)
    return {
        name: (float(value), float(deviation))
        for name, value, deviation in zip(
            values._fields, values, deviations, strict=True
        )
    }


def _compare(case, kept):
    """A row for each method, at its best setting."""
    num_steps = common.NUM_STEPS.value

    def floor():
        rng = np.random.default_rng(common.SEED.value + 1)
        exact_samples = case.posterior.sample(rng, _NUM_SAMPLES.value)
        return (), _errors(case, exact_samples)

    yield kept(case, 'floor', num_steps, floor)
    yield from _rows(case, kept, num_steps)


def _rows(case, kept, num_steps):
    """The rows of exact guidance and of each method that can."""

    def exact():
        samples = _draw(case, _exact, (case.as_prior,), num_steps)
        return (), _errors(case, samples)

    yield kept(case, 'exact', num_steps, exact)
    for method in _able(case):
        yield kept(
            case,
            method,
            num_steps,
            functools.partial(_at_its_best, case, method, num_steps),
        )


def _at_its_best(case, method, num_steps):
    """The setting of the least sliced distance, and its errors."""
    names, grid = _GRIDS.get(method, ((), [()]))
    make = _factory(method, names)
    best = np.inf, grid[0], None
    for numbers in grid:
        samples = np.asarray(_draw(case, make, _arrays(numbers), num_steps))
        if np.all(np.isfinite(samples)):
            rng = np.random.default_rng(common.SEED.value)
            values, _ = validation.errors(samples, case.posterior, rng, 0)
            best = min(
                best, (values.sliced, numbers, samples), key=lambda b: b[0]
            )
    _, numbers, samples = best
    return numbers, _errors(case, samples)


def _arrays(numbers):
    return tuple(jnp.asarray(number) for number in numbers)


def _errors_by_steps(cases, kept) -> dict:
    """Method to its rows at each number of steps, for one case."""
    case = next(
        c for c in cases if c.words[:2] == ('gaussian', 'gaussian_deblur')
    )
    found = {}
    for num_steps in _NUM_STEPS:
        for row in _rows(case, kept, num_steps):
            found.setdefault(row['method'], {})[num_steps] = row
    return found


def _pair(pair) -> str:
    return f'{pair[0]:.3f} +- {pair[1]:.3f}'


def _summary(rows) -> list[str]:
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


def _table(rows) -> list[str]:
    names = validation.Errors._fields
    lines = [
        '',
        'Each case:',
        '',
        f'| prior | task | noise | method | setting | {" | ".join(names)} |',
        '| --- ' * (5 + len(names)) + '|',
    ]
    for row in rows:
        setting = ', '.join(f'{number:g}' for number in row['setting'])
        numbers = ' | '.join(_pair(row[name]) for name in names)
        lines.append(
            f'| {row["prior"]} | `{row["task"]}` | {row["noise_std"]} '
            f'| `{row["method"]}` | {setting} | {numbers} |'
        )
    return lines


def _table_of_steps(by_steps) -> list[str]:
    lines = [
        '',
        f'Sliced distance by the number of steps, Gaussian prior, '
        f'`gaussian_deblur`, noise {_NOISE_STDS[0]}:',
        '',
        f'| method | {" | ".join(map(str, _NUM_STEPS))} |',
        '| --- ' * (1 + len(_NUM_STEPS)) + '|',
    ]
    for method, errors in by_steps.items():
        numbers = ' | '.join(_pair(e['sliced']) for e in errors.values())
        lines.append(f'| `{method}` | {numbers} |')
    return lines


def _plot(out, by_steps):
    names = ('mean', 'covariance', 'sliced')
    figure, axes = plots.subplots(1, 3, 7, 3.0)
    for axis, name in zip(axes[0], names, strict=True):
        for i, (method, errors) in enumerate(by_steps.items()):
            values, deviations = zip(
                *(e[name] for e in errors.values()), strict=True
            )
            axis.errorbar(
                list(errors),
                values,
                deviations,
                label=method,
                **plots.look(i),
            )
        axis.set(
            xscale='log',
            yscale='log',
            xlabel='steps',
            title=f'{name}, relative error',
        )
        # Some methods diverge, and would leave the others no room.
        axis.set_ylim(top=min(axis.get_ylim()[1], _LARGEST_SHOWN))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=7,
    )
    plots.save(figure, out, 'validation')


if __name__ == '__main__':
    common.run(main)
