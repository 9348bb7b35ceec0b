"""RePaint: known pixels put in, resampled, by algebra."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods.repaint import RePaint
from tests.methods import dense


def expected(case, row, resamplings):
    level = case.at(row)
    mask = np.diag(case.matrix.sum(axis=0))  # Of the identity some rows.
    known = mask @ dense.diffused(
        dense.Affine(np.zeros((16, 16)), case.matrix.T @ case.y), level.b
    )
    unknown = (np.eye(16) - mask) @ dense.ancestral(
        case.estimate(level.a), case.x_t, level
    )
    return dense.repeated(known + unknown, level, resamplings)


class StepTest(parameterized.TestCase):
    @parameterized.product(resamplings=[1, 3], noise_std=[0.0, 0.3])
    def test_known_pixels_are_put_in_as_noisy_as_the_others(
        self, resamplings, noise_std
    ):
        case = dense.case_of('random_inpainting', noise_std)
        method = RePaint(resamplings, transition=Transition(clip=False))
        for row in dense.ROWS:
            dense.assert_step(
                method, case, row, expected(case, row, resamplings)
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('random_inpainting')
        method = RePaint(2, transition=Transition(clip=False))
        steps = [expected(case, row, 2) for row in range(6)]
        dense.assert_samples(method, case, steps)


if __name__ == '__main__':
    absltest.main()
