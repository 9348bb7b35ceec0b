"""Pseudo-inverse guidance, against the score that it stands for."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.pigdm import PiGDM
from tests.methods import dense


def unclipped(**settings):
    return PiGDM(**settings, transition=Transition(clip=False))


def likelihood_score(case, level, spread):
    """grad log N(y; A x0_hat, r_t^2 A A^T + sigma^2 I), r_t^2 held."""
    variance = spread**2 * (1 - level.a)
    x0_hat = case.estimate(level.a)
    gain = case.gain(variance)
    return case.jacobian(level.a) @ gain @ case.residual(x0_hat)


def guided_estimate(case, level, strength, spread):
    """Tweedie's formula with the likelihood's score added to the prior's."""
    a = level.a
    marginal = a * case.covariance + (1 - a) * np.eye(len(case.mean))
    score = -np.linalg.inv(marginal) @ (case.x_t - np.sqrt(a) * case.mean)
    score += strength * likelihood_score(case, level, spread)
    return (1 / np.sqrt(a)) * (case.x_t + (1 - a) * score)


def expected(case, row, strength=1.0, spread=1.0):
    level = case.at(row)
    x_0 = guided_estimate(case, level, strength, spread)
    return dense.ancestral(x_0, case.x_t, level)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[
            {'strength': 0.6, 'spread': 0.5},
            {'strength': 1.7, 'spread': 1.4},
        ],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_adds_the_score_of_the_likelihood(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(**settings),
                case,
                row,
                expected(case, row, **settings),
            )

    @parameterized.product(
        settings=[
            {'strength': 0.6, 'spread': 0.5},
            {'strength': 1.7, 'spread': 1.4},
        ],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_that_of_the_paper_is_corrected_after_the_step(
        self, settings, noise_std, kind
    ):
        # Song et al. (2023), Algorithm 1: x_s + sqrt(alpha_bar_t) r_t^2 g.
        case = dense.case_of(kind, noise_std)
        strength, spread = settings['strength'], settings['spread']
        for row in dense.ROWS:
            level = case.at(row)
            variance = spread**2 * (1 - level.a)
            guidance = likelihood_score(case, level, spread)
            guidance = (strength * np.sqrt(level.a) * variance) * guidance
            dense.assert_step(
                unclipped(**settings, weighting='paper'),
                case,
                row,
                dense.prior_step(case, row) + guidance,
            )

    def test_that_of_the_paper_clips_the_estimate_alone(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        level = case.at(5)
        x_0 = case.estimate(level.a)
        x_0 = x_0.matrix @ x_t + x_0.offset
        self.assertGreater(np.abs(x_0).max(), 1.2)
        score = likelihood_score(case, level, 1.0)
        score = score.matrix @ x_t + score.offset
        x_s, _, _ = dense.update(PiGDM(20.0, weighting='paper'), case, 5, x_t)
        guidance = 20 * np.sqrt(level.a) * (1 - level.a) * score
        np.testing.assert_allclose(
            np.ravel(x_s), np.clip(x_0, -1, 1) + guidance, atol=1e-3
        )

    def test_both_estimates_are_clipped(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        x_0 = guided_estimate(case, case.at(5), 1.0, 1.0)
        x_0 = x_0.matrix @ x_t + x_0.offset
        self.assertGreater(np.abs(x_0).max(), 1.2)
        x_s, _, _ = dense.update(PiGDM(), case, 5, x_t)
        np.testing.assert_allclose(
            np.ravel(x_s), np.clip(x_0, -1, 1), atol=1e-3
        )

    def test_the_step_is_the_one_that_the_transition_says(self):
        case = dense.case_of('gaussian_deblur')
        method = PiGDM(transition=Transition(kind='ddim', eta=0.4, clip=False))
        for row in dense.ROWS:
            level = case.at(row)
            x_0 = guided_estimate(case, level, 1.0, 1.0)
            dense.assert_step(
                method, case, row, dense.ddim(x_0, case.x_t, level, 0.4)
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        settings = {'strength': 0.6, 'spread': 0.5}
        steps = [expected(case, row, **settings) for row in range(6)]
        dense.assert_samples(unclipped(**settings), case, steps)


class LimitTest(parameterized.TestCase):
    @parameterized.parameters(
        'random_inpainting', 'motion_deblur', 'super_resolution', 'dense'
    )
    def test_it_is_exact_for_a_prior_of_unit_variance(self, kind):
        case = dense.isotropic_case(kind, 1.0)
        for expected, found in dense.exact_and(unclipped(), case):
            np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_it_is_not_exact_for_another_variance(self):
        case = dense.isotropic_case('random_inpainting', 0.1)
        differences = [
            np.abs(found - expected).max()
            for expected, found in dense.exact_and(unclipped(), case)
        ]
        self.assertGreater(max(differences), 0.02)


if __name__ == '__main__':
    absltest.main()
