"""Defaults: which of the tuned ones a number of steps gets."""

from unittest import mock

from absl.testing import absltest, parameterized

from invjax import defaults

_TUNED = {
    ('p', 'dps', 'denoising'): {'zeta': 1.0},
    ('p', 'dps', 'denoising', 10): {'zeta': 2.0},
    ('p', 'dps', 'jpeg', 10): {'zeta': 3.0},
    ('p', 'dps', 'any', 10): {'zeta': 4.0},
}


@mock.patch.object(defaults, 'DEFAULTS', _TUNED)
class DefaultsTest(parameterized.TestCase):
    @parameterized.parameters((1, 2), (10, 2), (31, 2), (32, 1), (1000, 1))
    def test_the_nearest_number_of_steps_by_ratio_is_taken(self, number, zeta):
        # Between 10 and 100 the middle by ratio is 31.6.
        found = defaults.default_settings('p', 'dps', 'denoising', number)
        self.assertEqual(found, {'zeta': zeta})

    @parameterized.parameters('10', 'quad10', 'ddim10')
    def test_steps_are_what_the_spacing_has(self, num_steps):
        found = defaults.default_settings('p', 'dps', 'denoising', num_steps)
        self.assertEqual(found, {'zeta': 2.0})

    @parameterized.parameters((10, {'zeta': 4.0}), (100, {}))
    def test_any_task_is_one_of_which_nothing_is_said(self, number, expected):
        found = defaults.default_settings('p', 'dps', 'colorization', number)
        self.assertEqual(found, expected)

    def test_what_is_tuned_for_few_steps_is_not_for_many(self):
        self.assertEqual(defaults.default_settings('p', 'dps', 'jpeg'), {})

    def test_without_a_number_of_steps_it_is_100(self):
        found = defaults.default_settings('p', 'dps', 'denoising')
        self.assertEqual(found, {'zeta': 1.0})

    def test_what_was_not_tuned_has_none(self):
        self.assertEqual(defaults.default_settings('q', 'dps', 'jpeg'), {})
        self.assertEqual(
            defaults.default_settings('q', 'dps', 'jpeg', 2000), {}
        )


if __name__ == '__main__':
    absltest.main()
