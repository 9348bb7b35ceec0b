"""DPS: the gradient of its norm by algebra, in both readings."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import problem
from invjax.diffusion import Transition
from invjax.methods.dps import DPS
from invjax.methods.unconditional import Unconditional
from invjax.operators.mask import Mask
from tests.methods import dense


def unclipped(*args, **settings):
    transition = Transition(clip=False)
    return DPS(*args, **settings, transition=transition)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        zeta=[0.3, 2.5],
        normalise=['residual', 'gradient'],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_goes_down_the_norm_of_the_residual(
        self, zeta, normalise, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            # The prior's own step has the same noise, by the same key.
            free, _, _ = dense.update(
                Unconditional(transition=Transition(clip=False)), case, row, x_t
            )
            guided, _, info = dense.update(
                unclipped(zeta, normalise), case, row, x_t
            )
            gradient = dense.norm_gradient(case, row, x_t.astype(np.float64))
            if normalise == 'gradient':
                gradient /= np.linalg.norm(gradient)
            np.testing.assert_allclose(
                np.ravel(guided - free), -zeta * gradient, atol=2e-4 * zeta
            )
            np.testing.assert_allclose(
                info.guidance, zeta * np.linalg.norm(gradient), rtol=1e-3
            )

    def test_the_step_is_the_one_that_the_transition_says(self):
        case = dense.case_of('gaussian_deblur')
        for transition in (
            Transition(kind='ddim', eta=0.6),
            Transition(variance='beta'),
        ):
            for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
                x_s, _, _ = dense.update(
                    DPS(0.0, transition=transition), case, row, x_t
                )
                free, _, _ = dense.update(
                    Unconditional(transition=transition), case, row, x_t
                )
                np.testing.assert_allclose(x_s, free, atol=1e-5)

    def test_what_is_clipped_has_no_gradient(self):
        # A clipped value of the estimate does not move with x_t.
        case = dense.case_of('random_inpainting')
        x_t = 40 * dense.points(1)[0]
        row = dense.ROWS[1]
        level = case.at(row)
        x_0 = case.estimate(level.a)
        value = x_0.matrix @ x_t + x_0.offset
        inside = np.abs(value) < 1
        self.assertBetween(inside.mean(), 0.05, 0.95)
        residual = case.y - case.matrix @ np.clip(value, -1, 1)
        slope = case.matrix @ (inside[:, None] * x_0.matrix)
        gradient = -slope.T @ residual / np.linalg.norm(residual)
        guided, free = (
            dense.update(method, case, row, x_t)[0]
            for method in (DPS(1.0), Unconditional())
        )
        np.testing.assert_allclose(
            np.ravel(guided - free), -gradient, atol=1e-3
        )

    def test_weights_count_in_the_norm_and_in_its_gradient(self):
        case = dense.case_of('random_inpainting')
        weights = np.random.default_rng(1).uniform(0.2, 3, 16)
        measured = case.problem.replace(
            weights=jnp.asarray(weights.reshape(4, 4, 1), jnp.float32)
        )
        weighted = case._replace(problem=measured)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            guided, free = (
                dense.update(unclipped(zeta), weighted, row, x_t)[0]
                for zeta in (1.5, 0.0)
            )
            gradient = dense.norm_gradient(case, row, x_t, weights)
            np.testing.assert_allclose(
                np.ravel(guided - free), -1.5 * gradient, atol=5e-4
            )

    def test_values_of_no_weight_count_as_not_measured(self):
        case = dense.case_of('random_inpainting')
        mask = jnp.broadcast_to(
            jnp.asarray(jnp.arange(4)[:, None, None] < 2, jnp.float32),
            (4, 4, 1),
        )
        whole = case.problem.replace(operator=Mask(jnp.ones((4, 4, 1)), 1))
        weighted = whole.replace(weights=mask)
        part = whole.replace(y=mask * whole.y, operator=Mask(mask, 1))
        x_t = dense.points(1)[0]
        one, other = (
            dense.update(DPS(), case._replace(problem=p), 3, x_t)[0]
            for p in (weighted, part)
        )
        np.testing.assert_allclose(one, other, atol=1e-6)


class RestorationTest(absltest.TestCase):
    def test_weights_restore_more_than_taking_all_values_as_equally_sure(self):
        prior = dense.prior_of((4, 4, 1))
        operator = Mask(jnp.ones((4, 4, 1)), 1)
        worse = 0
        for seed in range(8):
            x_0 = prior.sample(jax.random.key(seed))
            measured = problem.measure(
                jax.random.key(100 + seed),
                x_0,
                operator,
                0.02,
                'salt_pepper',
                amount=0.2,
            )
            alike = measured.replace(weights=jnp.ones((4, 4, 1)))
            error, of_alike = (
                np.linalg.norm(
                    dense.sample(DPS(), m, prior, dense.STEPS)[0] - x_0
                )
                for m in (measured, alike)
            )
            worse += error > of_alike
        # Of eight coin tosses at most one shows tails once in 28 runs.
        self.assertLessEqual(worse, 1)


if __name__ == '__main__':
    absltest.main()
