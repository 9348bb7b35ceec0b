"""Names and shapes, there and back, and what is said of those that are wrong."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.priors import convert
from invjax.priors.unet import UNet

# Every part of the family once, and cheap to trace.
_NETWORK = UNet(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 2),
    attention_downsamplings=(2,),
    head_channels=16,
)


def shapes_of(network):
    leaves = convert.expected_leaves(network)
    return {name: shape for name, (_, shape) in leaves.items()}


def numbered_state_dict(network):
    """Tensors that are each filled with a number of their own."""
    return {
        name: np.full(shape, number, np.float32)
        for number, (name, shape) in enumerate(shapes_of(network).items())
    }


class InferenceTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {'resample': 'conv'},
        {'resample': 'plain', 'num_res_blocks': 2},
        {'resample': 'plain', 'attention_downsamplings': ()},
        {'resample': 'conv', 'attention_downsamplings': (1, 2)},
        {'channel_mult': (1, 1, 3), 'num_res_blocks': 2},
        {'channel_mult': (2,), 'attention_downsamplings': (1,)},
        {'scale_shift': False, 'out_channels': 3},
        {'in_channels': 1, 'out_channels': 2},
        {'attention_downsamplings': ()},
    )
    def test_an_architecture_is_read_off_the_shapes_that_it_has(self, **fields):
        network = _NETWORK.clone(**fields)
        inferred = convert.infer_architecture(
            shapes_of(network), image_size=32, head_channels=16
        )
        self.assertEqual(inferred, network)

    @parameterized.parameters(
        # The published networks of guided-diffusion and improved-diffusion.
        (64, (1, 2, 3, 4), (2, 4, 8)),
        (128, (1, 1, 2, 3, 4), (4, 8, 16)),
        (256, (1, 1, 2, 2, 4, 4), (8, 16, 32)),
        (256, (1, 1, 2, 2, 4, 4), (16, 32)),
        (512, (0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64)),
        (32, (1, 2, 2, 2), (2, 4)),
        # Multipliers of nobody's code: by where it attends.
        (128, (1, 2, 2, 4), (8,)),
        (64, (1, 2, 4, 8), (4, 8)),
        (64, (1, 2, 2, 4), (2, 4, 8)),
    )
    def test_the_size_of_images_is_that_of_the_familys_networks(
        self, side, channel_mult, attended
    ):
        network = _NETWORK.clone(
            model_channels=64,
            channel_mult=channel_mult,
            attention_downsamplings=attended,
        )
        inferred = convert.infer_architecture(
            shapes_of(network), head_channels=32
        )
        self.assertEqual(inferred.image_size, side)
        self.assertEqual(inferred.channel_mult, channel_mult)

    def test_a_size_that_nothing_tells_is_none(self):
        network = _NETWORK.clone(attention_downsamplings=())
        self.assertIsNone(convert.usual_side(network))

    @parameterized.parameters(-1, 0, 33, 2**20, '32', 32.0)
    def test_a_size_that_it_cannot_have_is_refused(self, side):
        with self.assertRaisesRegex(
            ValueError,
            f'image_size must be from 2 .*divisible by 2.*got {side}',
        ):
            convert.infer_architecture(
                shapes_of(_NETWORK), head_channels=16, image_size=side
            )

    @parameterized.parameters(
        {'in_channels': 6, 'out_channels': 3},
        {'in_channels': 1, 'out_channels': 3},
        {'in_channels': 3, 'out_channels': 1000},
    )
    def test_what_predicts_no_noise_is_refused(self, in_channels, out_channels):
        network = _NETWORK.clone(
            in_channels=in_channels, out_channels=out_channels
        )
        with self.assertRaisesRegex(
            ValueError, f'{out_channels} output channels for {in_channels} of'
        ):
            convert.infer_architecture(shapes_of(network), head_channels=16)

    @parameterized.parameters(
        {'num_res_blocks': 10**12},
        {'channel_mult': [1] * 1000},
        {'model_channels': 'many'},
        {'depth': 3},
    )
    def test_a_description_that_no_network_has_is_refused(self, **fields):
        description = convert.describe(_NETWORK) | fields
        with self.assertRaises((ValueError, TypeError)):
            convert.network_from_description(description)

    def test_the_shapes_of_ffhq256_need_no_override(self):
        self.assertEqual(convert.infer_architecture(shapes_of(UNet())), UNet())

    def test_a_description_is_plain_data_and_has_an_inverse(self):
        description = json.loads(json.dumps(convert.describe(_NETWORK)))
        self.assertEqual(
            convert.network_from_description(description), _NETWORK
        )
        self.assertEqual(
            convert.network_from_description(description, remat=True),
            _NETWORK.clone(remat=True),
        )

    def test_an_unknown_override_is_refused_with_the_known_ones(self):
        with self.assertRaisesRegex(
            ValueError, 'channel_mult, widht cannot be overridden.*num_heads'
        ):
            convert.infer_architecture(
                shapes_of(_NETWORK), widht=1, channel_mult=(1,)
            )

    def test_foreign_names_are_refused(self):
        foreign = {'down_blocks.0.resnets.0.conv1.weight': (128, 128, 3, 3)}
        with self.assertRaisesRegex(
            ValueError,
            'not those of a guided-diffusion U-Net.*time_embed.0.weight.*'
            '1 tensors such as down_blocks',
        ):
            convert.infer_architecture(foreign)

    @parameterized.parameters(
        # Attention at the first level has 32 channels, the default width is 64.
        {'attention_downsamplings': (1,), 'overrides': {}},
        {'attention_downsamplings': (2,), 'overrides': {'head_channels': 48}},
        # No level attends, but the middle does, with 64 channels.
        {'attention_downsamplings': (), 'overrides': {'head_channels': 48}},
        {'attention_downsamplings': (2,), 'overrides': {'head_channels': 0}},
        {'attention_downsamplings': (2,), 'overrides': {'num_heads': 3}},
        {'attention_downsamplings': (2,), 'overrides': {'num_heads': -1}},
    )
    def test_heads_that_do_not_divide_the_channels_are_refused(
        self, attention_downsamplings, overrides
    ):
        network = _NETWORK.clone(
            attention_downsamplings=attention_downsamplings
        )
        with self.assertRaisesRegex(
            ValueError, 'do not divide the .*64 channels.*head_channels.*num_h'
        ):
            convert.infer_architecture(shapes_of(network), **overrides)

    def test_a_head_width_need_not_divide_where_nothing_attends(self):
        # 32 channels at the first level, 64 at the second and in the middle.
        network = convert.infer_architecture(shapes_of(_NETWORK))
        self.assertEqual(network.head_channels, 64)

    @parameterized.parameters({}, {'head_channels': None})
    def test_a_number_of_heads_takes_the_place_of_their_width(self, **width):
        network = _NETWORK.clone(attention_downsamplings=(1, 2))
        inferred = convert.infer_architecture(
            shapes_of(network), num_heads=2, **width
        )
        self.assertEqual(
            (inferred.head_channels, inferred.num_heads), (None, 2)
        )


class ExpectedShapesTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {'resample': 'conv', 'scale_shift': False},
        {'resample': 'plain', 'num_res_blocks': 2},
        {'channel_mult': (0.5, 1, 2), 'attention_downsamplings': (1, 4)},
        {'channel_mult': (1,), 'in_channels': 1, 'out_channels': 2},
    )
    def test_they_are_those_of_the_network_itself(self, **fields):
        network = _NETWORK.clone(model_channels=64, **fields)
        x = jnp.zeros((8, 8, network.in_channels))
        variables = jax.eval_shape(network.init, jax.random.key(0), x, 0)
        traced = {
            path: leaf.shape
            for path, leaf in flax.traverse_util.flatten_dict(
                variables['params']
            ).items()
        }
        self.assertEqual(convert.flax_shapes(network), traced)
        names = [convert.torch_name(path) for path in traced]
        self.assertCountEqual(names, convert.expected_shapes(network))


class ConversionTest(parameterized.TestCase):
    def test_every_tensor_becomes_one_leaf(self):
        state_dict = numbered_state_dict(_NETWORK)
        params, _ = convert.convert(state_dict, head_channels=16)
        leaves = flax.traverse_util.flatten_dict(params)
        numbers = [leaf.flat[0] for leaf in leaves.values()]
        self.assertCountEqual(numbers, range(len(state_dict)))
        for path, leaf in leaves.items():
            tensor = state_dict[convert.torch_name(path)]
            self.assertEqual(leaf.size, tensor.size)
            self.assertEqual(leaf.dtype, np.float32)
            np.testing.assert_array_equal(leaf, tensor.flat[0])

    def test_axes_go_where_each_layer_has_them(self):
        rng = np.random.default_rng(0)
        state_dict = {
            name: rng.standard_normal(shape).astype(np.float16)
            for name, shape in shapes_of(_NETWORK).items()
        }
        params, _ = convert.convert(state_dict, head_channels=16)
        block = params['input_blocks_3_0']
        conv = state_dict['input_blocks.3.0.in_layers.2.weight']
        linear = state_dict['input_blocks.3.0.emb_layers.1.weight']
        qkv = state_dict['input_blocks.3.1.qkv.weight']
        # Output 5, input 7; row 0 and column 2 of the kernel.
        self.assertEqual(
            block['in_layers_2']['kernel'][0, 2, 7, 5], conv[5, 7, 0, 2]
        )
        self.assertEqual(block['emb_layers_1']['kernel'][7, 5], linear[5, 7])
        self.assertEqual(
            params['input_blocks_3_1']['qkv']['kernel'][7, 5], qkv[5, 7, 0]
        )

    def test_attention_may_be_stored_as_linear_layers(self):
        state_dict = numbered_state_dict(_NETWORK)
        linear = {
            name: array[..., 0] if array.ndim == 3 else array
            for name, array in state_dict.items()
        }
        self.assertNotEqual(
            {n: a.shape for n, a in linear.items()}, shapes_of(_NETWORK)
        )
        expected, _ = convert.convert(state_dict, head_channels=16)
        params, _ = convert.convert(linear, head_channels=16)
        np.testing.assert_equal(params, expected)

    def test_attention_may_be_stored_as_convolutions_of_images(self):
        state_dict = numbered_state_dict(_NETWORK)
        convolutions = {
            name: array[..., None] if array.ndim == 3 else array
            for name, array in state_dict.items()
        }
        expected, _ = convert.convert(state_dict, head_channels=16)
        params, _ = convert.convert(convolutions, head_channels=16)
        np.testing.assert_equal(params, expected)

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_weights_that_are_not_finite_are_named(self, number):
        state_dict = numbered_state_dict(_NETWORK)
        state_dict['out.0.bias'][3] = number
        with self.assertRaisesRegex(
            ValueError, r'NaN or infinite .* 1 of its \d+ .*\(out.0.bias\)'
        ):
            convert.convert(state_dict, head_channels=16)

    def test_weights_beyond_float32_are_not_finite(self):
        state_dict = numbered_state_dict(_NETWORK)
        state_dict['out.0.bias'] = np.full(32, 1e300)
        with self.assertRaisesRegex(ValueError, 'infinite.*out.0.bias'):
            convert.convert(state_dict, head_channels=16)

    @parameterized.parameters('int8', 'complex64', 'bool')
    def test_weights_of_another_kind_of_number_are_refused(self, dtype):
        state_dict = numbered_state_dict(_NETWORK)
        state_dict['out.0.bias'] = np.zeros(32, dtype)
        with self.assertRaisesRegex(
            ValueError,
            f'out.0.bias must be floating-point numbers, got {dtype}',
        ):
            convert.convert(state_dict, head_channels=16)

    def test_the_number_of_classes_is_read_off(self):
        state_dict = numbered_state_dict(_NETWORK)
        self.assertIsNone(
            convert.convert(state_dict, head_channels=16)[1].num_classes
        )
        rows = np.arange(1280, dtype=np.float32).reshape(10, 128)
        state_dict['label_emb.weight'] = rows
        params, network = convert.convert(state_dict, head_channels=16)
        self.assertEqual(network.num_classes, 10)
        np.testing.assert_array_equal(params['label_emb']['kernel'].T, rows)

    def test_a_missing_a_left_over_and_a_misshapen_tensor_are_named(self):
        state_dict = numbered_state_dict(_NETWORK)
        del state_dict['middle_block.0.in_layers.0.bias']
        state_dict['input_blocks.9.0.bias'] = np.zeros(7, np.float32)
        state_dict['out.2.bias'] = np.zeros(7, np.float32)
        with self.assertRaises(ValueError) as caught:
            convert.convert(state_dict, head_channels=16)
        message = str(caught.exception)
        self.assertIn('1 missing (middle_block.0.in_layers.0.bias)', message)
        self.assertIn('1 left over (input_blocks.9.0.bias)', message)
        self.assertIn('1 of another shape (out.2.bias (7,), not (6,))', message)
        # Nothing fits, and the nearest is the one that was damaged.
        self.assertIn('the nearest architecture', message)
        self.assertIn('model_channels=32, channel_mult=[1, 2]', message)

    def test_another_architecture_is_refused_with_the_one_that_fits(self):
        state_dict = numbered_state_dict(_NETWORK)
        with self.assertRaisesRegex(
            ValueError,
            r'does not fit UNet\(model_channels=128, .* missing .*'
            r'it fits UNet\(model_channels=32, channel_mult=\[1, 2\]',
        ):
            convert.convert(state_dict, UNet())

    def test_a_given_architecture_comes_before_what_could_be_inferred(self):
        # Attention has 32 channels, so that inference would stop at its heads.
        other = _NETWORK.clone(attention_downsamplings=(1,))
        with self.assertRaisesRegex(ValueError, 'does not fit.*; it fits'):
            convert.convert(numbered_state_dict(other), _NETWORK)
        foreign = {'conv1.weight': np.zeros((3, 3))}
        with self.assertRaisesRegex(ValueError, 'does not fit.*not those of a'):
            convert.convert(foreign, _NETWORK)
        with self.assertRaisesRegex(ValueError, 'num_heads cannot be overrid'):
            convert.convert(foreign, _NETWORK, num_heads=2)

    def test_the_summary_counts_every_tensor_and_parameter(self):
        state_dict = numbered_state_dict(_NETWORK)
        params, _ = convert.convert(state_dict, head_channels=16)
        parts, tensors, sizes = zip(*convert.summary(params), strict=True)
        self.assertCountEqual(
            parts,
            [
                'time_embed',
                'input_blocks',
                'middle_block',
                'output_blocks',
                'out',
            ],
        )
        self.assertLen(state_dict, sum(tensors))
        self.assertEqual(sum(sizes), sum(a.size for a in state_dict.values()))


if __name__ == '__main__':
    absltest.main()
