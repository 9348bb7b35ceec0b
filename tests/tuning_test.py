"""Tuning without the truth: the parts of a measurement, and the criteria."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, tuning

_SHAPE = (16, 16, 3)


def _measured(task, noise_std=0.1):
    key = jax.random.key(0)
    x = jax.random.uniform(key, _SHAPE, minval=-0.9, maxval=0.9)
    operator = operators.make_operator(task, key, _SHAPE)
    return x, problem.measure(key, x, operator, noise_std)


class HoldOutTest(parameterized.TestCase):
    @parameterized.product(
        task=['random_inpainting', 'box_inpainting', 'denoising'],
        fraction=[0.1, 0.5],
    )
    def test_two_parts_make_the_whole(self, task, fraction):
        _, whole = _measured(task)
        kept, held = tuning.hold_out(jax.random.key(1), whole, fraction)
        np.testing.assert_array_equal(kept.y + held.y, whole.y)
        np.testing.assert_array_equal(
            kept.operator.mask + held.operator.mask, whole.operator.mask
        )
        self.assertEqual(jnp.max(kept.operator.mask * held.operator.mask), 0)
        count = np.ceil(fraction * float(whole.operator.mask.sum()))
        self.assertEqual(held.operator.mask.sum(), count)

    def test_parts_are_of_images_with_as_many_channels(self):
        grey = problem.measure(
            jax.random.key(0),
            jnp.zeros((16, 16, 1)),
            operators.make_operator(
                'denoising', jax.random.key(0), (16, 16, 1)
            ),
        )
        for part in tuning.hold_out(jax.random.key(1), grey, 0.1):
            self.assertEqual(part.image_shape, (16, 16, 1))

    def test_the_choice_is_random_by_the_key(self):
        _, whole = _measured('denoising')
        masks = [
            tuning.hold_out(jax.random.key(i), whole, 0.2)[1].operator.mask
            for i in (1, 1, 2)
        ]
        np.testing.assert_array_equal(masks[0], masks[1])
        self.assertTrue(np.any(masks[0] != masks[2]))

    def test_what_cannot_be_parted_is_refused(self):
        _, blurred = _measured('gaussian_deblur')
        with self.assertRaisesRegex(ValueError, 'a mask, got'):
            tuning.hold_out(jax.random.key(0), blurred, 0.1)
        _, masked = _measured('denoising')
        for fraction in (0.0, 1.0, -0.1):
            with self.assertRaisesRegex(ValueError, 'above 0 and below 1'):
                tuning.hold_out(jax.random.key(0), masked, fraction)


class CriteriaTest(absltest.TestCase):
    def test_the_truth_is_explained_by_the_noise(self):
        x, measured = _measured('denoising')
        # 768 numbers: 5 standard errors of sqrt(2 / 768).
        self.assertAlmostEqual(
            float(tuning.chi_square(x, measured)), 1, delta=0.26
        )

    def test_half_and_twice_the_expected_are_as_far_off(self):
        found = tuning.discrepancy(np.array([0.5, 1.0, 2.0]))
        np.testing.assert_allclose(found, [np.log(2), 0, np.log(2)])

    def test_a_fixed_setting_is_chosen_on_the_other_half(self):
        # The first setting is best on even images, the second on odd ones.
        scores = np.array([[3.0, 0.0, 3.0, 1.0], [0.0, 2.0, 1.0, 2.0]])
        np.testing.assert_array_equal(
            tuning.best_of_the_other_half(scores), [1, 0, 1, 0]
        )


if __name__ == '__main__':
    absltest.main()
