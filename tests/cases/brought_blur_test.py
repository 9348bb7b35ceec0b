"""Blur kernels and measurements as people have them; what noise is said."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax import images, methods, restoration
from tests.cases.brought import DATA, SHAPE, problem_of, residual_std
from tests.standard_normal import StandardNormal

_BLUR, _NOISE = DATA / 'blur', DATA / 'noise'


def blurred(y, *flags, kernel='kernel.png'):
    return problem_of(
        f'--measurement={_BLUR / f"y_{y}.png"}',
        f'--kernel={_BLUR / kernel}',
        '--task=motion_deblur',
        '--noise_std=0.02',
        *flags,
    )


class BroughtBlurTest(parameterized.TestCase):
    @parameterized.parameters('kernel.png', 'kernel.npy', 'kernel_float.tif')
    def test_each_format_of_the_kernel_explains_the_measurement(self, kernel):
        problem, said = blurred('circular', kernel=kernel)
        # 0.02 of noise; a kernel in 8 bits is off by a 255th of its largest.
        self.assertAlmostEqual(residual_std(problem), 0.02, delta=0.001)
        self.assertIn('kernel of 11 x 11', said)
        self.assertIn('upright', said)

    @parameterized.parameters(
        ('kernel_even.png', 'odd sides, and .*kernel_even.png is 10 x 10'),
        ('kernel_inverted.png', 'kernel_inverted.png is bright along its bord'),
    )
    def test_a_kernel_that_is_none_is_refused(self, kernel, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            blurred('circular', kernel=kernel)

    def test_a_correlation_is_explained_by_the_flipped_kernel(self):
        problem, _ = blurred('circular_correlation')
        self.assertGreater(residual_std(problem), 0.3)
        problem, _ = blurred('circular_correlation', '--flip_kernel')
        self.assertAlmostEqual(residual_std(problem), 0.02, delta=0.001)

    @parameterized.parameters(
        ('reflect_convolution', ()), ('torch_reflect', ('--flip_kernel',))
    )
    def test_edges_that_do_not_wrap_are_left_out_by_choice(self, y, flags):
        problem, _ = blurred(y, *flags)
        self.assertGreater(residual_std(problem), 0.1)
        problem, _ = blurred(y, *flags, '--boundary=unknown')
        self.assertAlmostEqual(residual_std(problem), 0.02, delta=0.001)
        self.assertEqual(np.sum(problem.operator.support() == 0), 64**2 - 54**2)

    @parameterized.parameters('reflect_convolution', 'crop')
    def test_a_photograph_rings_with_edges_that_wrap_and_says_so(self, y):
        prior = StandardNormal(SHAPE)
        explained = {}
        for boundary in ('wrap', 'unknown'):
            problem, _ = blurred(y, f'--boundary={boundary}')
            result = restoration.restore(
                problem, prior, methods.METHODS['admm_tv'](), 'quad20'
            )
            scores = restoration.score(result.samples[0], problem)
            ratio = scores['residual_norm'] / scores['expected_residual_norm']
            explained[boundary] = ratio < 1.25
        self.assertEqual(explained, {'wrap': False, 'unknown': True})

    def test_a_boundary_without_a_kernel_is_refused(self):
        with self.assertRaisesRegex(ValueError, '--boundary goes with'):
            problem_of(f'--image={_BLUR / "y_crop.png"}', '--boundary=unknown')


class BroughtNoiseTest(parameterized.TestCase):
    @parameterized.parameters(
        ('0.3', '0.05', 'warning: .* noise of 0.2.* noise_std is 0.05'),
        ('0.05', '0.3', 'warning: .* noise of at most 0.07.* is 0.3'),
    )
    def test_another_noise_than_is_said_is_warned_of(self, real, said, words):
        path = _NOISE / f'y_noise_{real}.png'
        flags = f'--measurement={path}', '--task=denoising'
        _, text = problem_of(*flags, f'--noise_std={said}')
        self.assertRegex(text, words)
        _, text = problem_of(*flags, f'--noise_std={real}')
        self.assertNotIn('warning', text)

    def test_nothing_is_said_of_a_std_that_no_noise_has(self):
        # Photons have a peak in place of a standard deviation.
        _, text = problem_of(
            f'--measurement={_NOISE / "y_noise_0.3.png"}',
            '--task=denoising',
            '--noise=poisson',
        )
        self.assertNotIn('noise_std', text)

    @parameterized.parameters(0.02, 0.1, 0.5)
    def test_white_noise_on_a_plane_is_estimated_as_it_is(self, std):
        rows, columns = np.mgrid[:64, :64] / 64
        plane = np.repeat((rows - 0.3 * columns)[..., None], 3, axis=-1)
        noise = std * np.random.default_rng(0).standard_normal(SHAPE)
        # A median of 3,969 values that overlap is off by some 2 %.
        found = images.estimate_noise(plane + noise)
        self.assertAlmostEqual(found / std, 1, delta=0.05)
        # What is not observed says nothing, whatever is there.
        hidden = plane + noise
        hidden[20:40, 20:40] = 9 * noise[20:40, 20:40]
        observed = np.ones((64, 64, 1))
        observed[20:40, 20:40] = 0
        self.assertAlmostEqual(
            images.estimate_noise(hidden, observed) / std, 1, delta=0.05
        )

    def test_too_few_pixels_are_no_estimate(self):
        self.assertIsNone(images.estimate_noise(np.zeros((9, 9, 1))))
        self.assertEqual(images.check_noise(np.zeros((9, 9, 1)), 0.1), '')


if __name__ == '__main__':
    absltest.main()
