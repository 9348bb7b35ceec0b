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
    'noise_std': 0.1,
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
        self.assertEqual(found[1]['noise_std'], 0.1)
        self.assertEqual(
            found[0]['command'],
            'python -m experiments.evaluate --images=faces.npz:set '
            '--num_images=4 --noise_std=0.1 --lpips=alex',
        )

    def test_what_is_as_good_for_fewer_passes_is_taken(self):
        rows = [
            row('dps', 30.0, 0.0500, 40, 40),
            row('pnp_admm', 29.96, 0.0509, 13),
            row('wiener', 29.94, 0.0511, 5),
        ]
        text = automatic.table([written(self.folder, rows)])
        chosen = {c['aim']: c['method'] for c in tomllib.loads(text)['choice']}
        self.assertEqual(
            chosen,
            {'psnr': 'pnp_admm', 'perception': 'pnp_admm', 'speed': 'wiener'},
        )

    def test_what_is_not_finite_is_never_taken(self):
        rows = [row('dps', None, None, 1), row('wiener', 20.0, 0.1, 20)]
        text = automatic.table([written(self.folder, rows)])
        chosen = {c['method'] for c in tomllib.loads(text)['choice']}
        self.assertEqual(chosen, {'wiener'})

    def test_settings_of_its_own_are_in_its_line(self):
        own = {**row('mmps', 30.0, 0.05, 20), 'line': 'mmps iterations 2'}
        other = {**row('dps', 20.0, 0.04, 20), 'line': 'dps'}
        path = written(self.folder, [own, other])
        psnr, perception, _ = tomllib.loads(automatic.table([path]))['choice']
        self.assertEqual(psnr['method'], 'mmps')
        self.assertEqual(psnr['line'], 'mmps iterations 2')
        self.assertNotIn('line', perception)

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
        results = (_ROOT / 'docs' / 'results.md').read_text()
        self.assertEqual(text, automatic.page(self.card, results))

    def test_every_choice_is_a_method_with_settings_it_has(self):
        self.assertNotEmpty(self.card.choices)
        for entry in self.card.choices:
            self.assertIn(entry['task'], operators.OPERATORS)
            self.assertIn(entry['aim'], restoration.AIMS)
            method_class(entry['method']).of(entry['settings']).check(1000)


class HeldAgainstTest(absltest.TestCase):
    RESULTS = """
### `denoising`

| method | steps | PSNR, dB | LPIPS alex |
| --- | --- | --- | --- |
| `measurement` |  | 40.00 +- 0.02 | 0.000 +- 0.001 |
| `wiener` | quad20 | 36.45 +- 0.08 | **0.003 +- 0.000** |
| `dps` | 100 | **36.50 +- 0.05** | 0.006 +- 0.000 |

## Something else

| method | steps | PSNR, dB | LPIPS alex |
| --- | --- | --- | --- |
| `wiener` | quad20 | 99.00 | 0.000 |
"""

    def lines(self, *choices):
        names = 'aim', 'method', 'num_steps', 'line'
        choices = [dict(zip(names, c, strict=False)) for c in choices]
        card = Card(
            {'name': 'small'},
            choices=tuple({'task': 'denoising', **c} for c in choices),
        )
        return automatic.held_against(card, self.RESULTS)

    def test_choices_stand_beside_the_best_row_of_their_task(self):
        *_, one, other, _, count = self.lines(
            ('psnr', 'wiener', 'quad20'), ('perception', 'dps', 100)
        )
        self.assertEqual(
            one,
            '| `denoising` | psnr | `wiener` | quad20 | 36.45 +- 0.08 | `dps` '
            '| 100 | 36.50 +- 0.05 | 0.050 | yes |',
        )
        self.assertEqual(
            other,
            '| `denoising` | perception | `dps` | 100 | 0.006 +- 0.000 '
            '| `wiener` | quad20 | 0.003 +- 0.000 | 0.003 | no |',
        )
        self.assertEqual(count, '1 of 2 are near.')

    def test_a_choice_that_the_table_lacks_has_a_dash(self):
        *_, row, _, count = self.lines(('psnr', 'wiener', 'quad50'))
        self.assertIn('| `wiener` | quad50 | - | `dps` | 100 |', row)
        self.assertEqual(count, '0 of 0 are near.')

    def test_settings_of_its_own_make_it_another_row(self):
        *_, row, _, count = self.lines(
            ('psnr', 'wiener', 'quad20', 'wiener spread 2')
        )
        self.assertIn('| `wiener spread 2` | quad20 | - |', row)
        self.assertEqual(count, '0 of 0 are near.')


class _Carded:
    def __init__(self, card):
        self.card = card
        self.alpha_bar = dense.ALPHA_BAR


def calibrated(method, observed, task='random_inpainting'):
    return {
        'method': method,
        'task': task,
        'num_steps': 9,
        'noise_std': 0.1,
        'settings': {'clip': False},
        'num_images': 5,
        'num_samples': 4,
        'nominal': [0.2, 0.6],
        'observed': observed,
        'standard_error': [0.01, 0.01],
    }


