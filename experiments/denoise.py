"""Denoise a picture in a single step (eq. 4, fig. 1).

python -m experiments.denoise --image=face.png --t=100
"""

from invjax import images, keys, metrics
from invjax.commandline import groups, measured, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import paper

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS, num_steps=None)
FLAGS.string('image', None, 'The truth, any picture.')
FLAGS.integer('t', 100, 'Timestep, from 0 to T - 1.', at_least=0)


def main(given):
    if given.image is None:
        raise ValueError('give --image.')
    inputs = {'image': groups.input_sha256('image', given.image)}
    out = record.make_folder(given.out, 'denoise')
    record.say_if_replaced(out, 'denoised.png')
    prior = groups.load_prior(given)
    truth = measured.read_truth(given.image, prior)
    shown = paper.denoise_once(prior, truth, given.t, keys.root(given.seed))
    psnrs = {
        name: float(metrics.psnr(shown[name], truth))
        for name in ('noisy', 'denoised')
    }
    titles = ['truth', *(f'{n} {v:.2f} dB' for n, v in psnrs.items())]
    images.sheet([list(shown.values())], titles).save(out / 'denoised.png')
    record.write_json(
        out / 'denoised.json',
        {
            'psnr': psnrs,
            'input_sha256': inputs,
            'prior': prior.card.as_dict(),
            **record.provenance(given),
        },
    )
    print('\n'.join(titles[1:]))
    print(f'pictures: {out / "denoised.png"}')


if __name__ == '__main__':
    run(main, FLAGS)
