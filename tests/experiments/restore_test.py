"""The binaries as a user starts them: outputs, and one sentence a mistake."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from invjax import images

_ROOT = pathlib.Path(__file__).parents[2]
_FACE = _ROOT / 'experiments' / 'astronaut.png'


def _run(*arguments, binary='restore'):
    return subprocess.run(
        [sys.executable, '-m', f'experiments.{binary}', *map(str, arguments)],
        cwd=_ROOT,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


class RestoreTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_a_restoration_writes_its_pictures_and_its_protocol(self):
        run = _run(
            f'--image={_FACE}',
            '--method=score_ald',
            '--task=random_inpainting',
            '--num_steps=3',
            f'--out={self.folder}',
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        for name in ('truth', 'measurement', 'restored'):
            x, _ = images.read_image(self.folder / f'{name}.png')
            self.assertEqual(x.shape, (64, 64, 3))
        result = json.loads((self.folder / 'result.json').read_text())
        self.assertEqual(result['flags']['num_steps'], '3')
        self.assertEqual(result['flags']['seed'], 0)
        self.assertEqual(result['operator']['num_missing'], round(0.7 * 64**2))
        # Twelve digits after the decimal point are not asserted: the residual's
        # expectation is worked by hand from noise 0.05 and 3 x 1229 numbers.
        self.assertAlmostEqual(
            result['measurement']['expected_residual_norm'],
            0.05 * (3 * 1229) ** 0.5,
            places=4,
        )
        self.assertIn('sheet.png', run.stdout)

    def test_a_measurement_without_a_truth_is_restored(self):
        rng = np.random.default_rng(0)
        images.write_image(
            self.folder / 'y.png', rng.uniform(-1, 1, (64, 64, 3))
        )
        mask = np.ones((64, 64, 3))
        mask[20:40, 20:40] = -1
        images.write_image(self.folder / 'm.png', mask)
        run = _run(
            f'--measurement={self.folder / "y.png"}',
            f'--mask={self.folder / "m.png"}',
            '--method=score_ald',
            '--num_steps=3',
            f'--out={self.folder / "out"}',
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        result = json.loads((self.folder / 'out' / 'result.json').read_text())
        self.assertEqual(result['operator']['num_missing'], 400)
        self.assertNotIn('psnr', result['restored'][0])
        self.assertFalse((self.folder / 'out' / 'truth.png').exists())

    @parameterized.named_parameters(
        ('no_image', [], 'give either --image or --measurement'),
        (
            'unknown_task',
            [f'--image={_FACE}', '--task=deblurr'],
            'task must be one of gaussian_deblur, .* got .deblurr.',
        ),
        (
            'unknown_method',
            [f'--image={_FACE}', '--method=dsp'],
            'method must be one of .*dps.* got .dsp.',
        ),
        (
            'hyperparameter_of_another_method',
            [f'--image={_FACE}', '--method=sdedit', '--zeta=1'],
            "sdedit has no hyperparameter 'zeta'; it has tau",
        ),
        (
            'parameter_of_another_task',
            [f'--image={_FACE}', '--task=denoising', '--box_size=9'],
            "denoising has no parameter 'box_size'",
        ),
        ('absent_image', ['--image=absent.png'], 'no file absent.png'),
        (
            'unknown_prior',
            [f'--image={_FACE}', '--prior=faces65'],
            'prior must be one of faces64, ffhq256.* got .faces65.',
        ),
        (
            'unwritable_folder',
            [f'--image={_FACE}', '--out=/dev/null/out'],
            '--out must be a folder that can be written',
        ),
        (
            'too_many_steps',
            [f'--image={_FACE}', '--num_steps=1001'],
            'asks for 1001 of 1000 timesteps',
        ),
    )
    def test_a_mistake_is_one_sentence(self, arguments, sentence):
        if not any(a.startswith('--out') for a in arguments):
            arguments = [*arguments, f'--out={self.folder}']
        run = _run(*arguments)
        self.assertEqual(run.returncode, 2)
        self.assertRegex(run.stderr.splitlines()[-1], f'^error: .*{sentence}')
        self.assertNotIn('Traceback', run.stderr)


class ReadmeTest(absltest.TestCase):
    def test_the_python_example_of_the_readme_runs(self):
        readme = (_ROOT / 'README.md').read_text()
        (example,) = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
        self.assertIn('num_steps=100', example)
        with tempfile.TemporaryDirectory() as folder:
            code = example.replace('num_steps=100', 'num_steps=2')
            run = subprocess.run(
                [sys.executable, '-c', code.replace("'out/", f"'{folder}/")],
                cwd=_ROOT,
                env={**os.environ, 'PYTHONPATH': str(_ROOT)},
                capture_output=True,
                text=True,
                timeout=300,
            )
            self.assertEqual(run.returncode, 0, run.stderr)
            x, _ = images.read_image(pathlib.Path(folder) / 'restored.png')
            self.assertEqual(x.shape, (64, 64, 3))


if __name__ == '__main__':
    absltest.main()
