"""Half-quadratic splitting and ADMM: their iterations, and where these end."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch, schedule
from invjax.diffusion import Transition
from invjax.methods.pnp import HQS, PnPADMM
from invjax.priors import gaussian
from tests.methods import dense

_LONG = schedule.reverse_steps(dense.ALPHA_BAR, 1000)
_CLASSES = {'hqs': HQS, 'pnp_admm': PnPADMM}


def iterated(case, name, tau, lam, levels):
    """z after all rows, and the lengths that Info has of the last one."""
    z = np.clip(np.linalg.pinv(case.matrix, 1e-3) @ case.y, -1, 1)
    times = np.asarray(case.steps.t)
    first = dense.ALPHA_BAR[times[times <= tau].max()]
    price = np.zeros(16)
    for t in times:
        if levels == 'falling' and t > tau:
            continue
        a = first if levels == 'fixed' else dense.ALPHA_BAR[t]
        variance = (1 - a) / a / lam
        u = variance * price
        x = dense.Affine(np.zeros((16, 1)), z - u)
        x = case.nearest(x, variance).offset
        estimate = case.estimate(a)
        denoised = estimate.matrix @ (np.sqrt(a) * (x + u)) + estimate.offset
        lengths = (
            np.linalg.norm(case.y - case.matrix @ denoised),
            np.linalg.norm(denoised - x),
            np.linalg.norm(x - (z - u)),
        )
        if name == 'pnp_admm':
            price = (u + x - denoised) / variance
        z = denoised
    return z, lengths


class IterationTest(parameterized.TestCase):
    @parameterized.product(
        settings=[{'tau': 650, 'lam': 0.5}, {'tau': 500, 'lam': 2.0}],
        levels=['falling', 'fixed'],
        name=['hqs', 'pnp_admm'],
        noise_std=[0.0, 0.2],
    )
    def test_it_is_that_of_the_papers(self, settings, levels, name, noise_std):
        case = dense.case_of('super_resolution', noise_std)
        method = _CLASSES[name](
            **settings, levels=levels, transition=Transition(clip=False)
        )
        z, info = dense.sample(method, case.problem, case.prior, case.steps)
        expected, lengths = iterated(case, name, **settings, levels=levels)
        np.testing.assert_allclose(np.ravel(z), expected, atol=1e-3)
        found = info.residual[-1], info.prior_step[-1], info.guidance[-1]
        np.testing.assert_allclose(found, lengths, atol=3e-3)

    def test_it_starts_at_the_guess_kept_in_range(self):
        case = dense.case_of('motion_deblur')
        measured = case.problem.replace(y=5 * case.problem.y)
        z, state = HQS().start(dense.KEY, measured, case.steps)
        expected = np.linalg.pinv(case.matrix, 1e-3) @ (5 * case.y)
        self.assertGreater(np.abs(expected).max(), 1.2)
        np.testing.assert_allclose(
            np.ravel(z), np.clip(expected, -1, 1), atol=1e-3
        )
        np.testing.assert_array_equal(state.price, np.zeros((4, 4, 1)))

    def test_a_clip_is_one_of_the_denoised_image(self):
        case = dense.case_of('super_resolution')
        far = case._replace(problem=case.problem.replace(y=case.problem.y + 9))
        moved = {}
        for clip in (True, False):
            method = HQS(999, 0.01, transition=Transition(clip=clip))
            z, state = method.start(dense.KEY, far.problem, far.steps)
            moved[clip], _, _ = dense.update(method, far, 3, z, state=state)
        self.assertGreater(np.abs(moved[False]).max(), 1.2)
        np.testing.assert_allclose(
            moved[True], np.clip(moved[False], -1, 1), atol=1e-5
        )

    def test_rows_above_tau_leave_the_image_and_the_dual_as_they_are(self):
        case = dense.case_of('random_inpainting')
        steps = schedule.reverse_steps(dense.ALPHA_BAR, 20)
        below = schedule.Steps(*(field[steps.t <= 400] for field in steps))
        for cls in (HQS, PnPADMM):
            found, expected = (
                dense.sample(cls(400), case.problem, case.prior, rows)[0]
                for rows in (steps, below)
            )
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_a_sweep_leaves_out_rows_above_tau_only_where_levels_fall(self):
        case = dense.case_of('random_inpainting')
        for levels, num_left_out in (('falling', 4), ('fixed', 0)):
            lanes = batch.make_lanes(
                dense.KEY, [case.problem], [HQS(0.0, levels=levels)]
            )
            result = batch.run_lanes(lanes, case.prior, 5)
            left_out = np.isnan(result.info.residual).sum()
            self.assertEqual(left_out, num_left_out)


class LimitTest(parameterized.TestCase):
    @parameterized.product(
        kind=['random_inpainting', 'super_resolution'], lam=[0.5, 2.0]
    )
    def test_fixed_levels_come_to_the_modes_of_gaussian_posteriors(
        self, kind, lam
    ):
        tau = 200
        case = dense.case_of(kind, 0.2)
        level_var = (1 - dense.ALPHA_BAR[tau]) / dense.ALPHA_BAR[tau]
        smoothed = case.covariance + level_var * np.eye(16)

        def mode(covariance):
            """Under lam / 2 ||x - mean||^2 by the inverse covariance."""
            weighted = gaussian.GaussianPrior.from_covariance(
                np.asarray(case.prior.mean), covariance / lam, dense.ALPHA_BAR
            )
            return gaussian.gaussian_posterior(
                weighted, case.matrix, case.y, 0.2
            ).mean.ravel()

        def denoised(x):
            gain = case.covariance @ np.linalg.inv(smoothed)
            return case.mean + gain @ (x - case.mean)

        expected = {
            'pnp_admm': mode(case.covariance),
            'hqs': denoised(mode(smoothed)),
        }
        self.assertGreater(
            np.abs(expected['hqs'] - expected['pnp_admm']).max(), 0.02
        )
        for name, image in expected.items():
            method = _CLASSES[name](
                tau, lam, 'fixed', transition=Transition(clip=False)
            )
            found, info = dense.sample(method, case.problem, case.prior, _LONG)
            np.testing.assert_allclose(np.ravel(found), image, atol=2e-3)
            if name == 'pnp_admm':
                np.testing.assert_allclose(info.prior_step[-1], 0, atol=1e-3)


if __name__ == '__main__':
    absltest.main()
