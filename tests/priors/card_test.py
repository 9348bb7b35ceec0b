"""What a card says of a method's calibration, and of which runs."""

from absl.testing import absltest, parameterized

from invjax.priors.card import Card, Coverage

_ENTRY = {
    'method': 'dps',
    'task': 'denoising',
    'num_steps': 100,
    'noise_std': 0.05,
    'num_images': 8,
    'settings': {'zeta': 0.3, 'variance': 'learned'},
    'nominal': [0.5, 0.9],
    'observed': [0.4, 0.8],
    'standard_error': [0.02, 0.01],
}
_ASKED = {
    'method': 'dps',
    'task': 'denoising',
    'num_steps': '100',
    'noise_std': 0.05,
    # One more than the entry names, and one that has gone through float32.
    'settings': {'zeta': 0.30000001192092896, 'variance': 'learned', 'eta': 1},
}


class CoverageTest(parameterized.TestCase):
    def test_it_is_the_entry_of_the_run(self):
        other = _ENTRY | {'task': 'colorization', 'observed': [0.1, 0.2]}
        card = Card({}, calibrated=(other, _ENTRY))
        self.assertEqual(
            card.coverage(**_ASKED),
            Coverage(
                *('dps', 'denoising', '100', 8),
                *((0.5, 0.9), (0.4, 0.8), (0.02, 0.01)),
            ),
        )

    @parameterized.parameters(
        {'method': 'ddrm'},
        {'task': None},
        {'num_steps': 50},
        {'noise_std': 0.1},
        {'settings': {'zeta': 0.4, 'variance': 'learned'}},
        {'settings': {'zeta': 0.3, 'variance': 'beta'}},
        {'settings': {'variance': 'learned'}},
    )
    def test_nothing_is_said_of_another_run(self, **change):
        card = Card({}, calibrated=(_ENTRY,))
        self.assertIsNone(card.coverage(**_ASKED | change))


if __name__ == '__main__':
    absltest.main()
