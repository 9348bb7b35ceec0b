"""Conjugate integrators, against their flow, integrated by Runge and Kutta."""

import numpy as np
import scipy.integrate
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.c_pigdm import CPiGDM
from invjax.methods.unconditional import Unconditional
from tests.methods import dense

_KINDS = (
    'gaussian_deblur',
    'random_inpainting',
    'super_resolution',
    'motion_deblur',
)


def unclipped(**settings):
    return CPiGDM(**settings, transition=Transition(clip=False))


def follow_flow(case, row, x_t, strength):
    """u_s by Runge and Kutta: eps and its pass back are held over the step.

    Returns:
        The clean image and the noise that make up x_s, sqrt(b) and sqrt(1 - b)
        of them.
    """
    level = case.at(row)
    sigma_t, sigma_s = (np.sqrt((1 - a) / a) for a in (level.a, level.b))
    # As `Spectrum.significant` leaves them out.
    left, singular, right = np.linalg.svd(case.matrix, full_matrices=False)
    singular[singular < 0.03 * singular[0]] = 0
    matrix = (left * singular) @ right
    u = x_t / np.sqrt(level.a)
    # x_0 | u is normal, with the mean mu + slope (u - mu).
    slope = case.covariance @ np.linalg.inv(
        case.covariance + sigma_t**2 * np.eye(16)
    )
    x0_hat = case.mean + slope @ (u - case.mean)
    eps = (u - x0_hat) / sigma_t
    eps_slope = (np.eye(16) - slope) / sigma_t

    def pull(sigma, x_0):
        """r^2 A^T (r^2 A A^T + noise_std^2 I)^+ (y - A x_0)."""
        r_squared = sigma**2 / (1 + sigma**2)
        inner = r_squared * matrix @ matrix.T
        inner += case.noise_std**2 * np.eye(len(inner))
        inverse = np.linalg.pinv(inner, rcond=1e-6, hermitian=True)
        return r_squared * matrix.T @ (inverse @ (case.y - matrix @ x_0))

    j = eps_slope.T @ pull(sigma_t, x0_hat)

    def velocity(sigma, u):
        weight = strength * sigma / (1 + sigma**2)
        return eps - weight * pull(sigma, u - sigma * eps) + weight * sigma * j

    end = max(sigma_s, 1e-6)
    solved = scipy.integrate.solve_ivp(
        velocity, (sigma_t, end), u, rtol=1e-8, atol=1e-10
    )
    return solved.y[:, -1] - sigma_s * eps, eps


class StepTest(parameterized.TestCase):
    @parameterized.product(
        strength=[1.5, 6.0], noise_std=[0.0, 0.3], kind=_KINDS
    )
    def test_a_step_follows_the_flow(self, strength, noise_std, kind):
        case = dense.case_of(kind, noise_std)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            level = case.at(row)
            clean, eps = follow_flow(case, row, np.float64(x_t), strength)
            x_s, _, _ = dense.update(
                unclipped(strength=strength), case, row, x_t
            )
            np.testing.assert_allclose(
                np.ravel(x_s),
                np.sqrt(level.b) * clean + np.sqrt(1 - level.b) * eps,
                rtol=3e-4,
                atol=5e-4,
            )

    @parameterized.product(mix=[0.3, 0.9], noise_std=[0.0, 0.3])
    def test_fresh_noise_takes_the_place_of_the_predicted_one(
        self, mix, noise_std
    ):
        case = dense.case_of('gaussian_deblur', noise_std)
        for row in dense.ROWS:
            level = case.at(row)

            def moved(x_t, row=row, level=level):
                clean, eps = follow_flow(case, row, x_t, 2.0)
                kept = np.sqrt((1 - level.b) * (1 - mix))
                return np.sqrt(level.b) * clean + kept * eps

            offset = moved(np.zeros(16))
            matrix = np.stack([moved(e) - offset for e in np.eye(16)], -1)
            expected = dense.Affine(matrix, offset)
            dense.assert_step(
                unclipped(strength=2.0, mix=mix),
                case,
                row,
                expected.noised((1 - level.b) * mix),
                5e-4,
            )

    def test_at_strength_zero_it_is_the_prior_alone_by_ddim(self):
        case = dense.case_of('random_inpainting')
        x_t = 2 * dense.points(1)[0]
        for clip in (True, False):
            alone = Unconditional(transition=Transition(kind='ddim', clip=clip))
            guided = CPiGDM(0.0, transition=Transition(clip=clip))
            for row in range(6):
                x_s, expected = (
                    dense.update(method, case, row, x_t)[0]
                    for method in (guided, alone)
                )
                np.testing.assert_allclose(x_s, expected, atol=1e-5)

    def test_both_estimates_are_clipped(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        clean, _ = follow_flow(case, 5, np.float64(x_t), 6.0)
        self.assertGreater(np.abs(clean).max(), 1.2)
        x_s, _, _ = dense.update(CPiGDM(6.0), case, 5, x_t)
        np.testing.assert_allclose(
            np.ravel(x_s), np.clip(clean, -1, 1), atol=1e-3
        )


if __name__ == '__main__':
    absltest.main()
