"""Ranks over many measurements, of samplers that are exact or wrong."""

import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import (
    calibration,
    operators,
    problem,
    schedule,
    settings,
    validation,
)
from invjax.methods import Method
from invjax.methods.base import observe
from invjax.priors import gaussian, student_t
from invjax.report import validations
from invjax.study import calibrating, validating

_SHAPE = (2, 2, 1)
_LEVEL, _STD, _NOISE_STD = 0.1, 0.5, 0.2
_VARIANCE = 1 / (1 / _STD**2 + 1 / _NOISE_STD**2)
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())


class _Scaled(Method):
    """Samples of the Gaussian posterior, spread by `factor` around its mean."""

    name = 'scaled'

    factor: settings.Number = settings.not_negative(1.0)

    def update(self, key, x_t, state, step, problem, prior):
        del key, step, prior
        return x_t, state, observe(x_t, x_t, x_t, 0 * x_t, problem)

    def finish(self, key, x, state, problem):
        del x, state
        mean = _VARIANCE * (_LEVEL / _STD**2 + problem.y / _NOISE_STD**2)
        noise = jax.random.normal(key, problem.image_shape)
        return mean + self.factor * jnp.sqrt(_VARIANCE) * noise


class _Diverging(_Scaled):
    name = 'diverging'

    def finish(self, key, x, state, problem):
        x = _Scaled.finish(self, key, x, state, problem)
        return jnp.where(problem.y > 0.4, jnp.nan, x)


def _case(heavy_tailed=False, task='denoising', noise_std=_NOISE_STD):
    mean = np.full(_SHAPE, _LEVEL)
    variances = np.full(4, _STD**2)
    if heavy_tailed:
        prior = student_t.StudentTPrior.from_basis(
            mean, np.eye(4), variances, 3.0, _ALPHA_BAR
        )
    else:
        prior = gaussian.GaussianPrior.from_covariance(
            mean, np.diag(variances), _ALPHA_BAR
        )
    operator = operators.make_operator(task, jax.random.key(0), _SHAPE)
    # Far from what the others measure: its posterior is none of theirs.
    measured = problem.measure(
        jax.random.key(1), jnp.full(_SHAPE, -1.0), operator, noise_std
    )
    return validating.Case(
        'student_t' if heavy_tailed else 'gaussian',
        task,
        noise_std,
        prior,
        measured,
        *validating.posterior_of(
            prior, validating.dense(operator), measured.y, noise_std
        ),
    )


def _row(method, setting=None, case=None, num_steps='2'):
    case = case or _case()
    return {
        'protocol': 3,
        'prior': case.prior_name,
        'task': case.task,
        'noise_std': case.noise_std,
        'method': method,
        'version': 1,
        'num_steps': num_steps,
        'num_samples': 1000,
        'seed': 0,
        'tried': [{}, setting or {}],
        'setting': setting or {},
        **{name: [0, 0] for name in validation.Errors._fields},
    }


class CalibrateTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.enterContext(
            mock.patch.object(calibrating, 'TASKS', ['denoising'])
        )
        self.enterContext(
            mock.patch.object(calibrating, 'NOISE_STD', _NOISE_STD)
        )

    def calibrate(self, *rows, cases=None, **asked):
        asked = {'num_steps': 2, 'num_measurements': 400, **asked}
        return calibrating.calibrate(
            cases or [_case()],
            rows,
            validating.Validation((_Scaled, _Diverging), **asked),
            self.folder,
        )

    def readings(self, row):
        counts = [np.array(counts) for counts in row['ranks'].values()]
        return [calibration.reading(c, len(counts)) for c in counts]

    def test_exact_samples_have_uniform_ranks(self):
        heavy = _case(heavy_tailed=True)
        found = self.calibrate(
            _row('floor'),
            _row('scaled', {'factor': 1.0}),
            _row('floor', case=heavy),
            cases=[_case(), heavy],
        )
        self.assertLen(found, 3)
        for row in found:
            self.assertEqual(list(row['ranks']), list(calibrating.NAMES))
            for counts in row['ranks'].values():
                self.assertLen(counts, 20)
                self.assertEqual(sum(counts), 400)
            self.assertEqual(set(self.readings(row)), {calibration.UNIFORM})
            density = np.array(row['ranks'][calibrating.DENSITY])
            shares = calibration.highest_density_coverage(density)
            for level, share in zip(calibration.LEVELS, shares, strict=True):
                error = np.sqrt(level * (1 - level) / 400)
                self.assertLess(abs(share - level), 4 * error)

    @parameterized.parameters(
        (0.6, calibration.TOO_SURE, calibration.TOO_HIGH),
        (1.6, calibration.TOO_WIDE, calibration.TOO_LOW),
    )
    def test_a_wrong_spread_is_found(self, factor, words, of_density):
        (row,) = self.calibrate(_row('scaled', {'factor': factor}))
        self.assertEqual(row['setting'], {'factor': factor})
        *readings, density = self.readings(row)
        # The squared norm of samples that are spread is also too large.
        readings.pop(calibrating.NAMES.index('squared norm'))
        self.assertEqual(set(readings), {words})
        self.assertEqual(density, of_density)

    def test_a_light_tailed_answer_to_a_heavy_tailed_prior_is_found(self):
        # The posterior of the Gaussian with the same mean and variances.
        heavy = _case(heavy_tailed=True)
        (row,) = self.calibrate(_row('scaled', case=heavy), cases=[heavy])
        self.assertNotEqual(set(self.readings(row)), {calibration.UNIFORM})

    def test_exact_guidance_is_given_the_posterior_of_each_measurement(self):
        (row,) = self.calibrate(
            _row('exact', num_steps='100'), num_steps=100, num_measurements=200
        )
        # Its steps leave it a little too sure; another's posterior is far off.
        for name in ('mean', 'pixel 1', 'pixel 4'):
            counts = np.array(row['ranks'][name])
            self.assertGreater(calibration.p_value(counts), 1e-3)

    def test_samples_that_are_not_finite_have_no_ranks(self):
        (row,) = self.calibrate(_row('diverging'))
        self.assertEqual(row['ranks'], {})

    def test_another_call_computes_nothing(self):
        rows = _row('floor'), _row('scaled')
        first = self.calibrate(*rows)
        with mock.patch.object(
            calibrating, '_compute', side_effect=AssertionError
        ):
            self.assertEqual(self.calibrate(*rows), first)
        with mock.patch.object(
            calibrating, '_compute', return_value={'ranks': {}}
        ):
            for changes in ({'num_measurements': 500}, {}):
                setting = {} if changes else {'factor': 2.0}
                (row,) = self.calibrate(_row('scaled', setting), **changes)
                self.assertEqual(row['ranks'], {})

    def test_the_cases_are_of_some_tasks_at_one_noise_level(self):
        with mock.patch.object(
            calibrating, '_compute', return_value={'ranks': {}}
        ):
            for case in (_case(task='random_inpainting'), _case(noise_std=0.3)):
                self.assertEmpty(
                    self.calibrate(_row('floor', case=case), cases=[case])
                )
            self.assertEmpty(self.calibrate(_row('floor'), num_measurements=0))
            self.assertLen(self.calibrate(_row('floor')), 1)


class RanksReportTest(absltest.TestCase):
    def rows(self):
        uniform = {name: [10] * 20 for name in calibrating.NAMES}
        sure = {name: [50, 30] + [2] * 16 + [38, 50] for name in uniform}
        row = {
            'prior': 'gaussian',
            'task': 'denoising',
            'num_measurements': 200,
        }
        return [
            {**row, 'method': 'floor', 'ranks': uniform},
            {
                **row,
                'method': 'dps',
                'ranks': {
                    **uniform,
                    'pixel 2': sure['mean'],
                    'pixel 3': sure['mean'],
                    'mean': [0] * 18 + [100, 100],
                    calibrating.DENSITY: [150, 30, 20] + [0] * 17,
                },
            },
            {**row, 'method': 'mcg', 'ranks': {}},
        ]

    def test_the_table_says_what_is_wrong_in_words(self):
        lines = validations.table_of_ranks(self.rows())
        self.assertIn('each of 200 measurements', lines[1])
        start = '| gaussian | `denoising` |'
        self.assertEqual(
            lines[3:],
            [
                '| prior | task | method | p | samples are | 50% | 80% | 90% '
                '| 95% |',
                '| --- ' * 9 + '|',
                f'{start} `floor` | 1 | as they should be | 0.500 | 0.800 '
                '| 0.900 | 0.950 |',
                # A truth at rank 0 has all samples denser, and 19 are as many
                # as 95 % of 20 places: outside of all.
                f'{start} `dps` | < 1e-6 | too sure (2 pixels, log density); '
                'too low (mean) | 0.000 | 0.000 | 0.100 | 0.250 |',
                f'{start} `mcg` |  | not finite |  |  |  |  |',
            ],
        )
        self.assertEmpty(validations.table_of_ranks([]))

    def test_the_figure_has_a_panel_for_each_method_and_its_histograms(self):
        with mock.patch.object(validations.figures, 'save') as save:
            validations.draw_ranks(pathlib.Path('folder'), [])
            save.assert_not_called()
            validations.draw_ranks(pathlib.Path('folder'), self.rows())
        figure, _, name = save.call_args.args
        self.assertEqual(name, 'ranks')
        self.assertLen(figure.axes, 3)
        for axis, row in zip(figure.axes, self.rows(), strict=True):
            self.assertStartsWith(axis.get_title(), row['method'])
            drawn = [line.get_ydata().tolist() for line in axis.lines]
            self.assertEqual(drawn, list(row['ranks'].values()))
        # 200 truths at 20 places: 10 expected, and the band holds 99 of 100.
        band = figure.axes[0].patches[0]
        self.assertBetween(band.get_y(), 2, 4)
        self.assertBetween(band.get_y() + band.get_height(), 17, 20)


if __name__ == '__main__':
    absltest.main()
