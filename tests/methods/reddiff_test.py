"""RED-diff: its gradient and its Adam, written down in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import problem, schedule
from invjax.diffusion import Transition
from invjax.methods.reddiff import REDDiff
from tests.methods import dense

_SETTINGS = (
    {'learning_rate': 0.03, 'weight': 0.8},
    {'learning_rate': 0.2, 'weight': 0.05},
)


class Adam:
    """Kingma and Ba (2015), Algorithm 1, with RED-diff's decay rates."""

    def __init__(self, learning_rate):
        self.learning_rate = learning_rate
        self.first = self.second = 0.0
        self.count = 0

    def __call__(self, x, gradient):
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.99 * self.second + 0.01 * gradient**2
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.99**self.count)
        return x - self.learning_rate * first / (np.sqrt(second) + 1e-8)


def gradient(case, row, mu, noise, weight):
    """Of ||y - A mu||^2 / 2 + weight sigma_t / alpha_t (eps - n)^T mu."""
    level = case.at(row)
    x_t = np.sqrt(level.a) * mu + np.sqrt(1 - level.a) * noise
    estimate = case.estimate(level.a)
    x0_hat = estimate.matrix @ x_t + estimate.offset
    eps = (x_t - np.sqrt(level.a) * x0_hat) / np.sqrt(1 - level.a)
    ratio = np.sqrt((1 - level.a) / level.a)
    by_data = -case.matrix.T @ (case.y - case.matrix @ mu)
    return by_data + weight * ratio * (eps - noise)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=_SETTINGS,
        noise_std=[0.0, 0.3],
        kind=['dense', 'motion_deblur'],
    )
    def test_it_takes_steps_of_adam_down_both_terms(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        method = REDDiff(**settings, transition=Transition(clip=False))
        mu, state = method.start(dense.KEY, case.problem, case.steps)
        expected = np.asarray(mu, np.float64).ravel()
        adam = Adam(settings['learning_rate'])
        # Not the first row, where float32 predicts noise to three digits.
        for row in (1, 2, 3, 4, 5):
            key = jax.random.fold_in(dense.KEY, row)
            mu, state, info = dense.update(method, case, row, mu, key, state)
            noise = np.ravel(jax.random.normal(key, (4, 4, 1)))
            before = expected
            expected = adam(
                expected,
                gradient(case, row, expected, noise, settings['weight']),
            )
            np.testing.assert_allclose(np.ravel(mu), expected, atol=5e-4)
            np.testing.assert_allclose(
                info.prior_step,
                np.linalg.norm(expected - before),
                atol=5e-3,
            )
            np.testing.assert_allclose(
                info.guidance,
                np.linalg.norm(case.matrix.T @ (case.y - case.matrix @ before)),
                atol=5e-3,
            )

    def test_the_noise_is_new_for_each_key_and_normal(self):
        # Adam's first moment after one step is a tenth of the gradient, which
        # is linear in the noise.
        case = dense.case_of('dense')
        method = REDDiff(transition=Transition(clip=False))
        mu, state = method.start(dense.KEY, case.problem, case.steps)
        moved = jax.vmap(
            lambda key: (
                method.update(
                    key, mu, state, case.row(3), case.problem, case.prior
                )[1][0].mu
            )
        )(jax.random.split(dense.KEY, 4096))
        flat = np.asarray(mu, np.float64).ravel()
        offset = gradient(case, 3, flat, np.zeros(16), 0.25)
        slope = np.stack(
            [gradient(case, 3, flat, e, 0.25) - offset for e in np.eye(16)], -1
        )
        dense.assert_moments(
            10 * np.asarray(moved), offset, slope @ slope.T, 1e-3
        )

    def test_it_starts_at_the_guess_kept_in_range(self):
        case = dense.case_of('motion_deblur')
        measured = case.problem.replace(y=5 * case.problem.y)
        mu, _ = REDDiff().start(dense.KEY, measured, case.steps)
        expected = np.linalg.pinv(case.matrix, 1e-3) @ (5 * case.y)
        self.assertGreater(np.abs(expected).max(), 1.2)
        np.testing.assert_allclose(
            np.ravel(mu), np.clip(expected, -1, 1), atol=1e-3
        )

    def test_a_clip_keeps_the_image_in_range(self):
        case = dense.case_of('motion_deblur')
        far = case._replace(problem=case.problem.replace(y=case.problem.y + 9))
        moved = {}
        for clip in (True, False):
            method = REDDiff(0.5, transition=Transition(clip=clip))
            mu, state = method.start(dense.KEY, far.problem, far.steps)
            moved[clip], _, _ = dense.update(method, far, 3, mu, state=state)
        self.assertGreater(np.abs(moved[False]).max(), 1.2)
        np.testing.assert_allclose(
            moved[True], np.clip(moved[False], -1, 1), atol=1e-6
        )


class LimitTest(absltest.TestCase):
    def test_it_comes_to_explain_the_measurement(self):
        prior = dense.prior_of((4, 4, 1))
        operator = dense.operator_of('random_inpainting')
        measured = problem.measure(
            dense.KEY, 0.5 * jnp.ones((4, 4, 1)), operator, 0.0
        )
        steps = schedule.reverse_steps(dense.ALPHA_BAR, 200)
        x_0, _ = dense.sample(REDDiff(weight=0.01), measured, prior, steps)
        np.testing.assert_allclose(operator.forward(x_0), measured.y, atol=0.05)


if __name__ == '__main__':
    absltest.main()
