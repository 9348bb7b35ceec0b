"""Convert PyTorch weights to a kept prior, and say what they are.

python -m experiments.convert_weights --weights=ffhq_10m.pt
python -m experiments.convert_weights --weights=faces64.pt --out=DIR --half

What is kept in DIR is a prior too: `restore --prior=DIR`.
"""

import jax
import numpy as np

from invjax.commandline import record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.priors import checkpoint, convert

FLAGS = Flags(__doc__)
FLAGS.string('weights', None, 'A .pt, .pth or .safetensors.')
FLAGS.boolean('half', False, 'Keep float16 rather than float32.')
FLAGS.string('out', None, 'A new folder to keep the prior in.')
# What shapes cannot tell of the architecture. None: as `convert` infers it.
_OVERRIDES = 'overrides'
FLAGS.integer(
    'image_size',
    None,
    'Side of its images, pixels.',
    at_least=1,
    at_most=4096,
    group=_OVERRIDES,
)
FLAGS.integer(
    'head_channels',
    None,
    'Channels of a head.',
    at_least=1,
    group=_OVERRIDES,
)
FLAGS.integer(
    'num_heads',
    None,
    'Instead of their channels.',
    at_least=1,
    group=_OVERRIDES,
)
FLAGS.boolean(
    'new_attention_order',
    None,
    'Split heads after queries, keys, values.',
    group=_OVERRIDES,
)


def main(given):
    if given.weights is None:
        raise ValueError('give --weights.')
    if given.half and given.out is None:
        raise ValueError('--half needs --out, the folder to keep it in.')
    if given.out is not None:
        record.make_folder(given.out, 'convert_weights')
    prior = checkpoint.load_prior(given.weights, **given.groups[_OVERRIDES])
    card = prior.card.as_dict()
    for part, tensors, parameters in convert.summary(prior.params):
        print(f'{part:<14} {tensors:>5} tensors {parameters:>12,} parameters')
    for name, value in card['architecture'].items():
        print(f'{name:<24} {value}')
    print(f'sha256 {card["sha256"]}')
    if given.out is not None:
        dtype = np.float16 if given.half else np.float32
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf, dtype), prior.params
        )
        checkpoint.save_prior(given.out, params, card)
        print(f'kept in {given.out}')


if __name__ == '__main__':
    run(main, FLAGS)
