"""The Wiener filter: the covariance that it assumes, and its step by algebra."""

import numpy as np
import scipy.fft
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.diffusion import Transition
from invjax.methods.wiener import Wiener, image_variances
from invjax.priors import gaussian
from tests.methods import dense


def unclipped(**settings):
    return Wiener(**settings, transition=Transition(clip=False))


def assumed_covariance(shape):
    """S: of clean images, from the basis of cosines."""
    units = np.eye(np.prod(shape)).reshape(-1, *shape)
    vectors = scipy.fft.idctn(units, axes=(1, 2, 3), norm='ortho')
    vectors = vectors.reshape(len(units), -1).T
    return (vectors * image_variances(shape).ravel()) @ vectors.T


def expected(case, row, mix, spread, shape=(4, 4, 1)):
    """z = E[x_0 | x0_hat, y] for x_0 of covariance C_t around x0_hat."""
    level = case.at(row)
    size = len(case.mean)
    clean = spread**2 * assumed_covariance(shape)
    precision = np.linalg.inv(clean)
    precision += level.a / (1 - level.a) * np.eye(size)
    z = case.nearest(case.estimate(level.a), np.linalg.inv(precision))
    return dense.renoised(z, case.x_t, level, mix)


class ImageVariancesTest(absltest.TestCase):
    def test_a_frequency_has_the_same_power_at_every_size(self):
        # An orthonormal coefficient grows with the root of the pixels' number.
        small, large = (
            image_variances((side, side, 3)) / side**2 for side in (32, 64)
        )
        np.testing.assert_allclose(large[:32, :32], small, rtol=1e-12)

    def test_pixels_vary_as_much_as_those_of_faces(self):
        # 3,000 faces of 64 x 64, less their mean, have 0.68, 0.044 and 0.0067
        # in the three channels of the basis; a power law of three numbers is
        # not nearer than a fifth.
        totals = image_variances((64, 64, 3)).sum(axis=(0, 1)) / 64**2
        np.testing.assert_allclose(totals, [0.68, 0.044, 0.0067], rtol=0.2)

    def test_it_is_the_power_law_of_the_text(self):
        # S(f) = H W C a (1 + (f / f_0)^2)^-p, at three places by hand: cycles
        # an image are half of the index.
        found = image_variances((6, 8, 3))
        for (i, j, c), a, f_0, p in (
            ((0, 0, 0), 0.028, 0.83, 1.43),
            ((3, 4, 1), 0.0018, 1.21, 1.95),
            ((5, 0, 2), 0.0003, 0.91, 1.62),
        ):
            squared = (i / 2) ** 2 + (j / 2) ** 2
            np.testing.assert_allclose(
                found[i, j, c], 144 * a / (1 + squared / f_0**2) ** p
            )

    def test_other_channels_than_three_have_variances_too(self):
        three = image_variances((4, 6, 3))
        for number in (1, 2, 5):
            found = image_variances((4, 6, number))
            self.assertEqual(found.shape, (4, 6, number))
            shared = min(number, 3)
            np.testing.assert_allclose(
                found[..., :shared] / number, three[..., :shared] / 3
            )
            self.assertGreater(found.min(), 0)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[{'mix': 0.7, 'spread': 0.6}, {'mix': 0.2, 'spread': 1.5}],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_is_a_filter_of_the_assumed_covariance(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        # Conjugate gradients end after 30 steps, and need a little noise.
        tolerance = 3e-4 if noise_std else 1e-2
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(**settings),
                case,
                row,
                expected(case, row, **settings),
                tolerance,
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        settings = {'mix': 0.7, 'spread': 0.6}
        steps = [expected(case, row, **settings) for row in range(6)]
        dense.assert_samples(unclipped(**settings), case, steps)

    def test_colours_have_a_covariance_of_their_own(self):
        shape = (2, 2, 3)
        case = dense.case_of('colorization', 0.1, shape)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(),
                case,
                row,
                expected(case, row, 1.0, 1.0, shape),
                5e-3,
            )

    def test_both_estimates_are_clipped(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        level = case.at(5)
        x_0 = case.estimate(level.a)
        x_0 = np.clip(x_0.matrix @ x_t + x_0.offset, -1, 1)
        precision = np.linalg.inv(assumed_covariance((4, 4, 1)))
        variance = np.linalg.inv(
            precision + level.a / (1 - level.a) * np.eye(16)
        )
        shift = variance @ case.gain(variance) @ (case.y - case.matrix @ x_0)
        # Far beyond, so that the second clip counts too.
        far = case._replace(problem=case.problem.replace(y=case.problem.y + 50))
        shift += variance @ case.gain(variance) @ np.full(16, 50)
        z = x_0 + shift
        self.assertGreater(np.abs(z).max(), 1.05)
        x_s, _, _ = dense.update(Wiener(), far, 5, x_t)
        np.testing.assert_allclose(np.ravel(x_s), np.clip(z, -1, 1), atol=1e-3)


class LimitTest(parameterized.TestCase):
    def test_it_is_exact_for_the_prior_that_it_assumes(self):
        case = dense.case_of('random_inpainting')
        covariance = assumed_covariance((4, 4, 1))
        prior = gaussian.GaussianPrior.from_covariance(
            np.asarray(case.prior.mean), covariance, dense.ALPHA_BAR
        )
        case = case._replace(prior=prior, covariance=covariance)
        posterior = gaussian.gaussian_posterior(
            prior, case.matrix, case.y, case.noise_std
        )
        # With mix = 0 a step is DDIM's with E[x_0 | x_t, y] in it.
        given = case._replace(
            mean=posterior.mean.ravel(), covariance=posterior.covariance
        )
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(mix=0.0),
                case,
                row,
                dense.prior_step(given, row, 'ddim'),
            )

    def test_without_fresh_noise_many_steps_sample_the_posterior(self):
        # By algebra alone, for a prior of the covariance that it assumes; the
        # tests above say that steps keep to it.
        case = dense.case_of('random_inpainting')
        covariance = assumed_covariance((4, 4, 1))
        prior = gaussian.GaussianPrior.from_covariance(
            np.asarray(case.prior.mean), covariance, dense.ALPHA_BAR
        )
        posterior = gaussian.gaussian_posterior(
            prior, case.matrix, case.y, case.noise_std
        )
        errors = []
        for number in (100, 1000):
            steps = schedule.reverse_steps(dense.ALPHA_BAR, number)
            longer = case._replace(steps=steps, covariance=covariance)
            rows = range(number)
            _, found = dense.moments_after(
                [expected(longer, row, 0.0, 1.0) for row in rows]
            )
            errors.append(np.abs(found - posterior.covariance).max())
        self.assertLess(errors[1], 0.2 * errors[0])
        self.assertLess(errors[1], 0.01 * posterior.covariance.max())


if __name__ == '__main__':
    absltest.main()
