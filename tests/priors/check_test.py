"""The check that a network denoises: trained ones pass, others are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.diffusion import Prediction
from invjax.priors import check, checkpoint


def alpha_bars(name, num_train_steps):
    return schedule.alpha_bars(schedule.SCHEDULES[name](num_train_steps))


class Wiener:
    """Stands for a network: the best linear estimate for pictures of a spectrum.

    Args:
        trained: (T,) signal power at the times that it knows.
        claimed: (T',) what its user says of that.
        scale: what it multiplies times by.
        side, channels: of its pictures.
    """

    def __init__(self, trained, claimed=None, scale=1.0, side=32, channels=3):
        self.trained = trained
        self.alpha_bar = trained if claimed is None else claimed
        self.scale = scale
        self.image_shape = (side, side, channels)

    def __call__(self, x_t, t):
        side = x_t.shape[0]
        times = np.arange(len(self.trained))
        a = jnp.interp(self.scale * t, times, self.trained)
        frequency = np.fft.fftfreq(side) * side
        square = frequency[:, None] ** 2 + frequency**2
        # It falls with the cube of the frequency, and sums to 0.2 a pixel.
        power = 0.03 * side**2 / (1 + square) ** 1.5
        keep = a * power / (a * power + 1 - a)
        spectrum = jnp.fft.fft2(x_t, axes=(0, 1)) * keep[..., None]
        signal = jnp.fft.ifft2(spectrum, axes=(0, 1)).real
        return Prediction((x_t - signal) / jnp.sqrt(1 - a))


jax.tree_util.register_static(Wiener)


class Outputs:
    """Stands for a network whose output does not depend on what it sees."""

    image_shape = (32, 32, 3)
    alpha_bar = alpha_bars('linear', 1000)

    def __init__(self, numbers):
        self.numbers = numbers

    def __call__(self, x_t, t):
        noise = np.random.default_rng(7).standard_normal(x_t.shape)
        return Prediction(jnp.asarray(self.numbers * noise) + 0 * (x_t + t))


jax.tree_util.register_static(Outputs)


class CheckTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('linear', 'linear', 1000),
        ('cosine', 'cosine', 1000),
        ('cosine_4000', 'cosine', 4000),
        ('linear_100', 'linear', 100),
    )
    def test_what_denoises_at_its_own_times_passes(self, name, steps):
        check.refuse_unless_it_denoises(Wiener(alpha_bars(name, steps)))

    @parameterized.parameters((16, 1), (32, 4), (128, 3))
    def test_pictures_may_have_any_side_and_channels(self, side, channels):
        trained = alpha_bars('linear', 1000)
        check.refuse_unless_it_denoises(
            Wiener(trained, side=side, channels=channels)
        )

    @parameterized.named_parameters(
        ('cosine_for_linear', ('linear', 1000), ('cosine', 1000), 'half'),
        ('linear_for_cosine', ('cosine', 1000), ('linear', 1000), 'twice'),
        ('more_steps', ('linear', 1000), ('linear', 4000), 'half'),
        ('fewer_steps', ('cosine', 2000), ('cosine', 1000), 'twice'),
        ('not_rescaled', ('cosine', 1000), ('cosine', 4000), 'half'),
    )
    def test_another_noise_schedule_is_told(self, trained, claimed, told):
        prior = Wiener(alpha_bars(*trained), alpha_bars(*claimed))
        with self.assertRaisesRegex(
            ValueError, f'told {told} the timestep.*set noise_schedule, num_t'
        ) as caught:
            check.refuse_unless_it_denoises(prior)
        self.assertNotIn('\n', str(caught.exception))

    def test_rescaled_timesteps_are_the_right_ones(self):
        trained = alpha_bars('cosine', 1000)
        claimed = alpha_bars('cosine', 4000)
        check.refuse_unless_it_denoises(Wiener(trained, claimed, 0.25))

    @parameterized.parameters(0.0, 0.3, 1.0)
    def test_what_does_not_denoise_is_refused(self, numbers):
        with self.assertRaisesRegex(ValueError, 'does not denoise.*0.8'):
            check.refuse_unless_it_denoises(Outputs(numbers))

    @parameterized.parameters(np.nan, np.inf)
    def test_what_is_not_finite_is_refused(self, numbers):
        with self.assertRaisesRegex(ValueError, 'NaN or infinite'):
            check.refuse_unless_it_denoises(Outputs(numbers))

    def test_the_embedded_prior_passes(self):
        prior = checkpoint.load_prior('faces64')
        check.refuse_unless_it_denoises(prior)

    @pytest.mark.slow
    def test_the_embedded_prior_with_another_schedule_is_told(self):
        prior = checkpoint.load_prior('faces64')
        with self.assertRaisesRegex(ValueError, 'told half the timestep'):
            check.refuse_unless_it_denoises(
                prior.replace(noise_schedule='cosine')
            )


class DeadLeavesTest(absltest.TestCase):
    def test_the_spectrum_falls_as_that_of_photographs_does(self):
        # In power with about the square of the frequency; in two dimensions,
        # by Ruderman (1997), with an exponent between 1.5 and 3.
        picture = check.dead_leaves(64, 64, 1)[..., 0]
        window = np.outer(np.hanning(64), np.hanning(64))
        power = np.abs(np.fft.fft2(window * (picture - picture.mean()))) ** 2
        frequency = np.fft.fftfreq(64) * 64
        radius = np.hypot(frequency[:, None], frequency)
        rings = [2, 4, 8, 16]
        means = [power[(radius >= r) & (radius < 2 * r)].mean() for r in rings]
        slope = np.polyfit(np.log(rings), np.log(means), 1)[0]
        self.assertBetween(-slope, 1.5, 3.5)

    def test_it_is_a_picture_of_any_shape(self):
        for shape in ((16, 16, 1), (32, 64, 4)):
            picture = check.dead_leaves(*shape)
            self.assertEqual(picture.shape, shape)
            self.assertLessEqual(np.abs(picture).max(), 1)
            self.assertGreater(picture.std(), 0.2)


if __name__ == '__main__':
    absltest.main()
