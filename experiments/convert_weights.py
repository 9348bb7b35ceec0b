"""Convert PyTorch weights to a kept prior, and say what they are.

python -m experiments.convert_weights --weights=ffhq_10m.pt
python -m experiments.convert_weights --weights=faces64.pt --out=DIR --half
"""

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax.priors import checkpoint, convert

_WEIGHTS = flags.DEFINE_string('weights', None, 'A .pt, .pth or .safetensors.')
_HALF = flags.DEFINE_bool('half', False, 'Keep float16 rather than float32.')


def main():
    if _WEIGHTS.value is None:
        raise ValueError('give --weights.')
    prior, card = checkpoint.load_prior(_WEIGHTS.value)
    for part, tensors, parameters in convert.summary(prior.params):
        print(f'{part:<14} {tensors:>5} tensors {parameters:>12,} parameters')
    for name, value in card['architecture'].items():
        print(f'{name:<24} {value}')
    print(f'sha256 {card["sha256"]}')
    if flags.FLAGS['out'].present:
        common.make_folder(common.OUT.value)
        dtype = np.float16 if _HALF.value else np.float32
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf, dtype), prior.params
        )
        checkpoint.save_prior(common.OUT.value, params, card)
        print(f'kept in {common.OUT.value}')


if __name__ == '__main__':
    common.run(main)
