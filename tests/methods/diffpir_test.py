"""DiffPIR, against the normal equations of its inner problem."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.diffpir import DiffPIR
from tests.methods import dense


def unclipped(**settings):
    return DiffPIR(**settings, transition=Transition(clip=False))


def solved(case, x0_hat, rho):
    """argmin ||y - A z||^2 + rho ||z - x0_hat||^2."""
    if rho == 0:
        # The limit: of all z that explain y, the nearest.
        inverse = np.linalg.pinv(case.matrix, 1e-4)
        return x0_hat + inverse @ case.residual(x0_hat)
    normal = case.matrix.T @ case.matrix + rho * np.eye(len(case.mean))
    right = case.matrix.T @ case.y + rho * x0_hat
    return np.linalg.inv(normal) @ right


def expected(case, row, lam, mix):
    level = case.at(row)
    noise_to_signal = (1 - level.a) / level.a
    rho = lam * case.noise_std**2 / noise_to_signal
    z = solved(case, case.estimate(level.a), rho)
    return dense.renoised(z, case.x_t, level, mix)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[{'lam': 0.4, 'mix': 0.6}, {'lam': 8.0, 'mix': 0.1}],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_solves_the_inner_problem_and_noises_again(
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

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        settings = {'lam': 0.4, 'mix': 0.6}
        steps = [expected(case, row, **settings) for row in range(6)]
        dense.assert_samples(unclipped(**settings), case, steps)


if __name__ == '__main__':
    absltest.main()
