"""Claims on scores that were planted so that the outcome is known."""

import numpy as np
from absl.testing import absltest

from invjax.study import verdict

_NOISE = np.random.default_rng(0).normal(0, 0.1, 40)


class VerdictTest(absltest.TestCase):
    def test_a_clear_winner_is_confirmed_and_its_rival_refuted(self):
        scores = {
            'a': np.stack([np.full(40, 5.0), 20 + _NOISE]),
            'b': np.stack([18 - _NOISE, np.full(40, 17.0)]),
            'c': np.full((1, 40), 3.0),
        }
        won = verdict.best_when_tuned(scores, 'a')
        self.assertEqual((won.word, won.rival), ('confirmed', 'b'))
        self.assertAlmostEqual(won.difference.mean, 2 + 2 * _NOISE[1::2].mean())
        lost = verdict.best_when_tuned(scores, 'b')
        self.assertEqual((lost.word, lost.rival), ('refuted', 'a'))

    def test_differences_within_their_errors_are_undecided(self):
        noise = np.tile([1.0, 1.0, -1.0, -1.0], 10)
        scores = {'a': (5 + noise)[None], 'b': np.full((1, 40), 5.0)}
        self.assertEqual(verdict.best_when_tuned(scores, 'a').word, 'undecided')

    def test_a_setting_is_not_judged_by_the_images_it_was_chosen_on(self):
        # The first setting is perfect on even images alone.
        even = np.arange(40) % 2 == 0
        scores = {
            'a': np.stack([np.where(even, 30.0, 1.0), np.full(40, 12.0)]),
            'b': (10 + _NOISE)[None],
        }
        self.assertEqual(verdict.best_when_tuned(scores, 'a').word, 'refuted')

    def test_the_safest_has_the_best_worst_setting(self):
        scores = {
            'a': np.stack([20 + _NOISE, 19 + _NOISE]),
            'b': np.stack([25 + _NOISE, 10 - _NOISE]),
        }
        safe = verdict.safest_untuned(scores, 'a')
        self.assertEqual(safe.word, 'confirmed')
        # Risks are 25 - 19 and 25 - 10, up to the planted noise.
        self.assertAlmostEqual(safe.difference.mean, 9 + 2 * _NOISE.mean())
        self.assertEqual(verdict.safest_untuned(scores, 'b').word, 'refuted')


if __name__ == '__main__':
    absltest.main()