class ChooseTest(parameterized.TestCase):
    CARD = Card(
        {'name': 'small'},
        calibrated=(
            calibrated('wiener', [0.2, 0.4]),
            calibrated('dps', [0.27, 0.58]),
            calibrated('ddrm', [0.2, 0.6], task='denoising'),
        ),
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
                'noise_std': 0.1,
                'of': 3,
                'faces': 8,
                'date': '2026-11-27',
            },
        ),
    )

    def measured(self, task='random_inpainting'):
        case = dense.case_of('random_inpainting', 0.1)
        return case.problem.replace(task=task)

    def choose(self, aim, task='random_inpainting', card=CARD):
        prior = _Carded(card)
        return restoration.choose(self.measured(task), prior, aim)

    def test_it_takes_the_entry_and_says_why(self):
        chosen = self.choose('speed')
        self.assertEqual(
            (chosen.method.name, chosen.method.zeta, chosen.num_steps),
            ('dps', 2.5, 7),
        )
        self.assertIn('best of 3 runs for speed', chosen.words)
        self.assertNotIn('noise', chosen.words)

    def test_its_line_is_named_where_it_has_one(self):
        entry = {**self.CARD.choices[0], 'line': 'dps zeta 2.5'}
        chosen = self.choose('speed', card=Card({}, choices=(entry,)))
        self.assertStartsWith(chosen.words, 'dps zeta 2.5 with 7, best of')

    def test_it_says_where_the_entry_is_of_other_noise(self):
        measured = self.measured().replace(noise_std=jnp.float32(0.3))
        chosen = restoration.choose(measured, _Carded(self.CARD), 'speed')
        self.assertIn('all with noise 0.1, where this has 0.3', chosen.words)

    def test_for_samples_it_takes_the_least_wrong_coverage(self):
        # wiener is off by 0.2 at worst and dps by 0.07.
        chosen = self.choose('samples')
        self.assertEqual(
            (chosen.method.name, chosen.method.transition.clip),
            ('dps', False),
        )
        self.assertEqual(chosen.num_steps, 9)
        self.assertIn('its 20% intervals held the truth in 27%', chosen.words)
        self.assertIn('of 2 methods measured', chosen.words)

    def test_samples_that_are_too_sure_are_not_taken(self):
        card = Card(
            {'name': 'small'}, calibrated=(calibrated('wiener', [0.2, 0.4]),)
        )
        chosen = self.choose('samples', card=card)
        self.assertEqual(chosen.method.name, 'mmps')
        self.assertEqual(chosen.method.noising, 'sample')
        self.assertEqual(chosen.num_steps, 'quad20')
        self.assertStartsWith(
            chosen.words, 'mmps noising sample iterations 2 products 2 with'
        )
        self.assertIn('none of 1 methods measured', chosen.words)
        self.assertIn('60% intervals held the truth in 40%', chosen.words)

    @parameterized.parameters(
        ('linear', 'psnr', 'wiener', 'no table of choices'),
        ('linear', 'samples', 'mmps', 'no table of choices'),
        ('tanh', 'psnr', 'daps', 'no table of choices'),
        ('tanh', 'samples', 'mmps', 'no table of choices'),
    )
    def test_without_a_table_it_falls_back_and_says_so(
        self, kind, aim, name, words
    ):
        measured = dense.case_of('random_inpainting').problem
        if kind == 'tanh':
            operator = operators.Function.of(jnp.tanh, (4, 4, 1))
            measured = problem.measure(
                dense.KEY, jnp.zeros((4, 4, 1)), operator
            )
        chosen = restoration.choose(measured, dense.prior_of((4, 4, 1)), aim)
        self.assertEqual(chosen.method.name, name)
        self.assertIn(words, chosen.words)

    @parameterized.parameters(
        ('psnr', 'wiener', 'small have nothing for psnr on random_inpainting'),
        ('samples', 'mmps', 'no coverage was measured for small on jpeg'),
    )
    def test_what_a_table_lacks_is_said(self, aim, name, words):
        task = 'jpeg' if aim == 'samples' else 'random_inpainting'
        chosen = self.choose(aim, task)
        self.assertEqual(chosen.method.name, name)
        self.assertIn(words, chosen.words)

    def test_samples_of_phases_are_begun_by_what_can_guess_them(self):
        chosen = self.choose('samples', 'phase_retrieval')
        self.assertEqual(chosen.method.name, 'daps')
        self.assertIn('no coverage was measured', chosen.words)

    @parameterized.parameters(
        ({'aim': 'psrn'}, 'aim must be one of psnr, perception'),
        ({'zeta': 1.0}, r'zeta cannot be given with .* as well \(dps, mcg\)'),
        ({'eta': 1.0}, r'eta cannot be given with .* a method as well \(any\)'),
        ({'num_steps': 5}, 'num_steps cannot be given with the method auto'),
        ({'method': 'dps', 'aim': 'psnr'}, "aim goes with the method 'auto'"),
    )
    def test_mistakes_are_refused(self, given, words):
        case = dense.case_of('random_inpainting')
        with self.assertRaisesRegex(ValueError, words):
            restoration.restore(case.problem, case.prior, **given)

    def test_restore_takes_steps_and_method_of_the_choice(self):
        case = dense.case_of('random_inpainting')
        restored = restoration.restore(case.problem, case.prior)
        self.assertEqual(restored.num_steps, 'quad20')
        self.assertEqual(restored.method.name, 'wiener')
        self.assertEqual(restored.aim, 'psnr')


if __name__ == '__main__':
    absltest.main()
