"""PSNR, SSIM and chi-square: by hand, and by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import metrics

_SIDE = 31


def random_images(num_images):
    key = jax.random.key(0)
    return jax.random.uniform(
        key, (num_images, _SIDE, _SIDE, 3), minval=-1.0, maxval=1.0
    )


class PSNRTest(parameterized.TestCase):
    @parameterized.parameters((0.2, 20.0), (0.02, 40.0))
    def test_a_constant_error_gives_the_value_worked_by_hand(self, error, want):
        # An error of 0.2 in [-1, 1] is 0.1 in [0, 1]: -10 log10(0.1^2) = 20 dB.
        reference = 0.5 * random_images(1)[0]
        np.testing.assert_allclose(
            metrics.psnr(reference + error, reference), want, rtol=1e-5
        )

    def test_identical_images_give_infinity(self):
        (x,) = random_images(1)
        self.assertEqual(metrics.psnr(x, x), np.inf)


class SSIMTest(parameterized.TestCase):
    def test_identical_images_give_one(self):
        (x,) = random_images(1)
        np.testing.assert_allclose(metrics.ssim(x, x), 1.0, rtol=1e-6)

    def test_flat_images_give_the_luminance_term_worked_by_hand(self):
        # Grey levels 0.25 and 0.75 in [0, 1] have no variance, which leaves
        # (2 * 0.25 * 0.75 + 0.01^2) / (0.25^2 + 0.75^2 + 0.01^2) = 0.60006.
        x = jnp.full((_SIDE, _SIDE, 3), -0.5)
        np.testing.assert_allclose(metrics.ssim(x, -x), 0.60006, atol=1e-5)

    def test_an_inverted_image_is_dissimilar(self):
        (x,) = random_images(1)
        self.assertLess(metrics.ssim(-x, x), -0.5)


class ChiSquareTest(parameterized.TestCase):
    def test_pure_noise_gives_one(self):
        num_measured, noise_std = 20_000, 0.05
        noise = noise_std * jax.random.normal(
            jax.random.key(1), (num_measured,)
        )
        value = metrics.chi_square(noise, num_measured, noise_std)
        self.assertLess(abs(value - 1.0), 4 * np.sqrt(2 / num_measured))

    def test_unmeasured_zeros_do_not_count(self):
        mask = jnp.arange(8) < 2
        residual = jnp.where(mask, 3.0, 0.0)
        # Two entries of three standard deviations: 2 * 3^2 / 2 = 9.
        self.assertEqual(metrics.chi_square(residual, mask.sum(), 1.0), 9.0)

    def test_a_complex_residual_counts_its_modulus(self):
        residual = jnp.array([3.0 + 4.0j])
        self.assertEqual(metrics.chi_square(residual, 1, 1.0), 25.0)

    @parameterized.parameters(0.0, 1.0)
    def test_noiseless_data_have_none(self, residual):
        value = metrics.chi_square(jnp.full((4,), residual), 4, 0.0)
        self.assertTrue(np.isnan(value))


if __name__ == '__main__':
    absltest.main()
