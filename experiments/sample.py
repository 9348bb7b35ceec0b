"""Unconditional samples of a prior on one sheet (Algorithm 1, fig. 2).

python -m experiments.sample --num_samples=8
"""

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import images, problem, sweep

_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 8, 'How many.', lower_bound=1
)
common.define_transition()


def main():
    common.check_settings('unconditional')
    out = common.make_folder(common.OUT.value)
    prior, card = common.load_prior()
    result = sweep.restore(
        problem.nothing_measured(prior.image_shape),
        prior,
        'unconditional',
        common.NUM_STEPS.value,
        key=jax.random.key(common.SEED.value),
        num_samples=_NUM_SAMPLES.value,
        on_progress=common.Progress('sampling'),
        **common.given_settings(),
    )
    failed = sweep.first_nonfinite_step(result.info)
    if (failed >= 0).any():
        raise ValueError(f'samples {np.flatnonzero(failed >= 0)} not finite.')
    columns = 8
    rows = [result.x[i : i + columns] for i in range(0, len(result.x), columns)]
    images.sheet(rows, cell=128).save(out / 'samples.png')
    record = {'prior': card, **common.protocol(common.flag_values())}
    common.write_json(out / 'samples.json', record)
    print(f'pictures: {out / "samples.png"}')


if __name__ == '__main__':
    common.run(main)
