"""Tensors of PyTorch as parameters of a network of two layers."""

import flax.linen as nn
import numpy as np
from absl.testing import absltest

from invjax.priors import state_dict


class _TwoLayers(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        x = nn.Conv(4, (3, 3), name='conv')(x)
        return nn.Dense(5, name='dense')(x) + time


def _tensors():
    rng = np.random.default_rng(0)
    return {
        'conv.weight': rng.normal(size=(4, 3, 3, 3)),
        'conv.bias': rng.normal(size=4),
        'dense.weight': rng.normal(size=(5, 4)),
        'dense.bias': rng.normal(size=5),
    }


class ToParamsTest(absltest.TestCase):
    def to_params(self, tensors):
        return state_dict.to_params(tensors, _TwoLayers(), (6, 6, 3))

    def test_outputs_come_last_and_inputs_before_them(self):
        tensors = _tensors()
        params = self.to_params(tensors)
        # o, i, row, column of a convolution; o, i of a linear layer.
        for o, i, row, column in np.ndindex(4, 3, 3, 3):
            self.assertEqual(
                params['conv']['kernel'][row, column, i, o],
                np.float32(tensors['conv.weight'][o, i, row, column]),
            )
        for o, i in np.ndindex(5, 4):
            self.assertEqual(
                params['dense']['kernel'][i, o],
                np.float32(tensors['dense.weight'][o, i]),
            )
        np.testing.assert_array_equal(
            params['dense']['bias'], np.float32(tensors['dense.bias'])
        )

    def test_a_linear_layer_may_be_stored_as_a_convolution(self):
        tensors = _tensors()
        expected = self.to_params(tensors)['dense']['kernel']
        tensors['dense.weight'] = tensors['dense.weight'][..., None, None]
        found = self.to_params(tensors)['dense']['kernel']
        np.testing.assert_array_equal(found, expected)

    def test_tensors_that_do_not_fit_are_named(self):
        for change, sentence in (
            ({'dense.weight': np.ones((4, 5))}, r'dense.weight \(4, 5\), not'),
            ({'more.bias': np.ones(1)}, '1 left over .more.bias'),
        ):
            with self.assertRaisesRegex(ValueError, sentence):
                self.to_params(_tensors() | change)


if __name__ == '__main__':
    absltest.main()
