"""Checkpoints of many code bases: averaged weights wherever there are some."""

import functools
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from invjax.priors import convert, torch_file
from tests.cases import checkpoints

_CASES = functools.cache(checkpoints.cases)
_NAMES = [*_CASES()]
_REFUSED = checkpoints.refused()


class BroughtCheckpointsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = self.enter_context(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(holder) / 'weights.pt'

    def assert_averaged(self, tensors, rtol=0.0, atol=0.0):
        """That they are the network's, and convert to it."""
        expected = checkpoints.averaged()
        self.assertEqual(sorted(tensors), sorted(expected))
        for name, array in tensors.items():
            np.testing.assert_allclose(
                np.float32(array).reshape(expected[name].shape),
                expected[name],
                rtol,
                atol,
            )
        params, network = convert.convert(tensors, image_size=32)
        self.assertEqual(network.image_size, 32)
        self.assertTrue(params)

    @parameterized.parameters(*_NAMES)
    def test_the_averaged_weights_are_found_wherever_they_are(self, name):
        case = _CASES()[name]
        checkpoints.write(self.path, case.content, case.form)
        weights = torch_file.read_weights(self.path)
        # A float16 has 10 bits after the point, and 2**-24 the least.
        half = {'rtol': 2**-10, 'atol': 2**-24} if name == 'float16' else {}
        self.assert_averaged(weights.tensors, **half)
        self.assertEqual(weights.key, case.key)
        self.assertEqual(weights.averaged, case.averaged)

    @parameterized.parameters(*checkpoints.SAFETENSORS)
    def test_safetensors_of_any_type_are_read(self, name):
        dtype, metadata, rtol = checkpoints.SAFETENSORS[name]
        checkpoints.write_safetensors(
            self.path, checkpoints.as_type(dtype), metadata
        )
        atol = float(np.finfo(np.float16).tiny) if dtype is np.float16 else 0
        atol = 2.0**-9 if name == 'float8' else atol
        self.assert_averaged(torch_file.read_state_dict(self.path), rtol, atol)

    @parameterized.parameters(*checkpoints.CHANNELS)
    def test_grey_and_four_channels_are_priors(self, inputs, outputs):
        weights = checkpoints.with_channels(inputs, outputs)
        checkpoints.write(self.path, weights)
        _, network = convert.convert(
            torch_file.read_state_dict(self.path), image_size=32
        )
        self.assertEqual(network.out_channels, outputs)

    @parameterized.parameters(*_REFUSED)
    def test_what_is_no_prior_is_one_sentence(self, name):
        content, sentence = _REFUSED[name]
        checkpoints.write(self.path, content)
        with self.assertRaisesRegex(ValueError, sentence) as refused:
            convert.convert(torch_file.read_state_dict(self.path))
        self.assertNotIn('\n', str(refused.exception))

    def test_the_wrong_weights_would_show(self):
        checkpoints.write(self.path, {'model': checkpoints.raw()})
        with self.assertRaises(AssertionError):
            self.assert_averaged(torch_file.read_state_dict(self.path))


if __name__ == '__main__':
    absltest.main()
