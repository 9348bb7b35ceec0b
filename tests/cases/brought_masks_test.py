"""Masks as people save them: 528 pixels missing, a refusal, or a warning."""

import pathlib
import tempfile

import numpy as np
import tifffile
from absl.testing import absltest, parameterized
from PIL import Image

from tests.cases.brought import (
    DATA,
    NUM_MISSING,
    OBSERVED,
    problem_of,
    residual_std,
)

_MASKS = DATA / 'masks'


def restored_from(y, mask, *flags):
    return problem_of(
        f'--measurement={_MASKS / y}',
        f'--mask={_MASKS / mask}',
        '--task=box_inpainting',
        *flags,
    )


class BroughtMasksTest(parameterized.TestCase):
    def assert_box_is_missing(self, problem, said):
        observed = np.asarray(problem.operator.mask)[..., 0] > 0
        np.testing.assert_array_equal(observed, OBSERVED)
        self.assertIn(f'{NUM_MISSING} of 4,096 pixels missing', said)
        # The truth is off by its noise alone, 0.05, in 3 x 3,568 numbers.
        self.assertAlmostEqual(residual_std(problem), 0.05, delta=0.002)

    @parameterized.product(
        y=['y_black.png', 'y_white.png'],
        mask=['255', '01', '16', '16_low', '1bit'],
    )
    def test_two_values_of_any_type_mean_the_box(self, y, mask):
        problem, said = restored_from(y, f'mask_{mask}.png')
        self.assert_box_is_missing(problem, said)
        self.assertNotIn('warning', said)

    def test_floats_mean_the_box_too(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / 'mask.tif'
            tifffile.imwrite(
                path, OBSERVED.astype(np.float32), photometric='minisblack'
            )
            self.assert_box_is_missing(*restored_from('y_black.png', path))

    @parameterized.parameters(
        ('mask_red.png', 'red'),
        ('mask_green.png', 'green'),
        ('mask_alpha_white.png', 'alpha'),
        ('mask_inverted.png', 'white'),
    )
    def test_what_is_marked_otherwise_is_refused_until_it_is_said(
        self, mask, mask_of
    ):
        with self.assertRaisesRegex(ValueError, f'mask.*{mask_of}'):
            restored_from('y_black.png', mask)
        self.assert_box_is_missing(
            *restored_from('y_black.png', mask, f'--mask_of={mask_of}')
        )

    def test_a_jpeg_loses_no_more_than_the_edge(self):
        problem, _ = restored_from('y_black.png', 'mask.jpg')
        observed = np.asarray(problem.operator.mask)[..., 0] > 0
        self.assertFalse((observed & ~OBSERVED).any())
        self.assertLess((~observed).sum(), NUM_MISSING + 4 * 24)

    def test_a_grey_pixel_is_not_observed(self):
        problem, said = restored_from('y_aa.png', 'mask_aa.png')
        with Image.open(_MASKS / 'mask_aa.png') as picture:
            white = np.asarray(picture) == 255
        observed = np.asarray(problem.operator.mask)[..., 0] > 0
        np.testing.assert_array_equal(observed, white)
        self.assertIn('grey pixels', said)
        self.assertAlmostEqual(residual_std(problem), 0.05, delta=0.002)

    def test_another_size_is_refused(self):
        with self.assertRaisesRegex(ValueError, '128 x 128, but must be 64'):
            restored_from('y_black.png', 'mask_128.png')

    def test_magnitudes_are_read_from_numbers_and_refused_as_a_picture(self):
        flags = ('--task=phase_retrieval',)
        y = np.random.default_rng(0).uniform(0, 30, (96, 96, 3))
        with self.assertRaisesRegex(ValueError, r'pr96\.png .*\.npy'):
            problem_of(f'--measurement={_MASKS / "pr96.png"}', *flags)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / 'pr96.npy'
            np.save(path, y.astype(np.float32))
            problem, _ = problem_of(f'--measurement={path}', *flags)
        np.testing.assert_allclose(problem.y, y, rtol=1e-6)


if __name__ == '__main__':
    absltest.main()
