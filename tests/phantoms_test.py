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


def _warp(bend, taper, radius):
    return np.array([bend, taper, radius]).reshape(1, 3, 1, 1)


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

    def test_candidates_fill_the_part_of_the_body_that_a_margin_leaves(self):
        # A body that is neither round nor level, away from the middle.
        left, top, length, width, angle = body = 0.05, -0.03, 0.8, 0.5, 0.6
        margins = np.linspace(0.1, 0.4, 200)
        x, y = phantoms._candidates(np.random.default_rng(0), body, margins)
        x, y = x - left, y - top
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        margins = margins[:, None]
        squared = (along / (length - margins)) ** 2
        squared += (across / (width - margins)) ** 2
        self.assertLessEqual(squared.max(), 1 + 1e-9)
        # Even over a disc: half of the points lie within half of its area. The
        # standard error of the mean of n even numbers is 0.29 / sqrt(n).
        self.assertAlmostEqual(
            squared.mean(), 0.5, delta=4 * 0.29 / squared.size**0.5
        )

    def test_shapes_have_room_of_their_own_within_the_shell(self):
        for number in range(200):
            scene = phantoms._scene(0, number)
            left, top, length, width, angle = scene['body']
            length, width = (
                length - scene['thickness'],
                width - scene['thickness'],
            )
            discs = []
            for name, there, share in (
                ('organs', scene['contrast'] != 0, None),
                ('plates', scene['has_plate'], 0.8),
                ('holes', scene['has_hole'], None),
            ):
                for x, y, long, wide, _ in scene[name][there]:
                    # As large as the shape, or most of its length.
                    radius = share * long if share else np.sqrt(long * wide)
                    x, y = x - left, y - top
                    discs.append((x, y, radius))
                    along = np.cos(angle) * x + np.sin(angle) * y
                    across = np.cos(angle) * y - np.sin(angle) * x
                    squared = (along / (length - radius)) ** 2
                    squared += (across / (width - radius)) ** 2
                    self.assertLess(squared, 1)
            for i, (x, y, radius) in enumerate(discs):
                for u, v, other in discs[:i]:
                    self.assertGreater(np.hypot(x - u, y - v), radius + other)

    def test_as_many_shapes_as_it_says(self):
        scenes = [phantoms._scene(0, number) for number in range(500)]
        for name, fewest, most in (
            ('contrast', 1, phantoms.NUM_ORGANS),
            ('has_plate', 0, phantoms.NUM_PLATES),
            ('has_hole', 0, phantoms.NUM_HOLES),
        ):
            numbers = {np.count_nonzero(scene[name]) for scene in scenes}
            self.assertEqual(numbers, set(range(fewest, most + 1)))
        has_fibres = [scene['fibres'][0, 3] != 0 for scene in scenes]
        # Four standard errors of a share of a third in 500.
        self.assertAlmostEqual(np.mean(has_fibres), 1 / 3, delta=0.085)

    def test_bars_are_longer_than_wide_and_holes_are_nearly_round(self):
        for number in range(200):
            scene = phantoms._scene(0, number)
            for name in ('plates', 'organs'):
                length, width = scene[name][:, 2:4].T
                self.assertTrue(np.all(length > width))
                self.assertTrue(np.all(width > 0))
            length, width = scene['holes'][:, 2:4].T
            self.assertTrue(np.all((0.8 * length <= width) & (width < length)))

    def test_bare_tissue_is_its_brightness_and_all_waves(self):
        scene = phantoms._scene(0, 1)
        for name in ('contrast', 'has_plate', 'has_hole'):
            scene[name] = np.zeros_like(scene[name])
        scene['fibres'][0, 3] = 0
        # Louder than they are, so that one that is missing is seen.
        scene['waves'][:, 3] = 0.02
        stacked = {n: np.asarray(v)[None] for n, v in scene.items()}
        found = phantoms._render(stacked, 64)[0]
        # The middle of the picture lies within this body.
        rows, columns = np.mgrid[24:40, 24:40]
        x, y = (2 * (i + 0.5) / 64 - 1 for i in (columns, rows))
        expected = scene['tissue']
        for frequency, direction, phase, size in scene['waves']:
            along = x * np.cos(direction) + y * np.sin(direction)
            expected = expected + size * np.cos(frequency * along + phase)
        np.testing.assert_allclose(
            found[24:40, 24:40], 2 * expected - 1, atol=1e-5
        )

    def test_what_a_slice_has_is_seen_in_the_middle_of_each_shape(self):
        side = 256
        seen = 0
        for number in range(20):
            scene = phantoms._scene(0, number)
            stacked = {n: np.asarray(v)[None] for n, v in scene.items()}
            picture = phantoms._render(stacked, side)[0]

            def at(shape, picture=picture):
                column, row = np.int64((shape[:2] + 1) / 2 * side)
                x, y = ((i + 0.5) / side * 2 - 1 for i in (column, row))
                return x, y, (picture[row, column] + 1) / 2

            for shape in scene['holes'][scene['has_hole']]:
                self.assertEqual(at(shape)[2], 0)
            for shape, density, there in zip(
                scene['plates'],
                scene['density'],
                scene['has_plate'],
                strict=True,
            ):
                if there:
                    self.assertAlmostEqual(at(shape)[2], density, places=5)
            for i, shape in enumerate(scene['organs']):
                if scene['contrast'][i] == 0:
                    continue
                x, y, value = at(shape)

                def wave(numbers, x=x, y=y):
                    frequency, direction, phase, size = numbers
                    along = x * np.cos(direction) + y * np.sin(direction)
                    return size * np.cos(frequency * along + phase)

                expected = scene['tissue'] + scene['contrast'][i]
                expected += sum(wave(w) for w in scene['waves'])
                if i == 0:
                    fine, slow = scene['fibres']
                    expected += wave(fine) * (1 + wave(slow)) / 2
                    seen += fine[3] > 0
                expected = np.clip(expected, 0, 1)
                self.assertAlmostEqual(value, expected, delta=1e-4)
        # Fibres were among what was seen.
        self.assertGreater(seen, 2)


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
        bar = phantoms._to_bar(_grid(64), shape, _warp(0, 0, 0))
        # A few percent of a pixel along the edge, 1 / 32 wide.
        edge = 0.03 * 4 * (length + width) / 32 + 1e-3
        self.assertAlmostEqual(
            _area(ellipse, 64), np.pi * length * width, delta=edge
        )
        self.assertAlmostEqual(_area(bar, 64), 4 * length * width, delta=edge)

    @parameterized.parameters(
        (0.8, 0, 0, 0),
        (0, 0.35, 0, 0),
        (0, 0, 0.1, 4 - np.pi),
        (-0.8, -0.35, 0.1, 4 - np.pi),
    )
    def test_bending_and_tapering_keep_a_bars_area_and_corners_take_theirs(
        self, bend, taper, radius, share
    ):
        shape = np.array([0.1, -0.05, 0.5, 0.2, 0.6]).reshape(1, 5, 1, 1)
        bar = phantoms._to_bar(_grid(256), shape, _warp(bend, taper, radius))
        self.assertAlmostEqual(
            _area(bar, 256), 4 * 0.5 * 0.2 - share * radius**2, delta=2e-3
        )

    def test_a_bar_is_bent_and_tapered_where_its_numbers_say(self):
        shape = np.array([0.0, 0.0, 0.5, 0.1, 0.0]).reshape(1, 5, 1, 1)
        warp = _warp(0.6, 0.3, 0)
        for x in (-0.4, 0.0, 0.45):
            middle = 0.6 * (x**2 - 0.5**2 / 3)
            width = 0.1 * (1 + 0.3 * x / 0.5)
            for side in (-1, 1):
                for share, inside in ((0.9, True), (1.1, False)):
                    point = x, middle + side * share * width
                    distance = phantoms._to_bar(point, shape, warp).item()
                    self.assertEqual(distance < 0, inside)

    def test_lumps_add_half_their_squares_to_an_ellipses_area(self):
        # The mean of (1 + sum a cos(k angle + phase))^2 over all angles.
        shape = np.array([0.1, -0.05, 0.6, 0.4, 0.3]).reshape(1, 5, 1, 1)
        lumps = np.array([[0.2, 0.4], [0.1, 1.0], [0.15, 2.0]])
        lumps = lumps.reshape(1, 3, 2, 1, 1)
        ellipse = phantoms._to_ellipse(_grid(256), shape, lumps)
        expected = np.pi * 0.6 * 0.4 * (1 + (0.2**2 + 0.1**2 + 0.15**2) / 2)
        self.assertAlmostEqual(_area(ellipse, 256), expected, delta=2e-3)

    def test_lumps_are_where_their_phases_say(self):
        shape = np.array([0.0, 0.0, 0.5, 0.5, 0.0]).reshape(1, 5, 1, 1)
        for i, times in enumerate((2, 3, 4)):
            lumps = np.zeros((1, 3, 2, 1, 1))
            lumps[0, i] = [[[0.2]], [[0.7]]]
            for angle in np.linspace(0, 2 * np.pi, 12):
                edge = 0.5 * (1 + 0.2 * np.cos(times * angle + 0.7))
                for share, inside in ((0.97, True), (1.03, False)):
                    point = (
                        share * edge * np.cos(angle),
                        share * edge * np.sin(angle),
                    )
                    distance = phantoms._to_ellipse(point, shape, lumps).item()
                    self.assertEqual(distance < 0, inside)

    def test_a_shape_lies_along_its_angle(self):
        shape = np.array([0.1, -0.2, 0.6, 0.1, 0.5]).reshape(1, 5, 1, 1)
        along = 0.1 + 0.5 * np.cos(0.5), -0.2 + 0.5 * np.sin(0.5)
        across = 0.1 - 0.5 * np.sin(0.5), -0.2 + 0.5 * np.cos(0.5)
        for more in ((), (_warp(0, 0, 0),)):
            to_edge = phantoms._to_bar if more else phantoms._to_ellipse
            self.assertLess(to_edge(along, shape, *more).item(), 0)
            self.assertGreater(to_edge(across, shape, *more).item(), 0)


if __name__ == '__main__':
    absltest.main()
