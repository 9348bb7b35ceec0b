"""Figures of an evaluation: what stands on their axes."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from invjax import metrics
from invjax.report import evaluations, figures
from invjax.study.evaluation import CoverageRow, Row


def row(method, line='', task='denoising', **means):
    scores = {
        name: metrics.Estimate(np.float64(mean), np.float64(0.5))
        for name, mean in means.items()
    }
    return Row(task, method, '20', [], scores, line)


class FrontsTest(absltest.TestCase):
    def drawn(self, rows):
        """Name to panels of what `figures.fronts` is asked for."""
        found = {}

        def note(folder, name, panels, cost):
            found[name] = cost, panels

        with mock.patch.object(figures, 'fronts', note):
            evaluations.fronts(pathlib.Path('unused'), rows)
        return found

    def test_costs_are_evaluations_and_seconds(self):
        found = self.drawn(
            [
                row('dps', psnr=20.0, forward=5.0, backward=5.0, seconds=2.0),
                row('ddrm', psnr=21.0, forward=5.0, backward=0.0, seconds=1.0),
            ]
        )
        cost, ((panel,),) = found['fronts_evaluations']
        self.assertEqual(cost, 'network evaluations')
        self.assertEqual((panel.title, panel.sign), ('denoising', 1.0))
        np.testing.assert_array_equal(panel.lines['dps'], [[10, 20]])
        np.testing.assert_array_equal(panel.lines['ddrm'], [[5, 21]])
        _, ((panel,),) = found['fronts_seconds']
        np.testing.assert_array_equal(panel.lines['dps'], [[2, 20]])

    def test_a_lower_distance_is_the_better_one(self):
        costs = {'forward': 5.0, 'backward': 0.0, 'seconds': 1.0}
        found = self.drawn([row('dps', lpips_alex=0.2, psnr=9.0, **costs)])
        _, panels = found['fronts_seconds']
        self.assertEqual([p.sign for (p,) in panels], [1.0, -1.0])

    def test_values_of_one_method_are_lines_of_their_own(self):
        costs = {'forward': 5.0, 'backward': 0.0, 'seconds': 1.0}
        found = self.drawn(
            [
                row('dps', 'dps zeta 1', psnr=9.0, **costs),
                row('dps', 'dps zeta 2', psnr=8.0, **costs),
            ]
        )
        _, ((panel,),) = found['fronts_seconds']
        self.assertEqual([*panel.lines], ['dps zeta 1', 'dps zeta 2'])

    def test_nothing_to_draw_is_no_figure(self):
        self.assertEqual(self.drawn([row('dps', chi_square=1.0)]), {})


class LegendTest(absltest.TestCase):
    def test_the_names_of_a_single_panel_are_not_cut_off(self):
        lines = {
            f'diffpir lam {lam}, zeta 0.{lam}': np.array([[5, 20.0], [9, 21.0]])
            for lam in (1, 2, 3)
        }
        panel = figures.Panel('denoising', 'PSNR in dB', 1.0, lines)
        found = []

        def note(figure, folder, name):
            found.append(figure)

        with mock.patch.object(figures, 'save', note):
            figures.fronts('unused', 'fronts', [[panel]], 'evaluations')
        (figure,) = found
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        extent = legend.get_window_extent()
        self.assertGreaterEqual(extent.x0, 0)
        self.assertLessEqual(extent.x1, figure.bbox.x1)
        self.assertLen(legend.get_texts(), 3)


class CalibrationTest(absltest.TestCase):
    def test_observed_stands_over_nominal_beside_the_diagonal(self):
        estimates = [
            metrics.Estimate(np.float64(v), np.float64(0.1)) for v in (0.2, 0.7)
        ]
        nominal = np.array([0.4, 0.8])
        rows = [
            CoverageRow(task, 'dps', '20', nominal, estimates)
            for task in ('denoising', 'jpeg')
        ]
        found = {}

        def note(figure, folder, name):
            found[name] = figure

        with (
            mock.patch.object(figures, 'save', note),
            tempfile.TemporaryDirectory() as folder,
        ):
            evaluations.calibration(pathlib.Path(folder), rows)
        axes = found['calibration'].axes
        self.assertEqual([a.get_title() for a in axes], ['denoising', 'jpeg'])
        for axis in axes:
            diagonal, line = axis.lines[:2]
            np.testing.assert_array_equal(*diagonal.get_data())
            np.testing.assert_allclose(line.get_xdata(orig=False), nominal)
            np.testing.assert_allclose(line.get_ydata(orig=False), [0.2, 0.7])


if __name__ == '__main__':
    absltest.main()
