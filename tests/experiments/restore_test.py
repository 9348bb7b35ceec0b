"""The binaries as a user starts them: outputs, and one sentence a mistake."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments import restore
from invjax import images
from invjax.commandline import program
from invjax.priors import checkpoint

_ROOT = pathlib.Path(__file__).parents[2]
_FACE = _ROOT / 'experiments' / 'astronaut.png'
_ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(_ROOT)}


def run_restore(*arguments):
    """The exit status and the lines of output and of errors.

    It runs in this process, since to start another takes seconds.
    """
    out, error = io.StringIO(), io.StringIO()
    argv = ['restore', *map(str, arguments)]
    status = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            program.run(restore.main, restore.FLAGS, argv)
        except SystemExit as exit:
            status = exit.code or 0
    return status, out.getvalue().splitlines(), error.getvalue().splitlines()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RestoreTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_a_restoration_writes_its_pictures_and_its_protocol(self):
        status, out, error = run_restore(
            f'--image={_FACE}',
            '--method=score_ald',
            '--task=random_inpainting',
            '--num_steps=3',
            f'--out={self.folder}',
        )
        self.assertEqual(status, 0, error)
        for name in ('truth', 'measurement', 'restored'):
            x, _ = images.read_image(self.folder / f'{name}.png')
            self.assertEqual(x.shape, (64, 64, 3))
        result = json.loads((self.folder / 'result.json').read_text())
        self.assertEqual(result['flags']['num_steps'], '3')
        self.assertIsNone(result['aim'])
        self.assertEqual(result['flags']['seed'], 0)
        self.assertIsNone(result['flags']['drop_fraction'])
        self.assertEqual(result['operator']['num_missing'], round(0.7 * 64**2))
        self.assertEqual(result['input_sha256'], {'image': sha256(_FACE)})
        self.assertEqual(
            list(result['seconds']), ['load', 'compile', 'sampling']
        )
        # Twelve digits after the decimal point are not asserted: the residual's
        # expectation is worked by hand from noise 0.05 and 3 x 1229 numbers.
        self.assertAlmostEqual(
            result['measurement']['expected_residual_norm'],
            0.05 * (3 * 1229) ** 0.5,
            places=4,
        )
        self.assertIn('sheet.png', out[-1])

    def test_a_measurement_without_a_truth_is_restored(self):
        rng = np.random.default_rng(0)
        y, m = self.folder / 'y.png', self.folder / 'm.png'
        images.write_image(y, rng.uniform(-1, 1, (64, 64, 3)))
        mask = np.ones((64, 64, 3))
        mask[20:40, 20:40] = -1
        images.write_image(m, mask)
        status, _, error = run_restore(
            f'--measurement={y}',
            f'--mask={m}',
            '--method=score_ald',
            '--num_steps=3',
            f'--out={self.folder / "out"}',
        )
        self.assertEqual(status, 0, error)
        result = json.loads((self.folder / 'out' / 'result.json').read_text())
        self.assertEqual(result['operator']['num_missing'], 400)
        self.assertEqual(
            result['operator']['missing_within'],
            {'top': 20, 'left': 20, 'bottom': 40, 'right': 40},
        )
        self.assertEqual(
            result['input_sha256'],
            {'measurement': sha256(y), 'mask': sha256(m)},
        )
        self.assertNotIn('psnr', result['restored'][0])
        self.assertFalse((self.folder / 'out' / 'truth.png').exists())

    def test_a_brought_kernel_blurs_and_is_recorded(self):
        # One white pixel off the centre moves the picture; none is lost, since
        # edges wrap around.
        kernel = self.folder / 'kernel.png'
        pixels = np.full((3, 5, 3), -1.0)
        pixels[2, 4] = 1
        images.write_image(kernel, pixels)
        common_flags = (
            '--task=motion_deblur',
            f'--kernel={kernel}',
            '--method=score_ald',
            '--num_steps=3',
            '--noise_std=0',
        )
        out = self.folder / 'out'
        status, _, error = run_restore(
            f'--image={_FACE}', f'--out={out}', *common_flags
        )
        self.assertEqual(status, 0, error)
        truth, _ = images.read_image(out / 'truth.png')
        y, _ = images.read_image(out / 'measurement.png')
        np.testing.assert_allclose(
            y, np.roll(truth, (1, 2), axis=(0, 1)), atol=0.01
        )
        result = json.loads((out / 'result.json').read_text())
        self.assertEqual(
            result['input_sha256'],
            {'image': sha256(_FACE), 'kernel': sha256(kernel)},
        )
        self.assertEqual(
            result['operator'],
            {'kind': 'Convolution', 'kernel_height': 3, 'kernel_width': 5},
        )
        status, _, error = run_restore(
            f'--measurement={out / "measurement.png"}',
            f'--out={self.folder / "again"}',
            *common_flags,
        )
        self.assertEqual(status, 0, error)

    def test_the_kind_of_noise_is_recorded(self):
        status, _, error = run_restore(
            f'--image={_FACE}',
            '--task=denoising',
            '--noise=salt_pepper',
            '--amount=0.2',
            '--method=score_ald',
            '--num_steps=3',
            f'--out={self.folder}',
        )
        self.assertEqual(status, 0, error)
        result = json.loads((self.folder / 'result.json').read_text())
        noise = result['noise']
        self.assertEqual(noise['noise'], 'salt_pepper')
        self.assertEqual(noise['amount'], 0.2)
        # A fifth is off by the root of 4/3, up to what is white in the picture.
        self.assertGreater(result['noise_std'], (0.2 * 4 / 3) ** 0.5)
        self.assertLess(result['noise_std'], 0.6)

    def assert_refused(self, arguments, sentence):
        if not any(a.startswith('--out') for a in arguments):
            arguments = [*arguments, f'--out={self.folder}']
        status, _, error = run_restore(*arguments)
        self.assertEqual(status, 2)
        self.assertLen(error, 1)
        self.assertRegex(error[0], f'^error: .*{sentence}')

    @parameterized.named_parameters(
        ('no_image', [], 'give either --image, .* or --measurement'),
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
            'misspelt_flag',
            [f'--image={_FACE}', '--zetta=1'],
            "Unknown command line flag 'zetta'. Did you mean: zeta",
        ),
        (
            'flag_that_is_no_number',
            [f'--image={_FACE}', '--zeta=big'],
            "--zeta must be a number, got 'big'",
        ),
        (
            'hyperparameter_of_another_method',
            [f'--image={_FACE}', '--method=sdedit', '--zeta=1'],
            "sdedit has no hyperparameter 'zeta'; it has tau",
        ),
        (
            'hyperparameter_out_of_range',
            [f'--image={_FACE}', '--method=sdedit', '--tau=-1'],
            'tau of sdedit must be from 0 to T - 1, got -1',
        ),
        (
            'hyperparameter_not_a_number',
            [f'--image={_FACE}', '--method=dps', '--zeta=nan'],
            'zeta of dps must be 0 or more and finite, got nan',
        ),
        (
            'hyperparameter_without_a_method',
            [f'--image={_FACE}', '--zeta=1'],
            r'--zeta cannot be given with the method auto.*\(dps, mcg\)',
        ),
        (
            'steps_without_a_method',
            [f'--image={_FACE}', '--num_steps=20'],
            '--num_steps cannot be given with the method auto',
        ),
        (
            'unknown_aim',
            [f'--image={_FACE}', '--aim=best'],
            '--aim must be one of psnr, perception, samples, speed, got .best.',
        ),
        (
            'aim_of_a_method',
            [f'--image={_FACE}', '--method=dps', '--aim=psnr'],
            '--aim goes with --method=auto',
        ),
        (
            'parameter_of_another_task',
            [f'--image={_FACE}', '--task=denoising', '--box_size=9'],
            "denoising has no parameter 'box_size'",
        ),
        ('absent_image', ['--image=absent.png'], 'no file absent.png'),
        (
            'no_mask',
            [f'--measurement={_FACE}'],
            'box_inpainting .* needs --mas',
        ),
        (
            'mask_for_nothing',
            [f'--image={_FACE}', f'--mask={_FACE}', '--task=denoising'],
            '--mask goes with a task of inpainting, not denoising',
        ),
        (
            'mask_that_is_made_and_brought',
            [f'--measurement={_FACE}', f'--mask={_FACE}', '--box_size=9'],
            'box_size would make a mask',
        ),
        (
            'kernel_of_another_task',
            [f'--image={_FACE}', f'--kernel={_FACE}'],
            '--kernel goes with motion_deblur, not box_inpainting',
        ),
        (
            'kernel_that_is_made_and_brought',
            [
                f'--image={_FACE}',
                f'--kernel={_FACE}',
                '--task=motion_deblur',
                '--blur_size=9',
            ],
            'blur_size would make a kernel',
        ),
        (
            'kernel_of_even_sides',
            [f'--image={_FACE}', f'--kernel={_FACE}', '--task=motion_deblur'],
            'a kernel must have odd sides, and .* is 256 x 256',
        ),
        (
            'parameter_of_another_noise',
            [f'--image={_FACE}', '--noise=poisson', '--amount=0.1'],
            "poisson noise has no parameter 'amount'; it has peak",
        ),
        (
            'noise_out_of_range',
            [f'--image={_FACE}', '--noise=poisson', '--peak=0'],
            'peak must be above 0 and at most 1e.09, got 0.0',
        ),
        (
            'unwritable_folder',
            [f'--image={_FACE}', '--out=/dev/null/out'],
            '--out must be a folder that can be written',
        ),
    )
    def test_a_mistake_is_one_sentence_before_the_prior_is_loaded(
        self, arguments, sentence
    ):
        with mock.patch.object(
            checkpoint, 'load_prior', side_effect=AssertionError
        ):
            self.assert_refused(arguments, sentence)

    @parameterized.named_parameters(
        (
            'unknown_prior',
            [f'--image={_FACE}', '--prior=faces65'],
            'prior must be one of faces64, phantoms64, ffhq256.* got .faces65.',
        ),
        (
            'too_many_steps',
            [f'--image={_FACE}', '--method=dps', '--num_steps=1001'],
            'asks for 1001 of 1000 timesteps',
        ),
        (
            'photons_of_what_is_no_picture',
            [
                f'--image={_FACE}',
                '--task=compressed_sensing',
                '--noise=poisson',
            ],
            'poisson noise needs a task whose measurement is a picture',
        ),
        (
            'wrong_size_measurement',
            [f'--measurement={_FACE}', '--task=denoising'],
            'is 256 x 256, but must be 64 x 64',
        ),
    )
    def test_what_only_the_prior_can_tell_is_one_sentence_too(
        self, arguments, sentence
    ):
        self.assert_refused(arguments, sentence)

    @pytest.mark.slow
    def test_a_second_process_loads_the_programs_and_restores_the_same(self):
        found = []
        for i in (1, 2):
            out = self.folder / f'out{i}'
            subprocess.run(
                [
                    *(sys.executable, '-m', 'experiments.restore'),
                    *(f'--image={_FACE}', '--method=score_ald'),
                    *('--num_steps=3', f'--out={out}'),
                ],
                cwd=_ROOT,
                env={
                    **_ENVIRONMENT,
                    'JAX_COMPILATION_CACHE_DIR': str(self.folder / 'cache'),
                    # As for a user; what is quick to compile shows little.
                    'XLA_FLAGS': '',
                },
                check=True,
                timeout=600,
            )
            result = json.loads((out / 'result.json').read_text())
            found.append((sha256(out / 'restored.png'), result['seconds']))
        (first, cold), (second, warm) = found
        self.assertEqual(first, second)
        # To trace and lower it alone takes a third of what compiling takes.
        self.assertLess(warm['compile'], cold['compile'] / 5)


class MistakesTest(absltest.TestCase):
    def test_each_binary_says_a_mistake_in_one_sentence(self):
        nowhere = '--out=/dev/null/out'
        unwritable = 'error: --out must be a folder that can be written'
        weights = '--weights=tests/goldens/unet_tiny32.pt'
        cases = (
            ('demo', [nowhere], unwritable),
            ('sample', [nowhere], unwritable),
            ('sample', ['--eta=2'], 'error: eta of transition must be from'),
            ('sample', ['--zeta=1'], "error: Unknown command line flag 'zeta'"),
            ('denoise', [f'--image={_FACE}', nowhere], unwritable),
            ('denoise', ['--image=a.png'], 'error: there is no file a.png'),
            ('convert_weights', [weights, nowhere], unwritable),
            ('convert_weights', ['--weights=a.pt'], 'error: there is no file'),
        )
        # All at once, since each takes seconds to import what it needs.
        runs = [
            subprocess.Popen(
                [sys.executable, '-m', f'experiments.{binary}', *arguments],
                cwd=_ROOT,
                env=_ENVIRONMENT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for binary, arguments, _ in cases
        ]
        for run, (binary, arguments, sentence) in zip(runs, cases, strict=True):
            _, error = run.communicate(timeout=300)
            with self.subTest(binary=binary, arguments=arguments):
                self.assertEqual(run.returncode, 2)
                self.assertStartsWith(error, sentence)
                self.assertEqual(error.count('\n'), 1)


if __name__ == '__main__':
    absltest.main()
