"""Figures of sweeps: a panel for what there is, and none for what there is not."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest

from invjax import metrics
from invjax.report import figures, sweeps
from invjax.study.sweeps import Loss


def cell(method, image, task='denoising', scores=None, **settings):
    return {
        'protocol': {
            'task': task,
            'method': method,
            'image': image,
            'sample': 0,
            'settings': settings,
        },
        'scores': scores or {'psnr': 20.0 + image},
    }


class FiguresTest(absltest.TestCase):
    def drawn(self, draw, *arguments):
        """Name to figure of what is drawn; each is written too."""
        found = {}
        save = figures.save

        def note(figure, folder, name):
            found[name] = figure
            return save(figure, folder, name)

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(figures, 'save', note),
        ):
            draw(pathlib.Path(folder), *arguments)
            for name in found:
                for suffix in ('png', 'pdf'):
                    path = pathlib.Path(folder) / f'{name}.{suffix}'
                    self.assertGreater(path.stat().st_size, 1000)
        return found

    def shown(self, figure):
        axes = [axis for axis in figure.axes if axis.get_visible()]
        for axis in axes:
            self.assertTrue(axis.has_data())
        return [axis.get_title() for axis in axes]

    def test_curves_of_any_methods_have_no_empty_panels(self):
        cells = [
            *(cell('measurement', i) for i in range(2)),
            *(cell('wiener', i, mix=m) for i in range(2) for m in (1.0, 2.0)),
            *(cell('dps', i, 'jpeg', zeta=1.0) for i in range(2)),
        ]
        found = self.drawn(sweeps.curves, cells)
        self.assertEqual([*found], ['curves_psnr'])
        self.assertCountEqual(
            self.shown(found['curves_psnr']), ['wiener', 'dps']
        )
        labels = [
            axis.get_ylabel()
            for axis in found['curves_psnr'].axes
            if axis.get_visible()
        ]
        self.assertCountEqual(labels, ['denoising\npsnr', 'jpeg\npsnr'])

    def test_curves_have_the_means_of_each_setting(self):
        cells = [
            cell('dps', i, scores={'psnr': 10 * zeta + i}, zeta=zeta)
            for zeta in (3.0, 1.0)
            for i in range(2)
        ]
        (figure,) = self.drawn(sweeps.curves, cells).values()
        (axis,) = figure.axes
        line = axis.lines[0]
        self.assertEqual([*line.get_xdata()], ['zeta 1', 'zeta 3'])
        np.testing.assert_allclose(line.get_ydata(orig=False), [10.5, 30.5])

    def test_one_image_and_no_metric_are_drawn_without_complaint(self):
        found = self.drawn(sweeps.curves, [cell('dps', 0, zeta=1.0)])
        self.assertEqual(self.shown(found['curves_psnr']), ['dps'])
        nothing = [cell('dps', 0, scores={'chi_square': 1.0})]
        self.assertEqual(self.drawn(sweeps.curves, nothing), {})
        diverged = [cell('dps', 0, scores={'psnr': None})]
        self.assertEqual(self.drawn(sweeps.curves, diverged), {})

    def test_losses_have_a_bar_for_each_choice_that_there_is(self):
        one = metrics.Estimate(np.float64(1.5), np.float64(0.5))
        two = metrics.Estimate(np.float64(0.5), np.float64(np.nan))
        rows = [
            Loss('a', 'dps', 'psnr', 20.0, {'fixed': one, 'discrepancy': two}),
            Loss('b', 'dps', 'lpips_alex', 0.2, {'fixed': two}),
        ]
        (figure,) = self.drawn(sweeps.losses, rows).values()
        self.assertEqual(self.shown(figure), ['a', 'b'])
        heights = [
            patch.get_height()
            for axis in figure.axes
            if axis.get_visible()
            for patch in axis.patches
        ]
        self.assertCountEqual(heights, [1.5, 0.5, 0.5])
        (legend,) = figure.legends
        self.assertEqual(
            [text.get_text() for text in legend.texts], ['fixed', 'discrepancy']
        )


if __name__ == '__main__':
    absltest.main()
