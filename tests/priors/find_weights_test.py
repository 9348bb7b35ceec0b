"""Weights in checkpoints of many code bases: averages first, nothing unsaid."""

from typing import NamedTuple

import numpy as np
from absl.testing import absltest, parameterized

from invjax.priors import find_weights
from invjax.priors.pickled import Object

# In the order of a network's parameters. The first is the one that tells.
_SHAPES = {
    'time_embed.0.weight': (8, 2),
    'time_embed.0.bias': (8,),
    'middle_block.1.qkv.weight': (3, 1, 1),
    'out.2.bias': (3,),
}


class Leaf(NamedTuple):
    """Stands for a tensor: a shape, and one value for all of its numbers."""

    shape: tuple[int, ...]
    value: float


def state_dict(value, prefix='', separator='.'):
    return {
        prefix + name.replace('.', separator): Leaf(shape, value)
        for name, shape in _SHAPES.items()
    }


AVERAGED, RAW = state_dict(1.0), state_dict(1.5)
SCALAR = Leaf((), 0.5)


def load(name, tensor):
    del name
    return np.full(tensor.shape, tensor.value)


def find(content, key=None):
    return find_weights.find(content, Leaf, load, key)


def optimizer_state():
    moments = {'exp_avg': Leaf((8, 2), 0.0), 'exp_avg_sq': Leaf((8, 2), 0.0)}
    return {'state': {0: moments}, 'param_groups': [{'params': [0]}]}


def module(value):
    """A pickled torch module, in which modules hold modules."""
    root = Object('my.Network', ())
    root.state = {'_parameters': {}, '_modules': {}}
    for name, leaf in state_dict(value).items():
        *parts, last = name.split('.')
        at = root
        for part in parts:
            inner = Object('torch.nn.modules.Module', ())
            inner.state = {'_parameters': {}, '_modules': {}}
            at = at.state['_modules'].setdefault(part, inner)
        at.state['_parameters'][last] = leaf
    return root


def shadow_list(value):
    return [Leaf(shape, value) for shape in _SHAPES.values()]


class AveragesTest(parameterized.TestCase):
    @parameterized.named_parameters(
        *(
            (key, {'state_dict': RAW, key: AVERAGED}, key)
            for key in (
                'ema',
                'ema_model_state_dict',
                'ema_params',
                'ema_0.9999',
                'net_ema',
                'params_ema',
                'modelEMA',
                'EMACallback',
                'swa_model',
                'averaged_model',
                'polyak',
                'shadow',
                'moving_average',
            )
        ),
        (
            'two_deep',
            {'callbacks': {'EMA': {'weights': AVERAGED}}, 'model': RAW},
            'callbacks.EMA.weights',
        ),
        (
            'averaged_model_of_torch',
            {
                'best': {'n_averaged': SCALAR, **state_dict(1.0, 'module.')},
                'model': RAW,
            },
            'best',
        ),
        (
            'beside_what_it_is_of',
            {
                'model': RAW,
                'ema': {
                    'initted': SCALAR,
                    'step': SCALAR,
                    **state_dict(1.5, 'online_model.'),
                    **state_dict(1.0, 'ema_model.'),
                },
            },
            'ema.ema_model',
        ),
        (
            'lightning',
            {
                'state_dict': state_dict(1.5, 'model.')
                | state_dict(1.0, 'ema.'),
                'optimizer_states': [optimizer_state()],
            },
            'state_dict.ema',
        ),
        (
            'list_of_parameters',
            {
                'model': state_dict(1.5, 'module.'),
                'optimizer': optimizer_state(),
                'ema': {
                    'decay': 0.999,
                    'shadow_params': shadow_list(1.0),
                    'collected_params': shadow_list(1.5),
                },
            },
            'ema.shadow_params',
        ),
        (
            'names_without_dots',
            {
                'state_dict': {
                    'betas': Leaf((1000,), 0.1),
                    **state_dict(1.5, 'model.diffusion_model.'),
                    'model_ema.decay': SCALAR,
                    **state_dict(1.0, 'model_ema.diffusion_model', ''),
                }
            },
            'state_dict.model_ema',
        ),
        (
            'list_of_ddim',
            [RAW, optimizer_state(), 3, 1000, AVERAGED],
            '4',
        ),
        ('pickled_module', {'model': RAW, 'ema': module(1.0)}, 'ema'),
    )
    def test_they_are_preferred_and_named(self, content, key):
        weights = find(content)
        self.assertEqual(weights, (key, AVERAGED, True))

    @parameterized.named_parameters(
        ('list_of_fewer', {'ema': shadow_list(1.0)[1:]}),
        ('list_in_another_order', {'ema': shadow_list(1.0)[::-1]}),
        ('other_names', {'ema': {'a': Leaf((8, 2), 1.0)}}),
        ('some_without_dots', {
            'ema': dict(list(state_dict(1.0, '', '').items())[:2])
        }),
        ('bytes', {'ema': memoryview(bytes(2000))}),
        ('array_of_numpy', {
            'ema': {'w': Object('numpy._core.multiarray._reconstruct', ())}
        }),
        ('in_a_class', {'ema': Object('my.Ema', (Leaf((8, 2), 1.0),))}),
        ('within_a_flat_dict', state_dict(1.0, 'ema/', '/')),
    )  # fmt: skip
    def test_what_looks_like_one_and_is_not_understood_is_refused(self, extra):
        content = {'model': RAW, **extra}
        with self.assertRaisesRegex(
            ValueError, "looks like averaged weights, 'ema.*weights_key"
        ):
            find(content)
        # The user may know better.
        self.assertEqual(find(content, 'model').tensors, RAW)

    @parameterized.named_parameters(
        ('numbers', {'ema': {'decay': 0.99}, 'ema_rate': '0.99', 'avg': 3}),
        ('scalars', {'ema_decay': SCALAR, 'ema': {'num_updates': SCALAR}}),
        ('moments', {'optimizer': optimizer_state()}),
        ('part_of_a_word', {'schema': {'w': Leaf((2,), 0.0)}}),
    )
    def test_other_things_of_such_names_do_not_matter(self, extra):
        self.assertEqual(find({'model': RAW, **extra}).tensors, RAW)

    @parameterized.parameters('model_no_ema', 'non_ema', 'raw_model', 'backup')
    def test_what_says_that_it_is_none_is_none(self, key):
        self.assertEqual(find({key: RAW, 'ema': AVERAGED}).key, 'ema')

    def test_several_of_different_weights_are_for_the_user_to_choose(self):
        content = {'ema_0.999': RAW, 'ema_0.9999': AVERAGED}
        with self.assertRaisesRegex(
            ValueError, '2 averaged networks.*ema_0.999, ema_0.9999'
        ):
            find(content)
        self.assertEqual(find(content, 'ema_0.9999').tensors, AVERAGED)

    def test_several_of_the_same_weights_are_one(self):
        content = {'ema': AVERAGED, 'ema_copy': state_dict(1.0)}
        self.assertEqual(find(content).key, 'ema')


