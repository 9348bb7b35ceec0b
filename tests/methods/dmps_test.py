"""DMPS, against the likelihood of the noisy image under a flat prior."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.dmps import DMPS
from tests.methods import dense


def unclipped(strength):
    return DMPS(strength, transition=Transition(clip=False))


def expected(case, row, strength):
    """Under a flat prior y is A x_t / sqrt(a) and normal noise, whose variance
    is that of the measurement and that of x_0; its log density is quadratic."""
    level = case.at(row)
    a = level.a
    seen = (1 / np.sqrt(a)) * case.matrix
    inner = (1 - a) / a * case.matrix @ case.matrix.T
    inner += case.noise_std**2 * np.eye(len(inner))
    precision = np.linalg.pinv(inner, 1e-6, hermitian=True)
    score = seen.T @ precision @ (case.y - seen @ case.x_t)
    x_s = dense.ancestral(case.estimate(a), case.x_t, level)
    return x_s + (strength * level.beta / np.sqrt(1 - level.beta)) * score


class StepTest(parameterized.TestCase):
    @parameterized.product(
        strength=[0.5, 1.2],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_goes_up_the_likelihood(self, strength, noise_std, kind):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(strength), case, row, expected(case, row, strength)
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        steps = [expected(case, row, 0.5) for row in range(6)]
        dense.assert_samples(unclipped(0.5), case, steps)


if __name__ == '__main__':
    absltest.main()
