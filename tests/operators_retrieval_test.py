"""Phases by projections: what they explain, and what they cannot tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, types
from invjax.operators import retrieval

_KEY = jax.random.key(0)


def operator_of(shape, oversampling=4.0):
    """With a margin of half the shorter side."""
    return operators.make_operator(
        'phase_retrieval', _KEY, shape, oversampling=oversampling
    )


def picture(shape, seed=0):
    """Shapes that no turn leaves as they are, in other strengths by channel."""
    height, width, num_channels = shape
    rng = np.random.default_rng(seed)
    x = np.full(shape, -0.7, np.float32)
    strength = rng.uniform(0.5, 1.0, num_channels)
    for _ in range(6):
        top, left = rng.integers(height - 3), rng.integers(width - 3)
        down, right = rng.integers(2, height // 2), rng.integers(2, width // 2)
        x[top : top + down, left : left + right] += rng.uniform(0.2, 0.5) * (
            strength
        )
    return jnp.asarray(np.clip(x, -0.95, 0.95))


def error(guesses, x):
    """The least root mean square difference of any of some images from x."""
    return np.sqrt(np.mean((np.asarray(guesses) - x) ** 2, axis=(1, 2, 3)))


class FourWaysTest(absltest.TestCase):
    def test_they_measure_the_same_and_are_no_two_the_same(self):
        x = np.asarray(picture((7, 6, 2)))
        ways = np.asarray(retrieval.four_ways(jnp.asarray(x)))
        padded = np.pad(ways, ((0, 0), (3, 3), (3, 3), (0, 0)))
        magnitudes = np.abs(np.fft.fft2(padded, axes=(1, 2)))
        for i in range(4):
            np.testing.assert_allclose(magnitudes[i], magnitudes[0], atol=1e-4)
            for j in range(i):
                self.assertGreater(np.abs(ways[i] - ways[j]).max(), 0.1)
        np.testing.assert_array_equal(ways[0], x)


class CandidatesTest(parameterized.TestCase):
    @parameterized.parameters(
        ((16, 16, 3), 0.0),
        # Not square, and an odd frame.
        ((13, 16, 1), 0.0),
        ((12, 15, 2), 0.0),
    )
    def test_a_picture_is_found_from_its_magnitudes(self, shape, noise_std):
        operator = operator_of(shape)
        x = picture(shape)
        guesses = operator.guesses(_KEY, operator.forward(x))
        self.assertEqual(guesses.shape, (4, *shape))
        # 40 dB; a picture that is not found is off by 0.3.
        self.assertLess(error(guesses, x).min(), 0.02)

    def test_noise_is_explained_and_moves_the_picture_little(self):
        shape, noise_std = (16, 16, 3), 0.03
        operator = operator_of(shape)
        x = picture(shape)
        y = operator.forward(x)
        y = y + noise_std * jax.random.normal(jax.random.key(1), y.shape)
        guesses = operator.guesses(_KEY, y)
        # The truth leaves noise_std; what is fitted to the noise leaves less.
        for guess in guesses:
            left = np.sqrt(np.mean((operator.forward(guess) - y) ** 2))
            self.assertLess(left, noise_std)
        self.assertLess(error(guesses, x).min(), 0.1)

    def test_residuals_are_those_of_the_images(self):
        shape = (12, 12, 2)
        operator = operator_of(shape)
        x = picture(shape)
        y = operator.forward(x) + 0.05
        found = retrieval.candidates(_KEY, y, shape, operator.margin)
        left = jax.vmap(operator.forward)(found.x)[:, :, : y.shape[1] // 2 + 1]
        left = np.sqrt(
            np.mean((left - y[:, : y.shape[1] // 2 + 1]) ** 2, (1, 2, 3))
        )
        np.testing.assert_allclose(found.residual, left, atol=2e-4)

    def test_what_two_opposite_waves_disagree_on_is_averaged_out(self):
        shape = (13, 16, 1)
        operator = operator_of(shape)
        x = picture(shape)
        y = operator.forward(x)
        noise = 0.1 * jax.random.normal(_KEY, y.shape)
        odd = noise - jnp.roll(noise[::-1, ::-1], (1, 1), (0, 1))
        guesses = operator.guesses(_KEY, y + odd)
        self.assertLess(error(guesses, x).min(), 0.02)

    @parameterized.parameters(0.0, 8.0)
    def test_it_is_finite_without_a_margin_and_of_nothing(self, oversampling):
        operator = operator_of((8, 8, 2), oversampling)
        y = jnp.zeros(operator.measurement_shape)
        np.testing.assert_allclose(operator.guesses(_KEY, y), 0, atol=1e-6)


class ChannelsTest(parameterized.TestCase):
    @parameterized.parameters(*range(4))
    def test_they_are_turned_and_signed_to_agree(self, way):
        x = picture((9, 8, 3))
        torn = jnp.stack(
            [
                x[..., 0],
                retrieval.four_ways(x[..., 1])[way],
                retrieval.four_ways(x[..., 2])[(way + 2) % 4],
            ],
            axis=-1,
        )
        ways = retrieval.four_ways(x)
        joined = retrieval._agreeing(torn)
        self.assertEqual(error(ways, joined).min(), 0)

    @parameterized.parameters(0, 1)
    def test_the_best_is_the_one_whose_channels_are_alike(self, place):
        x = picture((9, 8, 3))
        wrong = x.at[..., 1].add(0.3 * jax.random.normal(_KEY, (9, 8)))
        pair = [wrong, wrong]
        pair[place] = x
        found = retrieval.Candidates(jnp.stack(pair), jnp.array([0.1, 0.1]))
        np.testing.assert_array_equal(retrieval.best(found), x)

    def test_of_one_channel_the_best_is_that_of_least_residual(self):
        x = jnp.stack([picture((9, 8, 1), seed) for seed in range(3)])
        found = retrieval.Candidates(x, jnp.array([0.1, 0.2, 0.3]))
        np.testing.assert_array_equal(retrieval.best(found), x[0])

    def test_agreement_is_the_mean_correlation_of_numpy(self):
        x = picture((9, 8, 3)) + 0.2 * jax.random.normal(_KEY, (9, 8, 3))
        by_pairs = np.corrcoef(np.reshape(x, (-1, 3)).T)[np.triu_indices(3, 1)]
        np.testing.assert_allclose(
            retrieval.agreement(x), by_pairs.mean(), rtol=1e-4
        )


class ProtocolTest(absltest.TestCase):
    def test_of_all_tasks_it_is_the_one_that_many_images_explain(self):
        for task in operators.OPERATORS:
            operator = operators.make_operator(task, _KEY, (16, 16, 3))
            self.assertEqual(
                isinstance(operator, types.AmbiguousOperator),
                task == 'phase_retrieval',
            )

    def test_a_measurement_of_another_shape_is_refused(self):
        operator = operator_of((8, 8, 1))
        with self.assertRaisesRegex(ValueError, 'a measurement for'):
            operator.guesses(_KEY, jnp.zeros((8, 8, 1)))


if __name__ == '__main__':
    absltest.main()
