"""SDEdit: where it starts, what it leaves out, and the prior's steps below."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.sdedit import SDEdit
from tests.methods import dense


def start(case, tau):
    """Around the picture of y: itself, or the least-norm image of its size."""
    times = np.asarray(case.steps.t)
    a = dense.ALPHA_BAR[times[times <= tau].max()]
    picture = np.linalg.pinv(case.matrix, 1e-3) @ case.y
    if case.y.size == 16:
        picture = case.y
    return dense.diffused(dense.Affine(np.zeros((16, 1)), picture), a)


class StartTest(parameterized.TestCase):
    @parameterized.product(
        tau=[0, 200, 500, 998, 999],
        kind=['random_inpainting', 'super_resolution'],
    )
    def test_it_starts_at_the_diffused_picture_of_the_measurement(
        self, tau, kind
    ):
        case = dense.case_of(kind)
        method = dense.as_numbers(SDEdit(tau))
        drawn = jax.vmap(
            lambda key: method.start(key, case.problem, case.steps)[0]
        )(jax.random.split(dense.KEY, 4000))
        begin = start(case, tau)
        dense.assert_moments(drawn, begin.offset, begin.covariance)

    def test_its_first_timestep_is_tau(self):
        self.assertEqual(SDEdit(123).first_t(dense.STEPS), 123)


class StepTest(parameterized.TestCase):
    def test_steps_above_tau_leave_the_image_as_it_is(self):
        case = dense.case_of('random_inpainting')
        x_t = dense.points(1)[0].reshape(4, 4, 1)
        for tau in (400, 399, 599.5):
            for row, t in enumerate(np.asarray(case.steps.t)):
                x_s, _, _ = dense.update(SDEdit(tau), case, row, x_t)
                self.assertEqual(np.array_equal(x_s, x_t), t > tau)

    def test_steps_from_tau_down_are_those_of_the_prior(self):
        case = dense.case_of('random_inpainting')
        for settings in ({}, {'kind': 'ddim', 'eta': 0.7}):
            method = SDEdit(600, transition=Transition(clip=False, **settings))
            for row in (3, 5):
                dense.assert_step(
                    method, case, row, dense.prior_step(case, row, **settings)
                )

    @parameterized.product(tau=[250, 700], noise_std=[0.0, 0.3])
    def test_the_whole_process_has_the_moments_of_its_steps(
        self, tau, noise_std
    ):
        case = dense.case_of('super_resolution', noise_std)
        rows = [
            row for row, t in enumerate(np.asarray(case.steps.t)) if t <= tau
        ]
        dense.assert_samples(
            SDEdit(tau, transition=Transition(clip=False)),
            case,
            [dense.prior_step(case, row) for row in rows],
            start(case, tau),
        )


if __name__ == '__main__':
    absltest.main()
