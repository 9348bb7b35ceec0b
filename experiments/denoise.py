"""Denoise a picture in a single step (eq. 4, fig. 1).

python -m experiments.denoise --image=face.png --t=100
"""

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import images, metrics
from invjax.diffusion import diffuse, tweedie

_IMAGE = flags.DEFINE_string('image', None, 'The truth, any picture.')
_T = flags.DEFINE_integer('t', 100, 'Timestep, from 0 to T - 1.', lower_bound=0)


def main():
    if _IMAGE.value is None:
        raise ValueError('give --image.')
    input_sha256 = {_IMAGE.name: common.input_sha256(_IMAGE.value)}
    out = common.make_folder(common.OUT.value)
    prior, card = common.load_prior()
    if _T.value >= len(prior.alpha_bar):
        raise ValueError(
            f'--t must be from 0 to {len(prior.alpha_bar) - 1}, got {_T.value}.'
        )
    truth = common.read_truth(_IMAGE.value, prior)
    alpha_bar_t = prior.alpha_bar[_T.value]
    noise = jax.random.normal(jax.random.key(common.SEED.value), truth.shape)
    x_t = diffuse(truth, alpha_bar_t, noise)
    prediction = jax.jit(lambda prior, x, t: prior(x, t))(prior, x_t, _T.value)
    noisy = x_t / np.sqrt(alpha_bar_t)
    denoised = tweedie(x_t, prediction.eps, alpha_bar_t)
    scores = {
        name: float(metrics.psnr(x, truth))
        for name, x in (('noisy', noisy), ('denoised', denoised))
    }
    titles = ['truth', *(f'{n} {v:.2f} dB' for n, v in scores.items())]
    images.sheet([[truth, noisy, denoised]], titles).save(out / 'denoised.png')
    record = {
        'psnr': scores,
        'input_sha256': input_sha256,
        'prior': card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'denoised.json', record)
    print('\n'.join(titles[1:]))
    print(f'pictures: {out / "denoised.png"}')


if __name__ == '__main__':
    common.run(main)
