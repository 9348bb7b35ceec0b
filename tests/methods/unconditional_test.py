"""The prior's own step, in all its kinds: what the other methods correct."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.unconditional import Unconditional
from tests.methods import dense


def unclipped(**settings):
    return Unconditional(transition=Transition(clip=False, **settings))


class StepTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {'variance': 'posterior'},
        {'variance': 'beta'},
        {'kind': 'ddim', 'eta': 0.3},
        {'kind': 'ddim', 'eta': 0.8},
        {'kind': 'ddim', 'eta': 1.0},
    )
    def test_it_is_that_of_the_reverse_process(self, **settings):
        case = dense.case_of('random_inpainting')
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(**settings),
                case,
                row,
                dense.prior_step(case, row, **settings),
            )

    def test_a_learned_variance_lies_between_the_two_by_its_logarithm(self):
        case = dense.case_of('random_inpainting')
        for fraction in (0.2, 0.7):
            learned = case._replace(
                prior=dense.LearnedVariance.of(case.prior, fraction)
            )
            for row in dense.ROWS[:-1]:
                level = case.at(row)
                variance = level.beta**fraction * level.posterior_variance ** (
                    1 - fraction
                )
                mean = dense.ancestral(case.estimate(level.a), case.x_t, level)
                mean.covariance = variance * np.eye(16)
                dense.assert_step(unclipped(), learned, row, mean)
            # The last step ends at the estimate, with no noise at all.
            last = case.estimate(case.at(-1).a)
            dense.assert_step(unclipped(), learned, dense.ROWS[-1], last)

    def test_a_clip_is_one_of_the_estimate(self):
        case = dense.case_of('random_inpainting')
        x_t = np.random.default_rng(0).normal(size=16)
        x_t *= 3 / np.abs(x_t).max()
        for row in dense.ROWS:
            level = case.at(row)
            jacobian, offset = (
                getattr(case.estimate(level.a), part)
                for part in ('matrix', 'offset')
            )
            # Far out at each level, so that some values lie beyond.
            far = 4 / np.abs(jacobian @ x_t).max() * x_t
            x_0 = np.clip(jacobian @ far + offset, -1, 1)
            self.assertBetween(np.mean(np.abs(x_0) == 1), 0.1, 0.9)
            for settings in ({'kind': 'ddim'}, {'kind': 'ddim', 'eta': 0.0}):
                method = Unconditional(transition=Transition(**settings))
                x_s, _, info = dense.update(method, case, row, far)
                a, b = level.a, level.b
                eps = (far - np.sqrt(a) * x_0) / np.sqrt(1 - a)
                np.testing.assert_allclose(
                    np.ravel(x_s),
                    np.sqrt(b) * x_0 + np.sqrt(1 - b) * eps,
                    atol=3e-4 * np.abs(far).max(),
                )
                self.assertAlmostEqual(info.clipped, np.mean(np.abs(x_0) == 1))

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('random_inpainting')
        for settings in ({}, {'kind': 'ddim', 'eta': 0.5}):
            steps = [
                dense.prior_step(case, row, **settings) for row in range(6)
            ]
            dense.assert_samples(unclipped(**settings), case, steps)


if __name__ == '__main__':
    absltest.main()
