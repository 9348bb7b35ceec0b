"""Drawn slices: the same whoever draws them, and shapes of the size they say."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax import phantoms


def _area(distance, side):
    """Of a shape, in units of half the picture's side squared."""
    return phantoms._coverage(distance, 2 / side).sum() * (2 / side) ** 2


def _grid(side):
    centres = (np.arange(side) + 0.5) / side * 2 - 1
    return centres, centres[:, None]


class DrawTest(parameterized.TestCase):
    def test_a_slice_is_the_same_in_any_company(self):
        together = phantoms.draw(3, 20, first=5)
        alone = phantoms.draw(3, 1, first=18)[0]
        np.testing.assert_array_equal(together[13], alone)

    def test_no_two_slices_are_alike(self):
        slices = np.concatenate([phantoms.draw(0, 10), phantoms.draw(1, 10)])
        flat = slices.reshape(20, -1)
        distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
        self.assertGreater(distances[~np.eye(20, dtype=bool)].min(), 5)

    def test_a_larger_picture_is_of_the_same_scene(self):
        small = phantoms.draw(0, 8, side=64)
        large = phantoms.draw(0, 8, side=256)
        means = large.reshape(8, 64, 4, 64, 4, 1).mean(axis=(2, 4))
        # Both only approximate a pixel's share at an edge.
        self.assertLess(np.abs(means - small).mean(), 0.01)

    def test_values_are_in_range_around_a_black_frame(self):
        slices = phantoms.draw(0, 50)
        self.assertEqual(slices.dtype, np.float32)
        self.assertEqual(slices.shape, (50, 64, 64, 1))
        self.assertEqual(slices.min(), -1)
        self.assertLessEqual(slices.max(), 1)
        np.testing.assert_array_equal(slices[:, :2, :2], -1)
        # The body is there: tissue is never black.
        self.assertGreater((slices[:, 24:40, 24:40] > -1).mean(), 0.8)

    @parameterized.parameters(
        dict(seed=-1), dict(num_images=0), dict(first=0.5), dict(side=4)
    )
    def test_other_numbers_are_refused(self, **given):
        (name,) = given
        with self.assertRaisesRegex(ValueError, f'{name} must be a whole'):
            phantoms.draw(**{'seed': 0, 'num_images': 1, **given})


class SceneTest(absltest.TestCase):
    """What is in a slice, before it is drawn."""

    def test_centres_fill_the_part_of_the_body_that_they_reach(self):
        # A body that is neither round nor level, away from the middle.
        left, top, length, width, angle = body = 0.05, -0.03, 0.8, 0.5, 0.6
        shapes = phantoms._placed(np.random.default_rng(0), body, 2000, 0.7)
        x, y = shapes[:, 0] - left, shapes[:, 1] - top
        along = (np.cos(angle) * x + np.sin(angle) * y) / length
        across = (np.cos(angle) * y - np.sin(angle) * x) / width
        squared = along**2 + across**2
        self.assertLessEqual(squared.max(), 0.7**2 + 1e-9)
        # Even over a disc: half of the points lie within half of its area. The
        # standard error of the mean of 2000 even numbers is 0.29 / sqrt(2000).
        self.assertAlmostEqual(
            squared.mean(), 0.7**2 / 2, delta=4 * 0.7**2 * 0.29 / 2000**0.5
        )

    def test_bars_are_longer_than_wide_and_holes_are_round(self):
        for number in range(200):
            scene = phantoms._scene(0, number)
            for name in ('plates', 'organs'):
                length, width = scene[name][:, 2:4].T
                self.assertTrue(np.all(length > width))
                self.assertTrue(np.all(width > 0))
            length, width = scene['holes'][:, 2:4].T
            np.testing.assert_array_equal(length, width)

    def test_bare_tissue_is_its_brightness_and_both_waves(self):
        scene = phantoms._scene(0, 1)
        for name in ('contrast', 'has_plate', 'has_hole'):
            scene[name] = np.zeros_like(scene[name])
        scene['fibres'][3] = 0
        scene['waves'][:, 3] = 0.05, 0.02
        stacked = {n: np.asarray(v)[None] for n, v in scene.items()}
        found = phantoms._render(stacked, 64)[0]
        # The middle is in every body: a quarter of the sides, 0.6 and more.
        rows, columns = np.mgrid[24:40, 24:40]
        x, y = (2 * (i + 0.5) / 64 - 1 for i in (columns, rows))
        expected = scene['tissue']
        for frequency, direction, phase, size in scene['waves']:
            along = x * np.cos(direction) + y * np.sin(direction)
            expected = expected + size * np.cos(frequency * along + phase)
        np.testing.assert_allclose(
            found[24:40, 24:40], 2 * expected - 1, atol=1e-5
        )


class ShapesTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.5, 0.5, 0.0), (0.7, 0.2, 0.6), (0.06, 0.04, 1.0)
    )
    def test_shapes_have_their_area_whatever_way_they_are_turned(
        self, length, width, angle
    ):
        shape = np.array([[[[v]]] for v in (0.11, -0.07, length, width, angle)])
        shape = shape.reshape(1, 5, 1, 1)
        ellipse = phantoms._to_ellipse(_grid(64), shape)
        rectangle = phantoms._to_rectangle(_grid(64), shape)
        # A few percent of a pixel along the edge, 1 / 32 wide.
        edge = 0.03 * 4 * (length + width) / 32 + 1e-3
        self.assertAlmostEqual(
            _area(ellipse, 64), np.pi * length * width, delta=edge
        )
        self.assertAlmostEqual(
            _area(rectangle, 64), 4 * length * width, delta=edge
        )

    def test_a_shape_lies_along_its_angle(self):
        shape = np.array([0.1, -0.2, 0.6, 0.1, 0.5]).reshape(1, 5, 1, 1)
        along = 0.1 + 0.5 * np.cos(0.5), -0.2 + 0.5 * np.sin(0.5)
        across = 0.1 - 0.5 * np.sin(0.5), -0.2 + 0.5 * np.cos(0.5)
        for to_edge in (phantoms._to_ellipse, phantoms._to_rectangle):
            self.assertLess(to_edge(along, shape).item(), 0)
            self.assertGreater(to_edge(across, shape).item(), 0)


if __name__ == '__main__':
    absltest.main()
