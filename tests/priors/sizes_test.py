"""Sizes of images that a network can have."""

from absl.testing import absltest, parameterized

from invjax.priors import sizes
from invjax.priors.diffusers_unet import UNet2D
from invjax.priors.edm_unet import EDMUNet


class SizesTest(parameterized.TestCase):
    @parameterized.parameters(
        # Each level but the last halves the image.
        (EDMUNet(channel_mult=(1, 2, 2)), 4),
        (UNet2D(block_out_channels=(8, 8, 8, 8)), 8),
        (lambda x, t: x, 1),
    )
    def test_they_are_divisible_once_for_each_level(self, network, divisor):
        self.assertEqual(sizes.divisor(network), divisor)

    @parameterized.parameters(
        (6, 8, 'height .* 4.*, got 6'),
        (8, 6, 'width .* 4.*, got 6'),
        (0, 8, 'height .*, got 0'),
    )
    def test_another_size_is_refused_by_its_side(self, height, width, sentence):
        sizes.check(8, 12, 4)
        with self.assertRaisesRegex(ValueError, sentence):
            sizes.check(height, width, 4)


if __name__ == '__main__':
    absltest.main()
