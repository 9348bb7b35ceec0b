"""DDNM and DDNM+, one singular value at a time."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.ddnm import DDNM
from tests.methods import dense

# Both see less than the image has; the second's smallest singular value is
# small, though not so small that it counts as none.
_KINDS = ('super_resolution', 'gaussian_deblur')


def unclipped(**settings):
    return DDNM(**settings, transition=Transition(clip=False))


def plain(case, row):
    """Wang et al. (2023), eq. 10: the null space of the estimate, and A^+ y."""
    level = case.at(row)
    x_0 = case.estimate(level.a)
    inverse = np.linalg.pinv(case.matrix, 1e-4)
    x_0 = inverse @ case.y + (x_0 - inverse @ case.matrix @ x_0)
    return dense.ancestral(x_0, case.x_t, level)


def plus(case, row):
    """Their eq. 17 to 19, with sigma_t^2 the variance of the ancestral step and
    a_t the weight that it gives to x_0."""
    level = case.at(row)
    x_0 = case.estimate(level.a)
    left, singular, right = np.linalg.svd(case.matrix)
    sigma_t = np.sqrt(level.posterior_variance)
    a_t = np.sqrt(level.b) * level.beta / (1 - level.a)
    scaled, noise = [], []
    for value in np.pad(singular, (0, len(right) - len(singular))):
        if value == 0:
            scaled.append(0.0)
            noise.append(sigma_t**2)
        elif sigma_t >= a_t * case.noise_std / value:
            scaled.append(1 / value)
            noise.append(sigma_t**2 - (a_t * case.noise_std / value) ** 2)
        else:
            # As much of y as brings its noise down to sigma_t.
            scaled.append(sigma_t / (a_t * case.noise_std))
            noise.append(0.0)
    inverse = right.T[:, : len(singular)] * scaled[: len(singular)]
    x_0 = x_0 + inverse @ left.T @ case.residual(x_0)
    # The mean of the ancestral step, and the noise that is left.
    mean = dense.ancestral(x_0, case.x_t, level)
    mean.covariance = (right.T * noise) @ right
    return mean


class StepTest(parameterized.TestCase):
    @parameterized.product(
        noise_std=[0.0, 0.1, 0.4], kind=_KINDS, travel=[1, 3]
    )
    def test_plus_brings_the_noise_of_y_down_to_that_of_the_step(
        self, noise_std, kind, travel
    ):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            once = plus(case, row)
            dense.assert_step(
                unclipped(travel=travel),
                case,
                row,
                dense.repeated(once, case.at(row), travel),
            )

    def test_both_regimes_are_met(self):
        below = []
        for row in dense.ROWS[:-1]:
            case = dense.case_of('gaussian_deblur', 0.4)
            level = case.at(row)
            weight = np.sqrt(level.b) * level.beta / (1 - level.a)
            carried = weight * 0.4 / np.linalg.svd(case.matrix)[1]
            below += [*(carried < np.sqrt(level.posterior_variance))]
        self.assertBetween(np.mean(below), 0.1, 0.9)

    @parameterized.product(noise_std=[0.0, 0.3], kind=_KINDS, travel=[1, 2])
    def test_plain_takes_the_range_from_y(self, noise_std, kind, travel):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(noise_model='plain', travel=travel),
                case,
                row,
                dense.repeated(plain(case, row), case.at(row), travel),
            )

    def test_plain_takes_the_step_that_the_transition_says(self):
        case = dense.case_of('super_resolution')
        method = DDNM(
            noise_model='plain',
            transition=Transition(variance='beta', clip=False),
        )
        inverse = np.linalg.pinv(case.matrix)
        for row in dense.ROWS:
            level = case.at(row)
            x_0 = case.estimate(level.a)
            x_0 = x_0 + inverse @ case.residual(x_0)
            dense.assert_step(
                method,
                case,
                row,
                dense.ancestral(x_0, case.x_t, level, 'beta'),
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('super_resolution')
        steps = [
            dense.repeated(plus(case, row), case.at(row), 2) for row in range(6)
        ]
        dense.assert_samples(unclipped(travel=2), case, steps)


if __name__ == '__main__':
    absltest.main()
