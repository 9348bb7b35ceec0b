"""TMPD, against the covariance of x_0 given x_t that it takes a diagonal of."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.tmpd import TMPD
from tests.methods import dense

# As a share of 1 - alpha_bar_t; see the module.
_LEAST = 1e-3


def unclipped(**settings):
    return TMPD(**settings, transition=Transition(clip=False))


def guided(case, level, variances, strength):
    """Bayes' rule for x_0 ~ N(x0_hat, C), with C in two places: the true one
    outside of the inverse, since it is J's, and a diagonal inside."""
    x_0 = case.estimate(level.a)
    gain = case.gain(np.diag(variances))
    shift = case.posterior_covariance(level.a) @ gain @ case.residual(x_0)
    return x_0 + strength * shift


def row_sums(case, level):
    sums = case.posterior_covariance(level.a) @ np.ones(len(case.mean))
    return np.maximum(sums, _LEAST * (1 - level.a))


class StepTest(parameterized.TestCase):
    @parameterized.product(
        strength=[0.5, 1.5],
        noise_std=[0.0, 0.3],
        kind=['dense', 'random_inpainting'],
    )
    def test_a_row_sum_is_that_of_the_covariance(
        self, strength, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        # Without noise conjugate gradients need a little of it, which counts
        # where a variance is at its least.
        tolerance = 1e-2 if (kind, noise_std) == ('dense', 0.0) else 1e-3
        floors = 0
        for row in dense.ROWS:
            level = case.at(row)
            variances = row_sums(case, level)
            floors += np.mean(variances == _LEAST * (1 - level.a))
            x_0 = guided(case, level, variances, strength)
            dense.assert_step(
                unclipped(strength=strength),
                case,
                row,
                dense.ancestral(x_0, case.x_t, level),
                tolerance,
            )
        # Some pixels have a negative sum, and most have not.
        self.assertBetween(floors / len(dense.ROWS), 0.05, 0.5)

    @parameterized.product(noise_std=[0.0, 0.3], fraction=[0.3, 0.6])
    def test_a_learned_variance_is_turned_into_that_of_x_0(
        self, noise_std, fraction
    ):
        case = dense.case_of('random_inpainting', noise_std)
        learned = case._replace(
            prior=dense.LearnedVariance.of(case.prior, fraction)
        )
        for row in dense.ROWS[:-1]:
            level = case.at(row)
            total = level.beta**fraction * level.posterior_variance ** (
                1 - fraction
            )
            # x_s = w_0 x_0 + w_t x_t + noise, so its variance given x_t is
            # w_0^2 Var[x_0] and that of the noise.
            w_0 = np.sqrt(level.b) * level.beta / (1 - level.a)
            variance = (total - level.posterior_variance) / w_0**2
            x_0 = guided(case, level, np.full(16, variance), 0.7)
            x_s = dense.ancestral(x_0, case.x_t, level)
            x_s.covariance = total * np.eye(16)
            dense.assert_step(
                unclipped(strength=0.7, moment='learned'), learned, row, x_s
            )

    def test_without_a_learned_variance_it_takes_the_row_sums(self):
        case = dense.case_of('random_inpainting')
        for row in dense.ROWS:
            level = case.at(row)
            x_0 = guided(case, level, row_sums(case, level), 1.0)
            dense.assert_step(
                unclipped(moment='learned'),
                case,
                row,
                dense.ancestral(x_0, case.x_t, level),
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('random_inpainting')
        steps = []
        for row in range(6):
            level = case.at(row)
            x_0 = guided(case, level, row_sums(case, level), 0.8)
            steps.append(dense.ancestral(x_0, case.x_t, level))
        dense.assert_samples(unclipped(strength=0.8), case, steps)


class LimitTest(parameterized.TestCase):
    @parameterized.product(
        kind=['random_inpainting', 'motion_deblur'], variance=[0.1, 1.0]
    )
    def test_it_is_exact_for_an_isotropic_prior(self, kind, variance):
        case = dense.isotropic_case(kind, variance)
        for expected, found in dense.exact_and(unclipped(), case):
            np.testing.assert_allclose(found, expected, atol=2e-3)


if __name__ == '__main__':
    absltest.main()
