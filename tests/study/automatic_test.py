"""Choices: what a table takes for each aim, and the page that it is read off."""

import json
import pathlib
import tempfile
import tomllib

import jax.numpy as jnp
from absl.testing import absltest, parameterized

from invjax import operators, problem, restoration
from invjax.methods import method_class
from invjax.priors.card import Card
from invjax.study import automatic
from tests.methods import dense

_ROOT = pathlib.Path(__file__).parents[2]
_FLAGS = {
    'images': 'somewhere/faces.npz:set',
    'num_images': 4,
    'lpips': ['alex'],
}


def row(method, psnr, lpips, forward, backward=0, can_do=True):
    values = {
        'psnr': psnr,
        'lpips_alex': lpips,
        'forward': forward,
        'backward': backward,
        'seconds': 1.0,
    }
    return {
        'task': 'denoising',
        'method': method,
        'num_steps': 'quad20',
        'can_do': can_do,
        'num_cells': 4,
        'settings': {} if method == 'measurement' else {'clip': True},
        'scores': {n: {'mean': v} for n, v in values.items()},
    }


def written(folder, rows, name='evaluation.json'):
    path = pathlib.Path(folder) / name
    found = {'rows': rows, 'flags': _FLAGS, 'date': '2026-11-27T06:00:00'}
    path.write_text(json.dumps(found))
    return path


class TableTest(absltest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def test_each_aim_has_the_row_that_serves_it(self):
        rows = [
            row('measurement', 99.0, 0.0, 0),
            row('wiener', 30.0, 0.09, 20),
            row('pnp_admm', 29.1, 0.08, 13),
            row('dps', 27.0, 0.01, 20, 20),
            # Fewer passes, but more than a decibel lost.
            row('sdedit', 28.9, 0.07, 3),
            row('repaint', 40.0, 0.0, 0, can_do=False),
        ]
        text = automatic.table([written(self.folder, rows)])
        found = tomllib.loads(text)['choice']
        chosen = {c['aim']: c['method'] for c in found}
        self.assertEqual(
            chosen,
            {'psnr': 'wiener', 'perception': 'dps', 'speed': 'pnp_admm'},
        )
        self.assertEqual(found[1]['evaluations'], 40)
        self.assertEqual(
            found[0]['command'],
            'python -m experiments.evaluate --images=faces.npz:set '
            '--num_images=4 --lpips=alex',
        )

    def test_a_task_in_two_files_is_refused(self):
        paths = [
            written(self.folder, [row('dps', 1.0, 1.0, 1)], name)
            for name in ('a.json', 'b.json')
        ]
        with self.assertRaisesRegex(ValueError, 'denoising is in two'):
            automatic.table(paths)


class FacesTest(absltest.TestCase):
    """The table that comes with `faces64`."""

    def setUp(self):
        self.card = Card.read(_ROOT / 'checkpoints' / 'faces64')

    def test_the_page_is_what_the_table_says(self):
        text = (_ROOT / 'docs' / 'choose.md').read_text()
        self.assertEqual(text, automatic.page(self.card))

    def test_every_choice_is_a_method_with_settings_it_has(self):
        self.assertNotEmpty(self.card.choices)
        for entry in self.card.choices:
            self.assertIn(entry['task'], operators.OPERATORS)
            self.assertIn(entry['aim'], restoration.AIMS)
            method_class(entry['method']).of(entry['settings']).check(1000)


class _Carded:
    def __init__(self, card):
        self.card = card
        self.alpha_bar = dense.ALPHA_BAR


class ChooseTest(parameterized.TestCase):
    CARD = Card(
        {'name': 'small'},
        choices=(
            {
                'task': 'random_inpainting',
                'aim': 'speed',
                'method': 'dps',
                'num_steps': 7,
                'settings': {'zeta': 2.5},
                'psnr': 20.0,
                'lpips': 0.1,
                'evaluations': 14,
                'of': 3,
                'faces': 8,
                'date': '2026-11-27',
            },
        ),
    )

    def test_it_takes_the_entry_and_says_why(self):
        measured = dense.case_of('random_inpainting').problem
        measured = measured.replace(task='random_inpainting')
        chosen = restoration.choose(measured, _Carded(self.CARD), 'speed')
        self.assertEqual(
            (chosen.method.name, chosen.method.zeta, chosen.num_steps),
            ('dps', 2.5, 7),
        )
        self.assertIn('best of 3 methods for speed', chosen.words)

    @parameterized.parameters(
        ('linear', 'psnr', 'wiener'),
        ('linear', 'samples', 'dps'),
        ('tanh', 'psnr', 'daps'),
    )
    def test_without_an_entry_it_falls_back_and_says_so(self, kind, aim, name):
        measured = dense.case_of('random_inpainting').problem
        if kind == 'tanh':
            operator = operators.Function.of(jnp.tanh, (4, 4, 1))
            measured = problem.measure(
                dense.KEY, jnp.zeros((4, 4, 1)), operator
            )
        chosen = restoration.choose(measured, dense.prior_of((4, 4, 1)), aim)
        self.assertEqual(chosen.method.name, name)
        self.assertIn(f'for want of a choice for {aim}', chosen.words)

    @parameterized.parameters(
        ({'aim': 'psrn'}, 'aim must be one of psnr, perception'),
        ({'zeta': 1.0}, 'zeta cannot be given with auto'),
        ({'method': 'dps', 'aim': 'psnr'}, "aim goes with the method 'auto'"),
    )
    def test_mistakes_are_refused(self, given, words):
        case = dense.case_of('random_inpainting')
        with self.assertRaisesRegex(ValueError, words):
            restoration.restore(
                case.problem, case.prior, **{'method': 'auto', **given}
            )

    def test_restore_takes_steps_and_method_of_the_choice(self):
        case = dense.case_of('random_inpainting')
        restored = restoration.restore(case.problem, case.prior, 'auto')
        self.assertEqual(restored.num_steps, 'quad20')
        self.assertEqual(restored.method.name, 'wiener')


if __name__ == '__main__':
    absltest.main()
