"""MCG: a step of DPS and a projection, by algebra and by many keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.mcg import MCG
from tests.methods import dense

_NUM_KEYS = 8192


@functools.partial(jax.jit, compiler_options=dense.QUICK)
def _drawn(method, x_t, step, measured, prior):
    return jax.vmap(
        lambda key: method.update(key, x_t, (), step, measured, prior)[0]
    )(jax.random.split(dense.KEY, _NUM_KEYS))


class StepTest(parameterized.TestCase):
    @parameterized.product(
        zeta=[0.4, 2.0], noise_std=[0.0, 0.3], kind=['dense', 'gaussian_deblur']
    )
    def test_it_is_guided_and_then_projected(self, zeta, noise_std, kind):
        case = dense.case_of(kind, noise_std)
        method = dense.as_numbers(MCG(zeta, transition=Transition(clip=False)))
        inverse = np.linalg.pinv(case.matrix)
        seen = inverse @ case.matrix
        unseen = np.eye(16) - seen
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            level = case.at(row)
            free = dense.ancestral(case.estimate(level.a), case.x_t, level)
            guided = free.matrix @ x_t + free.offset
            guided -= zeta * dense.norm_gradient(case, row, x_t)
            # A^+ (sqrt(b) y + sqrt(1 - b) A n) where y sees, and there only.
            mean = unseen @ guided + np.sqrt(level.b) * inverse @ case.y
            covariance = unseen @ free.covariance @ unseen
            covariance += (1 - level.b) * seen
            drawn = _drawn(
                method,
                jnp.asarray(x_t).reshape(4, 4, 1),
                case.row(row),
                case.problem,
                case.prior,
            )
            dense.assert_moments(drawn, mean, covariance, 2e-3)

    def test_guidance_is_that_of_dps_and_what_the_projection_adds(self):
        case = dense.case_of('gaussian_deblur', 0.0)
        x_t = dense.points(1)[0]
        row = dense.ROWS[-1]
        level = case.at(row)
        gradient = dense.norm_gradient(case, row, x_t)
        x_0 = case.estimate(level.a)
        guided = x_0.matrix @ x_t + x_0.offset - 0.5 * gradient
        inverse = np.linalg.pinv(case.matrix)
        projection = inverse @ (case.y - case.matrix @ guided)
        _, _, info = dense.update(
            MCG(0.5, transition=Transition(clip=False)), case, row, x_t
        )
        np.testing.assert_allclose(
            info.guidance,
            0.5 * np.linalg.norm(gradient) + np.linalg.norm(projection),
            rtol=1e-3,
        )


if __name__ == '__main__':
    absltest.main()
