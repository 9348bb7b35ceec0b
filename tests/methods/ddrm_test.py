"""DDRM, one singular value at a time, in the variance-exploding frame."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.diffusion import Transition
from invjax.methods.ddrm import DDRM
from tests.methods import dense

_KINDS = ('super_resolution', 'gaussian_deblur', 'motion_deblur')


def unclipped(**settings):
    return DDRM(**settings, transition=Transition(clip=False))


def decomposed(case):
    left, singular, right = np.linalg.svd(case.matrix)
    return left, np.pad(singular, (0, len(right) - len(singular))), right


def start(case):
    """Kawar et al. (2022), eq. 6, as a map of no x."""
    left, singular, right = decomposed(case)
    level = case.at(0)
    sigma = np.sqrt((1 - level.a) / level.a)
    measured = left.T @ case.y
    mean, variance = np.zeros(16), np.full(16, sigma**2)
    for i, value in enumerate(singular):
        if value > 0 and case.noise_std < sigma * value:
            mean[i] = measured[i] / value
            variance[i] = sigma**2 - (case.noise_std / value) ** 2
    x = dense.Affine(np.zeros((16, 1)), mean, np.diag(variance))
    return np.sqrt(level.a) * (right.T @ x)


def expected(case, row, eta_a, eta_b):
    """Their eq. 7 and 8; eta_a is their eta."""
    left, singular, right = decomposed(case)
    level = case.at(row)
    sigma_t, sigma_s = (np.sqrt((1 - a) / a) for a in (level.a, level.b))
    x = right @ ((1 / np.sqrt(level.a)) * case.x_t)
    x_0 = right @ case.estimate(level.a)
    measured = left.T @ case.y
    matrix, offset, variance = np.zeros((16, 16)), np.zeros(16), np.zeros(16)
    for i, value in enumerate(singular):
        pick = np.eye(16)[i : i + 1]
        clean, noisy = pick @ x_0, pick @ x
        y_std = case.noise_std / value if value > 1e-9 else np.inf
        y = measured[i : i + 1] / value if value > 1e-9 else None
        kept = np.sqrt(1 - eta_a**2) * sigma_s
        if y is None:
            mean = clean + (kept / sigma_t) * (noisy - clean)
            variance[i] = (eta_a * sigma_s) ** 2
        elif y_std > sigma_s:
            mean = clean + (kept / y_std) * (y - clean)
            variance[i] = (eta_a * sigma_s) ** 2
        else:
            mean = (1 - eta_b) * clean + eta_b * y
            variance[i] = sigma_s**2 - (eta_b * y_std) ** 2
        matrix[i], offset[i] = mean.matrix[0], mean.offset[0]
    moved = dense.Affine(matrix, offset, np.diag(variance))
    return np.sqrt(level.b) * (right.T @ moved)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[{'eta_a': 0.4, 'eta_b': 0.7}, {'eta_a': 0.95, 'eta_b': 0.2}],
        noise_std=[0.0, 0.3],
        kind=_KINDS,
    )
    def test_each_direction_is_denoised_for_itself(
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

    @parameterized.product(noise_std=[0.0, 0.3], kind=_KINDS)
    def test_it_starts_at_y_with_noise_to_the_first_level(
        self, noise_std, kind
    ):
        # From t = 200, where y and noise are of one size. At the level of pure
        # noise a wrong share of y would not show.
        case = dense.case_of(kind, noise_std)
        case = case._replace(steps=schedule.Steps(*(f[4:] for f in case.steps)))
        drawn = jax.vmap(
            lambda key: DDRM().start(key, case.problem, case.steps)[0]
        )(jax.random.split(dense.KEY, 20_000))
        begin = start(case)
        dense.assert_moments(drawn, begin.offset, begin.covariance)

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('super_resolution')
        settings = {'eta_a': 0.4, 'eta_b': 0.7}
        steps = [expected(case, row, **settings) for row in range(6)]
        dense.assert_samples(unclipped(**settings), case, steps, start(case))


if __name__ == '__main__':
    absltest.main()
