"""DPS: the gradient of its norm by algebra, in both readings."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import problem
from invjax.diffusion import Transition
from invjax.methods import dps
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


def projected(x_t, gradient, retained):
    """By projections onto singular vectors, one at a time, in float64."""
    u, s, vt = np.linalg.svd(np.asarray(x_t, np.float64))
    rank, held = 0, 0.0
    while held < retained * np.sum(s**2):
        held += s[rank] ** 2
        rank += 1
    left = sum(np.outer(u[:, i], u[:, i]) for i in range(rank))
    right = sum(np.outer(vt[i], vt[i]) for i in range(rank))
    return left @ gradient @ right


class ProjectionTest(parameterized.TestCase):
    @parameterized.product(
        retained=[0.4, 0.8, 0.99], kind=['dense', 'gaussian_deblur']
    )
    def test_the_gradient_is_cut_to_the_states_directions(self, retained, kind):
        case = dense.case_of(kind, 0.3)
        zeta = 2.5
        method = unclipped(zeta, projection='state', retained=retained)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            guided, free = (
                dense.update(m, case, row, x_t)[0]
                for m in (method, unclipped(0.0))
            )
            gradient = dense.norm_gradient(case, row, x_t.astype(np.float64))
            expected = projected(
                x_t.reshape(4, 4), gradient.reshape(4, 4), retained
            )
            np.testing.assert_allclose(
                (guided - free)[..., 0], -zeta * expected, atol=5e-4
            )

    def test_each_channel_has_its_own_rank(self):
        # The state of the first channel is one outer product, of the second the
        # identity, of which half of the share is two of four directions.
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(2, 4))
        x_t = jnp.stack([jnp.outer(a, b), jnp.diag(jnp.arange(4.0, 0, -1))], -1)
        gradient = jnp.asarray(rng.normal(size=(4, 4, 2)), jnp.float32)
        found = dps._within(x_t.astype(jnp.float32), gradient, 0.75)
        along_a, along_b = (np.outer(v, v) / (v @ v) for v in (a, b))
        np.testing.assert_allclose(
            found[..., 0], along_a @ gradient[..., 0] @ along_b, atol=1e-5
        )
        # 16 + 9 of 30 are more than three quarters, and 16 are not.
        expected = np.zeros((4, 4))
        expected[:2, :2] = gradient[:2, :2, 1]
        np.testing.assert_allclose(found[..., 1], expected, atol=1e-5)

    def test_where_all_is_retained_nothing_changes(self):
        case = dense.case_of('dense', 0.3)
        x_t = dense.points(1)[0]
        whole, plain = (
            dense.update(m, case, 3, x_t)[0]
            for m in (
                unclipped(2.0, projection='state', retained=1.0),
                unclipped(2.0),
            )
        )
        np.testing.assert_allclose(whole, plain, atol=1e-4)


class MomentsTest(parameterized.TestCase):
    @parameterized.parameters((0.6, 0.7), (0.0, 0.9), (0.9, 0.0))
    def test_steps_are_those_of_adam_on_the_norms_gradient(
        self, beta_1, beta_2
    ):
        case = dense.case_of('dense', 0.3)
        size = 0.2
        method = unclipped(
            moments='adam', learning_rate=size, beta_1=beta_1, beta_2=beta_2
        )
        _, state = method.start(dense.KEY, case.problem, case.steps)
        m, v = np.zeros(16), np.zeros(16)
        rows, points = dense.ROWS[:2], dense.points()
        for i, (row, x_t) in enumerate(zip(rows, points, strict=False), 1):
            guided, state, _ = dense.update(method, case, row, x_t, state=state)
            free, _, _ = dense.update(unclipped(0.0), case, row, x_t)
            g = dense.norm_gradient(case, row, x_t.astype(np.float64))
            m = beta_1 * m + (1 - beta_1) * g
            v = beta_2 * v + (1 - beta_2) * g**2
            direction = (m / (1 - beta_1**i)) / np.sqrt(v / (1 - beta_2**i))
            level = case.at(row)
            expected = -size * direction / np.sqrt(level.a / level.b)
            np.testing.assert_allclose(
                np.ravel(guided - free), expected, rtol=2e-3, atol=2e-3
            )

    def test_the_first_step_has_one_length_whatever_the_residual(self):
        # Both moments start at 0 and are corrected for it: m / sqrt(v) is the
        # sign of the gradient, in each value.
        case = dense.case_of('dense', 0.3)
        x_t, row = dense.points(1)[0], 3
        level = case.at(row)
        for scale in (1.0, 30.0):
            measured = case.problem.replace(y=scale * case.problem.y)
            scaled = case._replace(problem=measured)
            method = unclipped(moments='adam', learning_rate=0.1)
            _, state = method.start(dense.KEY, measured, case.steps)
            guided, _, _ = dense.update(method, scaled, row, x_t, state=state)
            free, _, _ = dense.update(unclipped(0.0), scaled, row, x_t)
            np.testing.assert_allclose(
                np.abs(guided - free),
                0.1 / np.sqrt(level.a / level.b),
                rtol=1e-3,
            )

    @parameterized.parameters('beta_1', 'beta_2')
    def test_moments_that_never_forget_are_refused(self, name):
        with self.assertRaisesRegex(
            ValueError, f'{name} of dps must be from 0 to below 1, got 1'
        ):
            DPS(moments='adam', **{name: 1.0})


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