class NamesTest(parameterized.TestCase):
    @parameterized.parameters(
        '',
        'module.',
        '_orig_mod.',
        '_fsdp_wrapped_module.',
        'denoise_fn.',
        'model.diffusion_model.',
        'ddpm.module.model.',
    )
    def test_any_prefix_is_found(self, prefix):
        self.assertEqual(find(state_dict(1.5, prefix)).tensors, RAW)

    @parameterized.parameters(
        'module', '_orig_mod', '_checkpoint_wrapped_module'
    )
    def test_what_wrappers_add_inside_of_names_is_left_out(self, part):
        content = {
            name.replace('.0.', f'.{part}.0.', 1): leaf
            for name, leaf in RAW.items()
        }
        self.assertNotEqual(list(content), list(RAW))
        self.assertEqual(find(content).tensors, RAW)

    @parameterized.parameters(
        'betas', 'alphas_cumprod', 'gammas', 'logvar', 'n_averaged'
    )
    def test_tensors_of_no_layer_are_left_out(self, name):
        shape = () if name == 'n_averaged' else (1000,)
        content = state_dict(1.5, 'model.')
        self.assertEqual(find({name: Leaf(shape, 0.1), **content}).tensors, RAW)
        self.assertEqual(
            find({f'model.{name}': Leaf(shape, 0.1), **content}).tensors, RAW
        )

    def test_further_tensors_of_layers_stay(self):
        content = {**RAW, 'label_emb.weight': Leaf((10, 8), 0.1)}
        self.assertEqual(find(content).tensors, content)

    def test_a_whole_module_has_the_names_of_its_state_dict(self):
        self.assertEqual(find(module(1.5)).tensors, RAW)

    def test_codes_are_no_pictures(self):
        content = state_dict(1.5, 'model.diffusion_model.')
        content['first_stage_model.encoder.conv.weight'] = Leaf((3, 3), 0.1)
        with self.assertRaisesRegex(ValueError, 'latent diffusion model'):
            find({'state_dict': content})


class ChoiceTest(parameterized.TestCase):
    def test_several_networks_are_for_the_user_to_choose(self):
        content = {'unet': RAW, 'best': AVERAGED}
        with self.assertRaisesRegex(
            ValueError, '2 networks of different weights.* unet, best'
        ):
            find(content)
        self.assertEqual(find(content, 'best').tensors, AVERAGED)

    def test_among_networks_of_other_code_the_one_that_wraps_is_taken(self):
        # Of names that no network here has, so a place says what it is for.
        sampler = {'conv.weight': Leaf((3, 3), 1.0)}
        other = {'conv.weight': Leaf((3, 3), 1.5)}
        for content in (
            {'discriminator': other, 'state_dict': sampler},
            {'state_dict': sampler, 'discriminator': other},
        ):
            self.assertEqual(find(content), ('state_dict', sampler, False))

    def test_the_key_may_stop_above_what_is_unique(self):
        content = {'state_dict': state_dict(1.5, 'model.'), 'ema': AVERAGED}
        self.assertEqual(find(content, 'state_dict').tensors, RAW)

    def test_a_key_that_is_not_there_is_refused_with_those_that_are(self):
        with self.assertRaisesRegex(
            ValueError, "0 networks at weights_key 'raw'.*unet, ema"
        ):
            find({'unet': RAW, 'ema': AVERAGED}, 'raw')

    @parameterized.parameters(
        (None, 'it holds nothing'),
        ({}, 'it holds no named entries'),
        ([1, 2], 'it holds one list'),
        ({'epoch': 3}, "it holds the keys 'epoch'"),
        (Object('my.Trainer', ()), 'it holds one object of my.Trainer'),
    )
    def test_without_tensors_it_says_what_there_is(self, content, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            find(content)

    def test_what_holds_itself_is_searched_once(self):
        content = {'model': RAW}
        content['self'] = content
        content['list'] = [content]
        self.assertEqual(find(content).tensors, RAW)

    def test_billions_of_ways_to_one_thing_are_one_way(self):
        inner = [RAW]
        for _ in range(30):
            inner = [inner, inner]
        self.assertEqual(find(inner).tensors, RAW)

    def test_what_is_nested_too_deep_is_refused(self):
        content = RAW
        for _ in range(100):
            content = [content]
        with self.assertRaisesRegex(ValueError, 'nested more than'):
            find(content)


if __name__ == '__main__':
    absltest.main()
