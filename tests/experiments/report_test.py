"""`report` on folders whose cells were made by hand."""

import contextlib
import io
import pathlib
import tempfile
import types

import numpy as np
from absl.testing import absltest

from experiments import report
from invjax.study import cells, plan

_X = np.zeros((2, 2, 3), np.float32)


class ReportTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def write(self, name, scores, **fields):
        store = cells.Store(self.folder / name)
        for image, of_image in enumerate(scores):
            protocol = {
                'protocol': plan.PROTOCOL,
                'task': 'denoising',
                'noise_std': 0.05,
                'image': image,
                'sample': 0,
                **fields,
            }
            store.write(protocol, of_image, _X)

    def report(self, *names):
        given = types.SimpleNamespace(
            results=[str(self.folder / name) for name in names],
            out=str(self.folder / 'out'),
        )
        with contextlib.redirect_stdout(io.StringIO()) as out:
            report.main(given)
        return out.getvalue()

    def files(self):
        return sorted(
            path.name for path in (self.folder / 'out').iterdir()
            if path.suffix != '.pdf'
        )  # fmt: skip

    def test_any_method_one_image_and_no_lpips(self):
        self.write('a', [{'psnr': 30.0}], method='wiener', settings={})
        self.write('a', [{'psnr': 10.0}], method='measurement', settings={})
        text = self.report('a')
        self.assertIn('| `measurement` |  | 10.000 |', text)
        self.assertIn('| `wiener` |  | 30.000 |', text)
        for absent in ('nan', 'lpips', 'Verdict', 'Tuning'):
            self.assertNotIn(absent, text)
        self.assertEqual(self.files(), ['curves_psnr.png', 'report.md'])

    def test_folders_are_one_report_with_its_verdict(self):
        for name, method, setting, lpips in (
            ('a', 'dps', {'zeta': 1.0}, (0.2, 0.2)),
            ('a', 'dps', {'zeta': 2.0}, (0.25, 0.25)),
            ('b', 'sdedit', {'tau': 1.0}, (0.1, 0.1)),
            ('b', 'sdedit', {'tau': 2.0}, (0.6, 0.7)),
        ):
            scores = [{'lpips_vgg': value} for value in lpips]
            self.write(name, scores, method=method, settings=setting)
        text = self.report('a', 'b')
        # The best of all is 0.1: dps's worst loses 0.15, sdedit's 0.5 and 0.6.
        self.assertIn('| 0.400 +- 0.050 | `sdedit` | **confirmed** |', text)
        # dps's best for each image is the lower distance.
        self.assertIn('| `dps` | lpips_vgg | 0.200 | 0.000 +- 0.000 |', text)
        self.assertEqual(
            self.files(), ['curves_lpips_vgg.png', 'report.md', 'tuning.png']
        )
        self.assertIn((self.folder / 'out/report.md').read_text().strip(), text)

    def test_what_lacks_images_is_named_and_left_out(self):
        two = [{'psnr': 20.0}, {'psnr': 21.0}]
        self.write('a', two, method='dps', settings={'zeta': 1.0})
        self.write('a', two[:1], method='dps', settings={'zeta': 2.0})
        text = self.report('a')
        self.assertIn('left out: denoising, dps zeta 2, which has 1 of 2', text)
        self.assertNotIn('| zeta 2 |', text)

    def test_a_folder_without_cells_is_named(self):
        self.write('a', [{'psnr': 20.0}], method='dps', settings={})
        with self.assertRaisesRegex(
            ValueError, 'nothing, of --results, has no'
        ):
            self.report('a', 'nothing')
        with self.assertRaisesRegex(ValueError, 'give --results'):
            self.report()


if __name__ == '__main__':
    absltest.main()
