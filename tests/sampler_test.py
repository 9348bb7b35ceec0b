"""The sampler against a distribution that it must reach, and against itself."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch, operators, problem, sampler, schedule
from invjax.diffusion import Transition
from invjax.methods.dps import DPS
from invjax.methods.reddiff import REDDiff
from invjax.methods.sdedit import SDEdit
from invjax.methods.tds import TDS
from invjax.methods.unconditional import Unconditional
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (4, 4, 1)
PRIOR = gaussian.GaussianPrior.isotropic(np.full(SHAPE, 0.2), 0.1, ALPHA_BAR)
KEY = jax.random.key(0)
# One number of steps for all tests, so that they share compiled programs.
STEPS = schedule.reverse_steps(ALPHA_BAR, 10)  # t = 999, 888, ..., 0


@jax.jit
def run(key, carry, steps, measured, method):
    return sampler.run(key, carry, steps, measured, PRIOR, method)


def make_problem():
    operator = operators.make_operator('random_inpainting', KEY, SHAPE)
    x_0 = PRIOR.sample(jax.random.key(1))
    return problem.measure(jax.random.key(2), x_0, operator, 0.1)


def started(method):
    return sampler.start(KEY, STEPS, make_problem(), method)


class DistributionTest(parameterized.TestCase):
    @parameterized.parameters(
        {'kind': 'ddpm', 'variance': 'posterior'},
        {'kind': 'ddpm', 'variance': 'beta'},
        {'kind': 'ddim', 'eta': 0.0},
        {'kind': 'ddim', 'eta': 1.0},
    )
    def test_unconditional_samples_have_the_mean_and_variance_of_the_prior(
        self, **settings
    ):
        # Two pixels that go together, and two alone, narrow and wide.
        mean = np.array([-0.5, 0.0, 0.3, 1.0]).reshape(2, 2, 1)
        covariance = np.diag([0.2, 0.2, 0.1, 1.0])
        covariance[0, 1] = covariance[1, 0] = 0.15
        prior = gaussian.GaussianPrior.from_covariance(
            mean, covariance, ALPHA_BAR
        )
        number = 4000
        method = Unconditional(transition=Transition(clip=False, **settings))
        lanes = batch.make_lanes(
            KEY,
            [problem.nothing_measured(mean.shape)],
            [method],
            num_samples=number,
        )
        result = batch.run_lanes(
            lanes, prior, 500, max_lanes=number, stretch=500
        )
        samples = result.x.reshape(number, 4)
        std = np.sqrt(np.diag(covariance))
        # Four standard errors, and for 500 steps in place of a continuum 4 %
        # of the variance and of the deviation of the mean.
        standard_error = 4 / np.sqrt(number)
        bound = (standard_error + 0.01) * std
        error = np.abs(samples.mean(axis=0) - mean.ravel())
        self.assertTrue(np.all(error < bound), (error, bound))
        error = np.abs(np.cov(samples.T) - covariance)
        bound = (np.sqrt(2) * standard_error + 0.04) * np.outer(std, std)
        self.assertTrue(np.all(error < bound), (error, bound))


class StretchesTest(parameterized.TestCase):
    @parameterized.parameters(
        # One that skips steps, one with a gradient, two with a state.
        *((method, 4) for method in (SDEdit(), DPS(), REDDiff(), TDS())),
        (DPS(), 1),
        (DPS(), 5),
    )
    def test_stretches_are_one_scan_bit_for_bit(self, method, length):
        measured = make_problem()
        carry = started(method)
        (whole, _), whole_info = run(KEY, carry, STEPS, measured, method)
        infos = []
        cuts, _ = schedule.stretches(STEPS, length)
        for cut in cuts:
            carry, info = run(KEY, carry, cut, measured, method)
            infos.append(info)
        np.testing.assert_array_equal(carry[0], whole)
        for parts, values in zip(
            zip(*infos, strict=True), whole_info, strict=True
        ):
            np.testing.assert_array_equal(np.concatenate(parts)[:10], values)

    def test_a_row_that_is_not_active_changes_nothing(self):
        carry = started(DPS())
        idle = STEPS._replace(active=np.zeros(10, bool))
        (x, _), info = run(KEY, carry, idle, make_problem(), DPS())
        np.testing.assert_array_equal(x, carry[0])
        for values in info:
            np.testing.assert_array_equal(values, 0)

    def test_noise_is_the_same_when_the_top_steps_are_left_out(self):
        # SDEdit waits above tau, so leaving those rows out must change nothing
        # but what the steps below draw, if they drew by their number.
        method = SDEdit(400)
        carry = started(method)
        measured = make_problem()
        (whole, _), _ = run(KEY, carry, STEPS, measured, method)
        (cut,), num_skipped = schedule.stretches(STEPS, 10, first_t=400)
        self.assertEqual(num_skipped, 6)
        (x, _), _ = run(KEY, carry, cut, measured, method)
        np.testing.assert_array_equal(x, whole)

    def test_sample_is_start_run_and_finish(self):
        measured = make_problem()
        for method in (DPS(), TDS(particles=3)):
            x_0, _ = jax.jit(
                lambda key, method=method: sampler.sample(
                    key, STEPS, measured, PRIOR, method
                )
            )(KEY)
            carry, _ = run(KEY, started(method), STEPS, measured, method)
            x = sampler.finish(KEY, carry, measured, method)
            self.assertEqual(x_0.shape, SHAPE)
            np.testing.assert_allclose(x_0, x, atol=1e-5)

    def test_another_key_draws_another_sample(self):
        method = Unconditional()
        carry, measured = started(method), make_problem()
        first, second = (
            run(key, carry, STEPS, measured, method)
            for key in jax.random.split(KEY)
        )
        self.assertGreater(np.abs(first[0][0] - second[0][0]).max(), 1e-3)

    def test_each_step_has_noise_of_its_own(self):
        # Of one key for all steps, two steps from zero under a prior that
        # predicts nothing would add the same noise.
        method = Unconditional(transition=Transition('ddim', eta=1.0))
        carry = (np.zeros(SHAPE, np.float32), ())
        rows = [schedule.Steps(*(f[i : i + 1] for f in STEPS)) for i in (4, 5)]
        one, other = (
            np.ravel(run(KEY, carry, row, make_problem(), method)[0][0])
            for row in rows
        )
        correlation = np.corrcoef(one, other)[0, 1]
        self.assertLess(abs(correlation), 0.9)


if __name__ == '__main__':
    absltest.main()
