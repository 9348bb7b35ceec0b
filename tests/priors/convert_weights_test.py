"""`convert_weights`, as a user runs it: what it keeps, and what it refuses."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.numpy
from absl.testing import absltest

from invjax.priors import kept, torch_file

_ROOT = pathlib.Path(__file__).parents[2]
_TINY = _ROOT / 'tests/goldens/unet_tiny32.pt'
_UNTRAINED = ('--head_channels=16', '--nocheck')


class ConvertWeightsTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = folder = pathlib.Path(holder.name).resolve()
        large = {
            name: np.copy(array)
            for name, array in torch_file.read_state_dict(_TINY).items()
        }
        large['out.2.bias'][1] = 1e5
        safetensors.numpy.save_file(large, folder / 'large.safetensors')
        shutil.copyfile(_TINY, folder / 'tiny.pt')
        (folder / 'work').mkdir()
        (folder / 'work' / 'params.yaml').write_text('years of work')
        tiny = f'--weights={folder}/tiny.pt'
        runs = {
            'half': (tiny, *_UNTRAINED, '--half', f'--out={folder}/half'),
            'work': (tiny, *_UNTRAINED, f'--out={folder}/work'),
            'large': (
                f'--weights={folder}/large.safetensors', *_UNTRAINED,
                '--half', f'--out={folder}/large',
            ),
            'size': (tiny, *_UNTRAINED, '--image_size=-1'),
        }  # fmt: skip
        environment = {**os.environ, 'INVJAX_CHECKPOINTS': f'{folder}/kept'}
        # All at once, since each takes seconds to import what it needs.
        processes = {
            name: subprocess.Popen(
                [sys.executable, '-m', 'experiments.convert_weights', *flags],
                cwd=_ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name, flags in runs.items()
        }
        cls.outputs = {n: p.communicate() for n, p in processes.items()}
        cls.codes = {n: p.returncode for n, p in processes.items()}

    def assert_refused(self, name, regex):
        self.assertNotEqual(self.codes[name], 0)
        out, error = self.outputs[name]
        self.assertRegex(out + error, regex)
        self.assertNotIn('Traceback', out + error)

    def test_half_is_kept_and_says_what_it_is(self):
        self.assertEqual(self.codes['half'], 0, self.outputs['half'])
        params, card = kept.read(self.folder / 'half')
        bias = torch_file.read_state_dict(_TINY)['out.2.bias']
        np.testing.assert_array_equal(
            params['out_2']['bias'], bias.astype(np.float16)
        )
        self.assertEqual(card['sha256'], torch_file.file_sha256(_TINY))
        self.assertRegex(
            self.outputs['half'][0],
            r'(?s)noise_schedule +linear.*num_train_steps +1000.*kept in',
        )
        self.assertRegex(self.outputs['half'][0], r'weights +top level\n')

    def test_work_of_the_user_stays(self):
        self.assert_refused('work', 'has params.yaml in it')
        self.assertEqual(
            (self.folder / 'work' / 'params.yaml').read_text(), 'years of work'
        )

    def test_numbers_beyond_float16_are_refused_by_name(self):
        self.assert_refused('large', '--half would make.*infinite: out.2.bias')
        self.assertFalse(kept.is_kept(self.folder / 'large'))

    def test_a_size_that_cannot_be_is_refused(self):
        self.assert_refused('size', 'image_size must be from 2')


if __name__ == '__main__':
    absltest.main()
