"""Convert PyTorch weights to a kept prior, and say what they are.

python -m experiments.convert_weights --weights=ffhq_10m.pt
python -m experiments.convert_weights --weights=faces64.pt --out=DIR --half

What is kept in DIR is a prior too: `restore --prior=DIR`.
"""

import flax.traverse_util
import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import schedule
from invjax.priors import checkpoint, convert, kept

_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'A file of PyTorch or safetensors weights.'
)
_HALF = flags.DEFINE_bool('half', False, 'Keep float16 rather than float32.')
# What a file does not tell of itself. None: as `load_prior` takes it to be.
_OVERRIDES = (
    flags.DEFINE_integer('image_size', None, 'Side of its images, pixels.'),
    flags.DEFINE_integer('head_channels', None, 'Channels of a head.'),
    flags.DEFINE_integer('num_heads', None, 'Instead of their channels.'),
    flags.DEFINE_bool(
        'new_attention_order', None, 'Split heads after queries, keys, values.'
    ),
    flags.DEFINE_string(
        'noise_schedule',
        None,
        'That it was trained with, '
        f'{" or ".join(schedule.SCHEDULES)}; linear by default.',
    ),
    flags.DEFINE_integer(
        'num_train_steps', None, 'Timesteps of its training; 1000 by default.'
    ),
    flags.DEFINE_bool(
        'rescale_timesteps',
        None,
        'Whether it was told timesteps as if there were 1000 of them.',
    ),
    flags.DEFINE_string(
        'weights_key',
        None,
        'Which weights of the file, rather than averaged ones: the keys that '
        'lead to them, joined by dots.',
    ),
    flags.DEFINE_bool(
        'check',
        None,
        'Whether it must denoise a picture, as trained weights do; true by '
        'default.',
    ),
)


def main():
    if _WEIGHTS.value is None:
        raise ValueError('give --weights.')
    keep = flags.FLAGS['out'].present
    if _HALF.value and not keep:
        raise ValueError('--half needs --out, the folder to keep it in.')
    if keep:
        common.make_folder(common.OUT.value)
        kept.refuse_foreign(common.OUT.value)
    overrides = {f.name: f.value for f in _OVERRIDES if f.value is not None}
    prior, card = checkpoint.load_prior(_WEIGHTS.value, **overrides)
    for part, tensors, parameters in convert.summary(prior.params):
        print(f'{part:<14} {tensors:>5} tensors {parameters:>12,} parameters')
    for name, value in card['architecture'].items():
        print(f'{name:<24} {value}')
    if 'weights' in card:
        averaged = ', averaged' if card['averaged'] else ''
        print(f'{"weights":<24} {card["weights"]}{averaged}')
    for name in ('noise_schedule', 'num_train_steps'):
        print(f'{name:<24} {card[name]}')
    print(f'sha256 {card["sha256"]}')
    if keep:
        params = jax.tree.map(np.asarray, prior.params)
        if _HALF.value:
            params = _as_half(params)
        checkpoint.save_prior(common.OUT.value, params, card)
        print(f'kept in {common.OUT.value}')


def _as_half(params: dict) -> dict:
    """Parameters in float16, where all of them fit in."""
    largest = np.finfo(np.float16).max
    leaves = flax.traverse_util.flatten_dict(params)
    over = [
        path for path, leaf in leaves.items() if np.abs(leaf).max() > largest
    ]
    if over:
        raise ValueError(
            f'--half would make weights infinite: {convert.torch_name(over[0])} '
            f'and {len(over) - 1} more tensors have numbers beyond {largest}; '
            'leave --half out.'
        )
    return jax.tree.map(lambda leaf: leaf.astype(np.float16), params)


if __name__ == '__main__':
    common.run(main)
