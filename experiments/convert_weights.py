"""Convert PyTorch weights to a kept prior, and say what they are.

python -m experiments.convert_weights --weights=ffhq_10m.pt
python -m experiments.convert_weights --weights=faces64.pt --out=DIR --half

What is kept in DIR is a prior too: `restore --prior=DIR`.
"""

import flax.traverse_util
import jax
import numpy as np

from invjax.commandline import groups, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.priors import checkpoint, convert, kept

FLAGS = Flags(__doc__)
FLAGS.string('weights', None, 'A file of PyTorch or safetensors weights.')
FLAGS.boolean('half', False, 'Keep float16 rather than float32.')
FLAGS.string('out', None, 'A new folder to keep the prior in.')
groups.define_overrides(FLAGS)


def main(given):
    if given.weights is None:
        raise ValueError('give --weights.')
    if given.half and given.out is None:
        raise ValueError('--half needs --out, the folder to keep it in.')
    if given.out is not None:
        record.make_folder(given.out, 'convert_weights')
        kept.refuse_foreign(given.out)
    prior = checkpoint.load_prior(given.weights, **groups.overrides_of(given))
    card = prior.card.as_dict()
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
    if given.out is not None:
        params = jax.tree.map(np.asarray, prior.params)
        if given.half:
            params = _as_half(params)
        checkpoint.save_prior(given.out, params, card)
        print(f'kept in {given.out}')


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
    run(main, FLAGS)
