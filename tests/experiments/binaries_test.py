"""`validate`, `figures`, `sample` and `benchmark`: flags, one call, files."""

import contextlib
import io
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments import benchmark, figures, sample, validate
from invjax import benchmarking, images, keys, measurement, metrics
from invjax.commandline import program
from invjax.priors import checkpoint
from invjax.report import paper
from invjax.study import validating
from tests.experiments import tiny_prior


def _run(binary, *arguments):
    """Run a binary in this process: status, output, errors."""
    out, error = io.StringIO(), io.StringIO()
    status = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            program.run(binary.main, binary.FLAGS, ['binary', *arguments])
        except SystemExit as exit:
            status = exit.code or 0
    return status, out.getvalue(), error.getvalue()


class _InFolder(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def run_well(self, binary, *arguments):
        status, out, error = _run(
            binary, *arguments, f'--out={self.folder}/out'
        )
        self.assertEqual(status, 0, error)
        return out

    def read(self, name):
        return (self.folder / 'out' / name).read_text()


class MistakesTest(_InFolder):
    @parameterized.parameters(
        (validate, ['--methods=dps,dpss'], "method must be one of .*'dpss'"),
        (validate, ['--num_samples=10'], '--num_samples must be at least 100'),
        (validate, ['--num_steps=many'], 'num_steps must be'),
        (validate, ['--priors=laplace'], "prior must be one of .*'laplace'"),
        (validate, ['--tasks=jpeg'], "task must be one of .*'jpeg'"),
        (validate, ['--num_measurements=99'], 'must be 100 or more'),
        (figures, ['--image=nowhere.png'], 'there is no file nowhere.png'),
        (figures, ['--t=1000'], 't must be from 0 to 999, got 1000'),
        (figures, ['--t=-1'], '--t must be at least 0'),
        (figures, ['--which=5'], 'which'),
        (benchmark, ['--networks=sdxl'], '--networks must be of faces64,'),
        (benchmark, ['--batches=1,0'], "--batches must be 1 or more, got '0'"),
        (benchmark, ['--peer=/nowhere/python'], '--peer must be a Python'),
    )
    def test_a_mistake_is_one_sentence(self, binary, arguments, words):
        status, _, error = _run(binary, *arguments, f'--out={self.folder}/out')
        self.assertEqual(status, 2)
        # After what was done to the picture, and before any work.
        self.assertRegex(error, f'^error: .*{words}')
        self.assertEqual(error.count('\n'), 1)


class ValidateTest(_InFolder):
    def test_what_is_asked_for_is_validated_and_written(self):
        cases = validating.cases

        def first(asked):
            self.assertEqual(asked.seed, 5)
            return [next(cases(asked))]

        with (
            mock.patch.object(validating, 'cases', first),
            mock.patch.object(validating, 'NUM_STEPS', (2, 3)),
        ):
            out = self.run_well(
                validate,
                '--methods=ddnm,ddrm,ddnm',
                '--num_samples=100',
                '--num_steps=2',
                '--seed=5',
                '--tasks=gaussian_deblur',
                '--priors=gaussian',
                '--num_measurements=100',
            )
        record = json.loads(self.read('validation.json'))
        self.assertEqual(
            [row['method'] for row in record['rows']],
            ['floor', 'exact', 'ddnm', 'ddrm'],
        )
        self.assertEqual(list(record['by_steps']['ddrm']), ['2', '3'])
        for row in record['rows']:
            self.assertEqual(row['num_samples'], 100)
            self.assertEqual(row['num_steps'], '2')
            self.assertEqual(row['seed'], 5)
        # Those with two steps are not computed twice; four have ranks too.
        self.assertLen(self.read('rows.jsonl').splitlines(), 4 + 3 + 4)
        self.assertEqual(
            [row['method'] for row in record['ranked']],
            ['floor', 'exact', 'ddnm', 'ddrm'],
        )
        for row in record['ranked']:
            self.assertEqual(sum(row['ranks']['mean']), 100)
        text = self.read('validation.md')
        self.assertIn(text, out)
        ddrm = record['rows'][3]
        self.assertIn(f'| `ddrm` | 1 | {ddrm["mean"][0]:.3f} |', text)
        self.assertIn(f'| {ddrm["sliced"][0]:.3f} +- ', text)
        self.assertIn('given each of 100 measurements', text)
        for name in ('validation', 'ranks'):
            x, _ = images.read_image(self.folder / f'out/{name}.png')
            self.assertGreater(np.ptp(x), 1)


class FiguresTest(_InFolder):
    def test_the_figures_that_are_asked_for_are_drawn_with_their_numbers(self):
        tiny_prior.write(self.folder, num_images=1)
        path = self.folder / 'images/0.png'
        self.run_well(
            figures,
            f'--prior={self.folder}/prior',
            f'--image={path}',
            '--which=3',
            '--noise_std=0.2',
            '--seed=4',
        )
        record = json.loads(self.read('figures.json'))
        self.assertEqual(list(record['numbers']), ['figure 3'])
        self.assertEqual(record['prior']['name'], 'tiny')
        truth, _ = images.read_image(path)
        for task, value in record['numbers']['figure 3'].items():
            y = measurement.measure(truth, task, noise_std=0.2, seed=4).y
            self.assertAlmostEqual(
                value, float(metrics.psnr(y, truth)), places=4
            )
        names = {p.name for p in (self.folder / 'out').iterdir()}
        self.assertEqual(
            names, {'figure_3.png', 'figure_3.pdf', 'figures.json'}
        )

    def test_figure_1_is_at_the_timestep_that_is_asked_for(self):
        tiny_prior.write(self.folder, num_images=1)
        path = self.folder / 'images/0.png'
        self.run_well(
            figures,
            f'--prior={self.folder}/prior',
            f'--image={path}',
            '--which=1',
            '--t=700',
        )
        found = json.loads(self.read('figures.json'))['numbers']['figure 1']
        truth, _ = images.read_image(path)
        prior = checkpoint.load_prior(f'{self.folder}/prior')
        shown = paper.denoise_once(prior, truth, 700, keys.root(0))
        for name, value in found.items():
            self.assertAlmostEqual(
                value, float(metrics.psnr(shown[name], truth)), places=3
            )


class SampleTest(_InFolder):
    def test_the_samples_of_the_sheet_are_a_set_of_pictures(self):
        tiny_prior.write(self.folder, num_images=1)
        old = self.folder / 'out/samples/0002.png'
        old.parent.mkdir(parents=True)
        old.write_bytes(b'of an earlier run')
        out = self.run_well(
            sample,
            f'--prior={self.folder}/prior',
            '--num_samples=2',
            '--num_steps=2',
        )
        self.assertIn('samples, which will be replaced', out)
        found = images.read_set(f'{self.folder}/out/samples', (16, 16, 3), 0, 9)
        self.assertEqual(found.names, ('0000.png', '0001.png'))
        sheet, _ = images.read_image(self.folder / 'out/samples.png')
        for i, x in enumerate(found.x):
            # Of 8 x 8 pixels each, and 4 between two pictures.
            left = i * (8 * 16 + 4)
            np.testing.assert_allclose(
                sheet[: 8 * 16 : 8, left : left + 8 * 16 : 8], x, atol=1e-6
            )


class BenchmarkTest(_InFolder):
    def test_it_measures_what_is_asked_for_and_writes_what_came_out(self):
        asked = []
        row = {
            'network': 'faces64',
            'batch': 2,
            'first_call_seconds': 3.0,
            'share_of_ceiling': 0.25,
        }
        rows = [
            {**row, 'what': what, 'seconds_per_image': seconds}
            for what, seconds in {
                'forward': 0.01,
                'unconditional step': 0.012,
                'DPS step': 0.03,
                'bare DPS step': 0.02,
            }.items()
        ]

        def measure(how):
            asked.append(how)
            return benchmarking.Measured(
                1e11, rows, [('faces64: load', '1.0 s')], how.dtype, 'cpu'
            )

        with mock.patch.object(benchmarking, 'measure', measure):
            out = self.run_well(
                benchmark,
                '--networks=faces64',
                '--batches=2',
                '--rounds=7',
                '--dtype=bfloat16',
                '--noprepare',
                '--remat',
            )
        self.assertEqual(
            asked,
            [
                benchmarking.Benchmark(
                    ['faces64'], [2], 7, None, 'bfloat16', False, True
                )
            ],
        )
        text = self.read('benchmark.md')
        self.assertIn(text, out)
        self.assertIn('sampler beyond the network | 20.0% |', text)
        self.assertIn('DPS step in the sampler / bare | 1.50 |', text)
        record = json.loads(self.read('benchmark.json'))
        self.assertEqual(record['rows'], rows)
        self.assertEqual(record['others'], {'faces64: load': '1.0 s'})
        self.assertEqual(record['ceiling_flops'], 1e11)


if __name__ == '__main__':
    absltest.main()
