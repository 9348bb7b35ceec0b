"""ScoreALD: weights worked by hand, and the step that they belong to."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.score_ald import ScoreALD
from invjax.methods.unconditional import Unconditional
from invjax.operators.mask import Mask
from tests.methods import dense

_INFINITY = float('inf')


def expected(case, row, gamma_0, gamma_T, equation):
    """x_s - w_t grad ||y - A x_t||^2, with gamma on a line over t / (T - 1)."""
    level = case.at(row)
    gamma = np.interp(level.t, [0, 999], [gamma_0, gamma_T])
    weight = {
        '11': 1 / (2 * gamma),
        '10': 1 / (case.noise_std**2 + gamma**2),
    }[equation]
    x_s = dense.ancestral(case.estimate(level.a), case.x_t, level)
    gradient = 2 * case.matrix.T @ (case.matrix @ case.x_t - case.y)
    return x_s - weight * gradient


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[
            {'gamma_0': 2.0, 'gamma_T': 6.0},
            {'gamma_0': 5.0, 'gamma_T': 0.8},
        ],
        equation=['10', '11'],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_goes_down_the_distance_of_x_t(
        self, settings, equation, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        method = ScoreALD(
            **settings, equation=equation, transition=Transition(clip=False)
        )
        for row in dense.ROWS:
            dense.assert_step(
                method,
                case,
                row,
                expected(case, row, **settings, equation=equation),
            )

    @parameterized.parameters(
        # Row 0 is t = T, row -1 is t = 0. sigma = 3 throughout.
        ('11', 4.0, 4.0, 0, 1 / 8),
        ('11', 4.0, 4.0, 3, 1 / 8),
        ('11', 4.0, 4.0, -1, 1 / 8),
        ('10', 4.0, 4.0, 0, 1 / 25),  # 3^2 + 4^2
        ('10', 4.0, 4.0, -1, 1 / 25),
        ('11', 2.0, 5.0, -1, 1 / 4),
        ('11', 2.0, 5.0, 0, 1 / 10),
        ('10', 4.0, 1.0, -1, 1 / 25),
        ('10', 4.0, 1.0, 0, 1 / 10),
        # An infinite end leaves the other end as it is.
        ('11', 2.0, _INFINITY, -1, 1 / 4),
        ('11', 2.0, _INFINITY, 3, 0),
        ('11', _INFINITY, 5.0, 0, 1 / 10),
        ('10', _INFINITY, 1.0, 3, 0),
    )
    def test_weights_are_those_worked_by_hand(
        self, equation, gamma_0, gamma_T, row, weight
    ):
        # A is the identity, so the gradient of the squared distance is
        # 2 (x_t - y).
        case = dense.case_of('random_inpainting')
        measured = case.problem.replace(
            operator=Mask(jnp.ones((4, 4, 1)), 1), noise_std=jnp.float32(3)
        )
        case = case._replace(problem=measured)
        x_t = np.random.default_rng(0).normal(size=(4, 4, 1))
        guided, _, info = dense.update(
            ScoreALD(gamma_0, gamma_T, equation), case, row, x_t
        )
        free, _, _ = dense.update(Unconditional(), case, row, x_t)
        shift = weight * 2 * (measured.y - x_t)
        np.testing.assert_allclose(guided - free, shift, atol=1e-5)
        np.testing.assert_allclose(
            info.guidance, np.linalg.norm(shift), rtol=1e-5
        )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        settings = {'gamma_0': 2.0, 'gamma_T': 6.0, 'equation': '11'}
        method = ScoreALD(**settings, transition=Transition(clip=False))
        steps = [expected(case, row, **settings) for row in range(6)]
        dense.assert_samples(method, case, steps)


if __name__ == '__main__':
    absltest.main()
