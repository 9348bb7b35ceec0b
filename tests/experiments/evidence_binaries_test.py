"""`restore --num_samples`, `tune` and `evaluate`, as a user runs them."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from invjax import images, metrics, uncertainty
from invjax.study import cells as records
from tests.experiments import tiny_prior

_NUM_SAMPLES = 3


class EvidenceBinariesTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = folder = pathlib.Path(holder.name)
        tiny_prior.write(folder, num_images=2)
        face = f'--image={folder}/images/0.png'
        samples = f'--num_samples={_NUM_SAMPLES}'
        evaluate = (
            f'--images={folder}/images',
            '--num_images=2',
            '--tasks=denoising,box_inpainting',
            '--methods=sdedit',
            '--lpips=none',
            f'--out={folder}/evaluate',
        )
        task = '--task=random_inpainting'
        few = '--num_steps=4'
        # All at once, since each takes seconds to import what it needs.
        runs = {
            'restore': ('restore', face, task, few, samples, '--method=dps'),
            'tune': (
                'tune', face, task, few,
                '--method=score_ald',
                '--grid=gamma_0=2,8',
            ),
            'smaller': (
                'restore', face, '--task=super_resolution', '--factor=2',
                '--method=ddrm', few,
            ),
            'tune by nothing': ('tune', face, '--method=unconditional'),
            'tune without noise': ('tune', face, '--noise_std=0'),
            'tune a blur': (
                'tune', face, '--task=gaussian_deblur', '--by=held_out',
            ),
            'tune by no default': (
                'tune', face, '--task=gaussian_deblur', '--by=default',
            ),
            'evaluate': ('evaluate', *evaluate, samples, '--calibration'),
            'calibrate one': ('evaluate', *evaluate, '--calibration'),
        }  # fmt: skip
        processes = {
            name: tiny_prior.start(
                binary, folder, f'--out={folder}/{name}', *arguments
            )
            for name, (binary, *arguments) in runs.items()
        }
        cls.ended = {
            name: (*process.communicate(), process.returncode)
            for name, process in processes.items()
        }

    def output(self, name):
        out, error, status = self.ended[name]
        self.assertEqual(status, 0, error)
        return out

    def test_samples_have_their_mean_and_spread(self):
        self.output('restore')
        out = self.folder / 'restore'
        samples = [
            images.read_image(out / f'{name}.png')[0]
            for name in ('restored', 'restored_1', 'restored_2')
        ]
        mean, _ = images.read_image(out / 'mean.png')
        # Pictures have 256 levels: three roundings and one more.
        np.testing.assert_allclose(np.mean(samples, axis=0), mean, atol=0.01)
        found = json.loads((out / 'result.json').read_text())['samples']
        self.assertAlmostEqual(
            found['diversity'], uncertainty.diversity(samples), delta=0.01
        )
        truth, _ = images.read_image(out / 'truth.png')
        self.assertAlmostEqual(
            found['psnr_of_mean'], float(metrics.psnr(mean, truth)), delta=0.1
        )
        self.assertEqual(found['nominal_coverage'], [0.5])
        for name in ('uncertainty.png', 'traces.png'):
            images.read_image(out / name)

    def test_the_success_rate_counts_samples_that_explain(self):
        text = self.output('restore')
        result = json.loads((self.folder / 'restore/result.json').read_text())
        found = result['success']
        explained = sum(
            s['residual_norm'] <= 1.25 * s['expected_residual_norm']
            for s in result['restored']
        )
        self.assertEqual(found['num_samples'], _NUM_SAMPLES)
        self.assertEqual(found['num_explained'], explained)
        self.assertEqual(found['rate'], explained / _NUM_SAMPLES)
        self.assertIn(f'{explained} of {_NUM_SAMPLES} samples explain', text)

    def test_a_measurement_of_another_size_is_restored_and_shown(self):
        self.output('smaller')
        for name in ('measurement', 'restored'):
            x, _ = images.read_image(self.folder / 'smaller' / f'{name}.png')
            self.assertEqual(x.shape, (16, 16, 3))

    def test_tune_chooses_by_the_criterion_that_it_names(self):
        text = self.output('tune')
        found = json.loads((self.folder / 'tune' / 'tune.json').read_text())
        self.assertEqual(found['by'], 'held_out')
        values = [row['held_out'] for row in found['rows']]
        self.assertLen(values, 2)
        chosen = found['rows'][int(np.argmin(values))]['setting']
        self.assertEqual(found['chosen'], chosen)
        self.assertIn(
            f'chosen by held_out: --gamma_0={chosen["gamma_0"]:g}', text
        )

    def test_calibration_is_that_of_the_pictures(self):
        text = self.output('evaluate')
        out = self.folder / 'evaluate'
        observed = []
        for i in range(2):
            truth, _ = images.read_image(self.folder / f'images/{i}.png')
            samples = [
                images.read_image(
                    records.picture_path(out / 'denoising', c['id'])
                )[0]
                for c in records.read(out / 'denoising')
                if c['protocol']['image'] == i
                and c['protocol']['method'] == 'sdedit'
            ]
            self.assertLen(samples, _NUM_SAMPLES)
            observed.append(uncertainty.coverage(samples, truth).observed[0])
        line = f'| `denoising` | `sdedit` | 100 | {np.mean(observed):.3f} +- '
        self.assertIn(line, text)
        images.read_image(out / 'calibration.png')

    def test_mistakes_are_one_sentence(self):
        for name, sentence in {
            'tune by nothing': 'unconditional has nothing to tune; give a grid',
            'tune without noise': '--noise_std must be above 0',
            'tune a blur': 'held_out needs a measurement by a mask',
            'tune by no default': "by=default needs {'zeta': 1.0} in the grid",
            'calibrate one': 'calibration needs num_samples of 2 or more',
        }.items():
            with self.subTest(name):
                _, error, status = self.ended[name]
                self.assertEqual(status, 2)
                self.assertStartsWith(error, f'error: {sentence}')
                self.assertEqual(error.count('\n'), 1)


if __name__ == '__main__':
    absltest.main()
