"""Convert PyTorch weights to a kept prior, and say what they are.

python -m experiments.convert_weights --weights=ffhq_10m.pt
python -m experiments.convert_weights --weights=faces64.pt --out=DIR --half

What is kept in DIR is a prior too: `restore --prior=DIR`.
"""

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax.priors import checkpoint, convert

_WEIGHTS = flags.DEFINE_string('weights', None, 'A .pt, .pth or .safetensors.')
_HALF = flags.DEFINE_bool('half', False, 'Keep float16 rather than float32.')
# What shapes cannot tell of the architecture. None: as `convert` infers it.
_OVERRIDES = (
    flags.DEFINE_integer('image_size', None, 'Side of its images, pixels.'),
    flags.DEFINE_integer('head_channels', None, 'Channels of a head.'),
    flags.DEFINE_integer('num_heads', None, 'Instead of their channels.'),
    flags.DEFINE_bool(
        'new_attention_order', None, 'Split heads after queries, keys, values.'
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
    overrides = {f.name: f.value for f in _OVERRIDES if f.value is not None}
    prior, card = checkpoint.load_prior(_WEIGHTS.value, **overrides)
    for part, tensors, parameters in convert.summary(prior.params):
        print(f'{part:<14} {tensors:>5} tensors {parameters:>12,} parameters')
    for name, value in card['architecture'].items():
        print(f'{name:<24} {value}')
    print(f'sha256 {card["sha256"]}')
    if keep:
        dtype = np.float16 if _HALF.value else np.float32
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf, dtype), prior.params
        )
        checkpoint.save_prior(common.OUT.value, params, card)
        print(f'kept in {common.OUT.value}')


if __name__ == '__main__':
    common.run(main)
