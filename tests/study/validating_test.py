"""Rows of validation, held against methods whose errors are known by hand."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, schedule, settings, validation
from invjax.methods import Method
from invjax.priors import gaussian
from invjax.report import validations
from invjax.study import validating
from invjax.types import LinearOperator, MaskOperator

_SHAPE = (2, 2, 1)
_LEVEL, _STD, _NOISE_STD = 0.1, 0.5, 0.2
# Of each value, given y = x + n: 1 / variance is 1 / _STD^2 + 1 / _NOISE_STD^2.
_VARIANCE = 1 / (1 / _STD**2 + 1 / _NOISE_STD**2)
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())


class _Shifted(Method):
    """Exact samples of that posterior, and all of them too high by `shift`."""

    name = 'shifted'
    validation_settings = ({'shift': 0.3}, {'shift': 0.0}, {'shift': 0.2})

    shift: settings.Number = settings.fraction(0.0)

    def update(self, key, x_t, state, step, problem, prior):
        del key, step, prior
        from invjax.methods.base import observe

        return x_t, state, observe(x_t, x_t, x_t, 0 * x_t, problem)

    def finish(self, key, x, state, problem):
        del x, state
        mean = _LEVEL / _STD**2 + problem.y / _NOISE_STD**2
        noise = jax.random.normal(key, problem.image_shape)
        return _VARIANCE * mean + jnp.sqrt(_VARIANCE) * noise + self.shift


def _shifted(**changes):
    """The same method with other class variables."""
    return type('_Shifted', (_Shifted,), {'name': 'shifted', **changes})


class _Diverging(_Shifted):
    """It has no finite sample, but for those with the second setting."""

    name = 'diverging'
    validation_settings = ({'shift': 0.0}, {'shift': 0.9})

    def finish(self, key, x, state, problem):
        x = _Shifted.finish(self, key, x, state, problem)
        return jnp.where(self.shift < 0.5, jnp.nan, x)


class _Choosy(_Shifted):
    """It needs a mask, or any linear operator by the other choice."""

    name = 'choosy'
    needs = MaskOperator
    validation_settings = ({'by': 'mask'}, {'by': 'adjoint'})

    by: str = settings.choice('mask', 'adjoint')

    def needs_of_operator(self):
        return MaskOperator if self.by == 'mask' else LinearOperator


class _Masked(_Shifted):
    name = 'masked'
    needs = MaskOperator


def _case(task='denoising', noise_std=_NOISE_STD, **parameters):
    prior = gaussian.GaussianPrior.from_covariance(
        np.full(_SHAPE, _LEVEL), _STD**2 * np.eye(4), _ALPHA_BAR
    )
    operator = operators.make_operator(
        task, jax.random.key(0), _SHAPE, **parameters
    )
    measured = problem.measure(
        jax.random.key(1), jnp.full(_SHAPE, 0.4), operator, noise_std
    )
    matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
    posterior = gaussian.gaussian_posterior(
        prior, matrix, measured.y, noise_std
    )
    as_prior = gaussian.GaussianPrior.from_covariance(
        posterior.mean, posterior.covariance, _ALPHA_BAR
    )
    return validating.Case(
        'gaussian', task, noise_std, prior, measured, posterior, as_prior
    )


class ValidateTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.enterContext(mock.patch.object(validating, 'NUM_STEPS', (2, 3)))

    def validate(self, *methods, cases=None, **asked):
        asked = {'num_steps': 2, 'num_samples': 1000, **asked}
        return validating.validate(
            cases or [_case()],
            validating.Validation(methods, **asked),
            self.folder,
        )

    def row(self, method, cls):
        found = self.validate(cls)
        (row,) = [row for row in found.rows if row['method'] == method]
        return row

    def assert_nothing_is_computed(self, *methods, **kwargs):
        with (
            mock.patch.object(validation, 'draw', side_effect=AssertionError),
            mock.patch.object(validation, 'errors', side_effect=AssertionError),
        ):
            return self.validate(*methods, **kwargs)

    def test_the_best_setting_is_shown_with_its_errors(self):
        row = self.row('shifted', _Shifted)
        self.assertEqual(row['setting'], {'shift': 0.0})
        self.assertEqual(row['tried'], list(_Shifted.validation_settings))
        for name, at_best in {
            # Of 1,000 exact samples of 4 values: a mean is off by 1 / sqrt(n)
            # of a standard deviation.
            'mean': 0.0,
            'sliced': 0.0,
            'spread': 1.0,
        }.items():
            value, error = row[name]
            self.assertLess(abs(value - at_best), 0.1)
            self.assertGreater(error, 0)

    def test_errors_are_those_of_the_method(self):
        cls = _shifted(validation_settings=({'shift': 0.3},))
        value, error = self.row('shifted', cls)['mean']
        # ||shift|| / sqrt(tr Sigma), of as many equal values.
        self.assertLess(abs(value - 0.3 / _VARIANCE**0.5), 4 * error)

    def test_the_floor_has_exact_samples_and_all_methods_the_same_keys(self):
        found = self.validate(_Shifted, _shifted(name='again'))
        methods = [row['method'] for row in found.rows]
        self.assertEqual(methods, ['floor', 'exact', 'shifted', 'again'])
        floor, _, shifted, again = found.rows
        self.assertLess(floor['sliced'][0], 0.15)
        self.assertEqual(shifted['mean'], again['mean'])

    def test_exact_guidance_nears_the_floor_with_more_steps(self):
        found = self.validate(num_steps=100)
        exact = found.by_steps['exact']
        self.assertLess(found.rows[1]['sliced'][0], 0.3)
        self.assertGreater(exact[2]['sliced'][0], found.rows[1]['sliced'][0])
        self.assertEqual(list(exact), [2, 3])

    def test_what_diverges_is_not_chosen(self):
        self.assertEqual(
            self.row('diverging', _Diverging)['setting'], {'shift': 0.9}
        )

    def test_what_always_diverges_is_infinitely_far(self):
        cls = _shifted(validation_settings=({},), finish=_Diverging.finish)
        row = self.row('shifted', cls)
        self.assertEqual(row['sliced'], [np.inf, 0])
        # Strict JSON has no infinity; what is read back does.
        text = (self.folder / 'rows.jsonl').read_text()
        self.assertNotIn('Infinity', text)
        again = self.assert_nothing_is_computed(cls)
        self.assertEqual(again.rows[-1], row)

    def test_a_method_has_rows_where_its_settings_let_it(self):
        blur = _case('gaussian_deblur', blur_size=3, blur_std=1.0)
        found = self.validate(_Choosy, _Masked, cases=[_case(), blur])
        tried = {
            (row['task'], row['method']): [s['by'] for s in row['tried']]
            for row in found.rows
            if row['method'] == 'choosy'
        }
        self.assertEqual(
            tried,
            {
                ('denoising', 'choosy'): ['mask', 'adjoint'],
                ('gaussian_deblur', 'choosy'): ['adjoint'],
            },
        )
        masked = [r['task'] for r in found.rows if r['method'] == 'masked']
        self.assertEqual(masked, ['denoising'])

    def test_another_call_finds_all_rows_and_computes_none(self):
        first = self.validate(_Shifted)
        again = self.assert_nothing_is_computed(_Shifted)
        self.assertEqual(again, first)

    def test_a_torn_row_is_computed_again_and_alone(self):
        first = self.validate(_Shifted)
        path = self.folder / 'rows.jsonl'
        whole = path.read_text()
        path.write_text(whole[:-20])
        drawn = []
        draw = validation.draw

        def counted(*arguments):
            drawn.append(arguments)
            return draw(*arguments)

        with mock.patch.object(validation, 'draw', counted):
            self.assertEqual(self.validate(_Shifted), first)
        self.assertLen(drawn, len(_Shifted.validation_settings))
        self.assertEqual(path.read_text(), whole)

    @parameterized.named_parameters(
        ('version', {'version': 2}, {}),
        ('settings', {'validation_settings': ({'shift': 0.1},)}, {}),
        ('seed', {}, {'seed': 1}),
        ('samples', {}, {'num_samples': 500}),
        ('steps', {}, {'num_steps': 3}),
    )
    def test_a_row_is_another_one_with_another(self, changes, asked):
        self.validate(_Shifted)
        with mock.patch.object(
            validating, 'best', return_value={'setting': {'shift': 0.5}}
        ):
            # What is new has no errors, by which it is told from the old.
            found = self.validate(_shifted(**changes), **asked)
        # With three steps the row is there: of the figure by steps.
        is_new = 'sliced' not in found.rows[-1]
        self.assertEqual(is_new, asked != {'num_steps': 3})

    def test_rows_of_an_earlier_protocol_are_left_alone(self):
        first = self.validate(_Shifted)
        path = self.folder / 'rows.jsonl'
        old = [
            {**json.loads(line), 'protocol': 1}
            for line in path.read_text().splitlines()
        ]
        path.write_text(''.join(json.dumps(row) + '\n' for row in old))
        self.assertEqual(self.validate(_Shifted), first)
        self.assertLen(path.read_text().splitlines(), 2 * len(old))

    def test_a_number_of_steps_that_there_is_not_is_refused_first(self):
        with self.assertRaisesRegex(ValueError, 'num_steps'):
            validating.Validation(num_steps='many')

    @parameterized.parameters(
        ({'priors': ['laplace']}, "one of gaussian, .*, got 'laplace'"),
        # Of one channel jpeg is not defined, and not linear either.
        ({'tasks': ['jpeg']}, "one of gaussian_deblur, .*, got 'jpeg'"),
        ({'num_measurements': 99}, '100 or more.* or 0, got 99'),
    )
    def test_what_there_is_not_is_refused(self, asked, words):
        with self.assertRaisesRegex(ValueError, words):
            validating.Validation(**asked)

    def test_a_posterior_without_closed_form_has_no_exact_guidance(self):
        case = _case()._replace(as_prior=None)
        found = self.validate(_Shifted, cases=[case])
        methods = [row['method'] for row in found.rows]
        self.assertEqual(methods, ['floor', 'shifted'])


class CasesTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cases = list(validating.cases(validating.Validation(seed=3)))

    def test_each_prior_and_linear_task_is_there_at_each_noise(self):
        names = [case[:3] for case in self.cases]
        self.assertLen(set(names), len(names))
        self.assertLen(names, 42)
        for case in self.cases:
            self.assertIsInstance(case.measured.operator, LinearOperator)
            self.assertAlmostEqual(
                float(case.measured.noise_std), case.noise_std
            )

    def test_the_posterior_is_that_of_the_measurement(self):
        case = next(
            c for c in self.cases if c[:2] == ('gaussian', 'box_inpainting')
        )
        forward = case.measured.operator.forward
        # A, a column at a time, and the normal equations in float64.
        matrix = np.stack(
            [
                np.asarray(forward(unit.reshape(8, 8, 1))).ravel()
                for unit in np.eye(64, dtype=np.float32)
            ],
            axis=1,
        ).astype(np.float64)
        rows, columns = np.divmod(np.arange(64), 8)
        distances = np.hypot(
            np.subtract.outer(rows, rows), np.subtract.outer(columns, columns)
        )
        covariance = 0.09 * (np.exp(-distances / 2) + 0.02 * np.eye(64))
        variance = case.noise_std**2
        precision = np.linalg.inv(covariance) + matrix.T @ matrix / variance
        expected = np.linalg.inv(precision)
        np.testing.assert_allclose(
            case.posterior.covariance, expected, atol=1e-6
        )
        y = np.asarray(case.measured.y, np.float64).ravel()
        mean = np.linalg.solve(
            precision,
            np.linalg.solve(covariance, np.full(64, 0.4))
            + matrix.T @ y / variance,
        )
        np.testing.assert_allclose(case.posterior.mean.ravel(), mean, atol=1e-5)

    def test_the_priors_have_the_same_mean_and_deviation(self):
        # The mixture's two levels are 0.4 to either side of zero.
        samples = {
            case.prior_name: np.asarray(
                jax.vmap(case.prior.sample)(
                    jax.random.split(jax.random.key(0), 2000)
                )
            )
            for case in self.cases
        }
        for name in ('gaussian', 'student_t'):
            # 64 correlated pixels of 2,000 images; each has 0.3 sqrt(1.02).
            self.assertAlmostEqual(samples[name].mean(), 0.4, delta=0.02)
            self.assertAlmostEqual(
                np.std(samples[name] - 0.4), 0.303, delta=0.01
            )

    def test_cases_are_those_that_are_asked_for(self):
        asked = validating.Validation(
            priors=['student_t'], tasks=['denoising', 'box_inpainting']
        )
        names = [case[:2] for case in validating.cases(asked)]
        self.assertEqual(
            list(dict.fromkeys(names)),
            [('student_t', 'denoising'), ('student_t', 'box_inpainting')],
        )

    def test_another_seed_measures_another_image(self):
        other = next(validating.cases(validating.Validation(seed=4)))
        self.assertGreater(
            np.abs(other.measured.y - self.cases[0].measured.y).max(), 0.05
        )


class SettingsTest(absltest.TestCase):
    def test_each_method_can_try_what_it_declares(self):
        for cls in validating.Validation.methods:
            for setting in cls.validation_settings:
                cls.of({**setting}).check(1000)
            self.assertNotEmpty(cls.validation_settings)
            kept = json.loads(json.dumps(list(cls.validation_settings)))
            self.assertEqual(kept, [dict(s) for s in cls.validation_settings])


def _row(method, values, prior='gaussian', setting=None):
    mean, covariance, sliced, spread, tails = values
    return {
        'prior': prior,
        'task': 'denoising',
        'noise_std': 0.1,
        'method': method,
        'setting': setting or {},
        'mean': [mean, 0.01],
        'covariance': [covariance, 0.02],
        'sliced': [sliced, 0.03],
        'spread': [spread, 0.04],
        'tails': [tails, 0.05],
    }


class TablesTest(absltest.TestCase):
    def test_the_summary_has_medians_and_how_many_cases(self):
        rows = [
            _row('dps', (1.0, 10.0, 5.0, 0.9, 0.7)),
            _row('dps', (3.0, 20.0, 4.0, 0.8, 0.5)),
            _row('dps', (2.0, 90.0, 6.0, 0.1, 0.6)),
            _row('repaint', (7.0, 8.0, 9.0, 1.0, 1.0)),
            _row('mcg', (np.inf, 8.0, 9.0, 1.0, 1.0)),
        ]
        self.assertEqual(
            validations.summary(rows)[2:],
            [
                '| method | cases | mean | covariance | sliced | spread '
                '| tails |',
                '| --- | --- | --- | --- | --- | --- | --- |',
                '| `dps` | 3 | 2.000 | 20.000 | 5.000 | 0.800 | 0.600 |',
                '| `repaint` | 1 | 7.000 | 8.000 | 9.000 | 1.000 | 1.000 |',
                '| `mcg` | 1 | inf | 8.000 | 9.000 | 1.000 | 1.000 |',
            ],
        )

    def test_each_case_has_its_errors_and_its_setting(self):
        rows = [
            _row('dps', (1, 2, 3, 4, 5), setting={'zeta': 0.3}),
            _row('floor', (0.1, 0.2, 0.3, 0.4, 0.5), prior='mixture'),
        ]
        errors = '1.000 +- 0.010 | 2.000 +- 0.020 | 3.000 +- 0.030'
        dps, floor = validations.table(rows)[5:]
        self.assertEqual(
            dps,
            '| gaussian | `denoising` | 0.1 | `dps` | zeta 0.3 '
            f'| {errors} | 4.000 +- 0.040 | 5.000 +- 0.050 |',
        )
        self.assertStartsWith(floor, '| mixture | `denoising` | 0.1 | `floor`')

    def test_distances_stand_under_their_number_of_steps(self):
        by_steps = {
            'exact': {n: _row('exact', (0, 0, n / 10, 0, 0)) for n in (10, 30)},
            'dps': {n: _row('dps', (0, 0, n, 0, 0)) for n in (10, 30)},
        }
        lines = validations.table_of_steps(by_steps)
        self.assertIn('gaussian prior, `denoising`, noise 0.1', lines[1])
        self.assertEqual(
            lines[3:],
            [
                '| method | 10 | 30 |',
                '| --- | --- | --- |',
                '| `exact` | 1.000 +- 0.030 | 3.000 +- 0.030 |',
                '| `dps` | 10.000 +- 0.030 | 30.000 +- 0.030 |',
            ],
        )

    def test_of_no_method_there_is_nothing_by_the_number_of_steps(self):
        self.assertEmpty(validations.table_of_steps({}))
        with mock.patch.object(validations.figures, 'save') as save:
            validations.draw(pathlib.Path('folder'), {})
        save.assert_not_called()

    def test_the_figure_draws_each_error_by_the_number_of_steps(self):
        by_steps = {
            'dps': {
                n: _row('dps', (1 / n, 2 / n, 3 / n, 1, 1)) for n in (10, 30)
            }
        }
        with mock.patch.object(validations.figures, 'save') as save:
            validations.draw(pathlib.Path('folder'), by_steps)
        figure, folder, name = save.call_args.args
        self.assertEqual((str(folder), name), ('folder', 'validation'))
        for axis, error, factor in zip(
            figure.axes,
            ('mean', 'covariance', 'sliced'),
            (1, 2, 3),
            strict=True,
        ):
            self.assertStartsWith(axis.get_title(), error)
            x, y = np.asarray(axis.lines[0].get_data(), float)
            np.testing.assert_array_equal(x, [10, 30])
            np.testing.assert_allclose(y, [factor / 10, factor / 30])


if __name__ == '__main__':
    absltest.main()
