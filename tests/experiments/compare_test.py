"""`compare` as a user runs it, beside a peer whose answers are made by hand."""

import json
import pathlib
import sys
import tempfile

from absl.testing import absltest

import invjax.comparison
from invjax import images
from tests.experiments import tiny_prior

_FOLDER = pathlib.Path(invjax.comparison.__file__).parent
# In place of torch and deepinv. Its network is the prior itself. Without noise
# y is the truth, and each value of what it restores is off by d: 0.2 for image
# 0 and 0.02 for image 1, which are 20 and 40 dB, 0.002 for others, and a tenth
# of that with a weight of 100.
_STAND_IN = f"""
import sys
sys.path.insert(0, {str(_FOLDER)!r})
import numpy as np
from answers import serve
from invjax import load_prior

def answer(question):
    do = question['do']
    if do == 'load':
        with np.load(question['weights']) as weights:
            assert 'first.weight' in weights.files
        return {{'versions': {{'stand-in': '1.0'}}}}
    if do == 'predict':
        prior = load_prior('PRIOR')
        x_t = np.load(question['x_t'])
        np.save(question['out'], prior(x_t, question['t']).eps)
        return {{}}
    with np.load(question['problem']) as arrays:
        mask, y = arrays['mask'], arrays['y']
    if do == 'measure':
        np.save(question['out'], mask * np.load(question['x']))
        return {{}}
    d = {{0: 0.2, 1: 0.02}}.get((question['seed'] - 1) % 1000, 0.002)
    if question['settings'].get('weight') == 100.0:
        d /= 10
    # Towards zero, so that nothing is clipped.
    np.save(question['out'], y - d * np.sign(y))
    return {{'seconds': 2.0, 'num_evaluations': question['num_steps']}}

serve(answer)
"""


class CompareTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = folder = pathlib.Path(holder.name)
        # LPIPS needs 31 pixels a side.
        tiny_prior.write(folder, num_images=3, side=32)
        script = folder / 'stand_in.py'
        script.write_text(_STAND_IN.replace('PRIOR', f'{folder}/prior'))
        peer = folder / 'python'
        peer.write_text(f'#!/bin/sh\nexec {sys.executable} {script}\n')
        peer.chmod(0o755)
        process = tiny_prior.start(
            'compare',
            folder,
            f'--peer={peer}',
            f'--images={folder}/images',
            '--num_images=2',
            '--first_tuning=2',
            '--num_tuning=1',
            '--tasks=denoising',
            '--runs=dps:2',
            '--noise_std=0',
            '--num_shown=1',
            f'--out={folder}/out',
        )
        cls.output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        cls.record = json.loads((folder / 'out/compare.json').read_text())

    def row(self, side):
        lines = (self.folder / 'out/compare.md').read_text().splitlines()
        (row,) = [line for line in lines if f'| {side} |' in line]
        self.assertIn(row, self.output)
        return [cell.strip() for cell in row.split('|')[1:-1]]

    def test_the_table_has_the_scores_that_were_made_by_hand(self):
        row = self.row('deepinv')
        self.assertEqual(row[:5], ['`denoising`', '`dps`', '2', 'deepinv', 'default'])  # fmt: skip
        self.assertEqual(row[5], '30.00 +- 10.00')
        self.assertEqual(row[7], '2.0')
        tuned = self.row('deepinv, tuned')
        self.assertEqual(tuned[4:6], ['weight 100', '50.00 +- 10.00'])

    def test_differences_are_ours_less_theirs(self):
        ours = self.record['runs'][0]
        self.assertEqual(ours['side'], 'invjax')
        a, b = ours['scores']['psnr']
        mean = ((a - 20) + (b - 40)) / 2
        # Of two differences, the standard error is half of what parts them.
        error = abs((a - 20) - (b - 40)) / 2
        self.assertEqual(self.row('deepinv')[8], f'{mean:.2f} +- {error:.2f}')
        self.assertEqual(self.row('invjax')[8:], ['', ''])

    def test_the_record_says_how_to_make_it_again(self):
        self.assertEqual(self.record['peer'], {'stand-in': '1.0'})
        self.assertEqual(self.record['prior']['name'], 'tiny')
        self.assertEqual(self.record['flags']['noise_std'], 0)
        tuned = self.record['runs'][2]
        self.assertEqual(tuned['settings'], {'weight': 100.0})
        for score, expected in zip(
            tuned['scores']['psnr'], [40, 60], strict=True
        ):
            self.assertAlmostEqual(score, expected, places=2)

    def test_a_sheet_shows_the_images_that_were_asked_for(self):
        x, _ = images.read_image(self.folder / 'out/compare_denoising.png')
        # Truth, measurement and three runs of 128 pixels, with gaps of 4.
        self.assertEqual(x.shape[1], 5 * 128 + 4 * 4)
        self.assertLess(x.shape[0], 2 * 128)


class RefusalTest(absltest.TestCase):
    def test_mistakes_are_refused_in_one_sentence(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        folder = pathlib.Path(holder.name)
        python = '--peer=/nowhere/python'
        real = f'--peer={sys.executable}'
        cases = {
            'error: give --peer': (),
            'error: --peer must be a Python': (python,),
            'error: --runs must be METHOD:STEPS': (real, '--runs=sdedit:9'),
            'error: images 7 to 8 to tune on must not be': (
                real,
                '--first_tuning=7',
                '--num_tuning=2',
            ),
        }
        runs = {
            sentence: tiny_prior.start(
                'compare', folder, f'--out={folder}/out', *arguments
            )
            for sentence, arguments in cases.items()
        }
        for sentence, run in runs.items():
            _, error = run.communicate(timeout=300)
            with self.subTest(sentence):
                self.assertEqual(run.returncode, 2)
                self.assertStartsWith(error, sentence)
                self.assertEqual(error.count('\n'), 1)


if __name__ == '__main__':
    absltest.main()
