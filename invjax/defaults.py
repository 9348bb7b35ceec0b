"""Hyperparameters for methods and tasks on `faces64`.

docs/defaults.md has the sweeps, the faces that they were made on, and the
commands. Another prior starts from the method's own defaults, which are the
paper's.
"""

import math

from invjax import schedule

# Of a task of which nothing is said itself.
_ANY = 'any'
# There only one way to draw will do.
_NONLINEAR = (
    'phase_retrieval',
    'high_dynamic_range',
    'jpeg',
    'nonlinear_deblur',
)
# (prior, method, task), found at 100 steps, or with another number of them as a
# fourth: what is added at each step adds up to more where there are more.
DEFAULTS = {
    ('faces64', 'dps', 'gaussian_deblur'): {'zeta': 6.0},
    ('faces64', 'dps', 'box_inpainting'): {'zeta': 3.0},
    ('faces64', 'dps', 'random_inpainting'): {'zeta': 4.0},
    ('faces64', 'dps', 'motion_deblur'): {'zeta': 6.0},
    ('faces64', 'dps', 'super_resolution'): {'zeta': 6.0},
    ('faces64', 'dps', 'compressed_sensing'): {'zeta': 3.0},
    ('faces64', 'dps', 'denoising'): {'zeta': 3.0},
    ('faces64', 'dps', 'high_dynamic_range'): {'zeta': 3.0},
    ('faces64', 'dps', 'jpeg'): {'zeta': 3.0},
    ('faces64', 'dps', 'nonlinear_deblur'): {'zeta': 6.0},
    ('faces64', 'sdedit', 'gaussian_deblur'): {'tau': 50.0},
    ('faces64', 'sdedit', 'box_inpainting'): {'tau': 500.0},
    ('faces64', 'sdedit', 'random_inpainting'): {'tau': 500.0},
    ('faces64', 'sdedit', 'motion_deblur'): {'tau': 100.0},
    ('faces64', 'sdedit', 'super_resolution'): {'tau': 100.0},
    # At 11 x_t is as noisy as y: only noise is taken for noise.
    ('faces64', 'sdedit', 'colorization'): {'tau': 11.0},
    ('faces64', 'sdedit', 'compressed_sensing'): {'tau': 500.0},
    ('faces64', 'sdedit', 'denoising'): {'tau': 11.0},
    ('faces64', 'sdedit', 'high_dynamic_range'): {'tau': 100.0},
    ('faces64', 'sdedit', 'jpeg'): {'tau': 11.0},
    ('faces64', 'sdedit', 'nonlinear_deblur'): {'tau': 50.0},
    ('faces64', 'sdedit', 'phase_retrieval'): {'tau': 500.0},
    ('faces64', 'score_ald', 'gaussian_deblur'): {'gamma_0': 1, 'gamma_T': 1},
    ('faces64', 'score_ald', 'box_inpainting'): {'gamma_0': 4, 'gamma_T': 8},
    ('faces64', 'score_ald', 'random_inpainting'): {'gamma_0': 1, 'gamma_T': 1},
    ('faces64', 'dps', 'gaussian_deblur', 20): {'zeta': 12.0},
    ('faces64', 'dps', 'box_inpainting', 20): {'zeta': 3.0},
    ('faces64', 'dps', 'random_inpainting', 20): {'zeta': 12.0},
    ('faces64', 'dps', 'super_resolution', 20): {'zeta': 12.0},
    ('faces64', 'dps', 'motion_deblur', 20): {'zeta': 12.0},
    ('faces64', 'dps', 'colorization', 20): {'zeta': 3.0},
    ('faces64', 'dps', 'compressed_sensing', 20): {'zeta': 12.0},
    ('faces64', 'dps', 'denoising', 20): {'zeta': 6.0},
    ('faces64', 'dps', 'high_dynamic_range', 20): {'zeta': 3.0},
    ('faces64', 'dps', 'jpeg', 20): {'zeta': 3.0},
    ('faces64', 'dps', 'nonlinear_deblur', 20): {'zeta': 12.0},
    ('faces64', 'score_ald', 'box_inpainting', 20): {
        'gamma_0': 1,
        'gamma_T': 8,
    },
    ('faces64', 'score_ald', 'super_resolution', 20): {
        'gamma_0': 1,
        'gamma_T': 1,
    },
    ('faces64', 'score_ald', 'motion_deblur', 20): {'gamma_0': 1, 'gamma_T': 1},
    ('faces64', 'score_ald', 'colorization', 20): {'gamma_0': 1, 'gamma_T': 1},
    ('faces64', 'score_ald', 'compressed_sensing', 20): {
        'gamma_0': 1,
        'gamma_T': 1,
    },
    ('faces64', 'score_ald', 'denoising', 20): {'gamma_0': 1, 'gamma_T': 8},
    ('faces64', 'score_ald', 'high_dynamic_range', 20): {
        'gamma_0': 4,
        'gamma_T': 8,
    },
    ('faces64', 'score_ald', 'jpeg', 20): {'gamma_0': 4, 'gamma_T': 1},
    ('faces64', 'score_ald', 'phase_retrieval', 20): {
        'gamma_0': 4,
        'gamma_T': 8,
    },
    ('faces64', 'score_ald', 'nonlinear_deblur', 20): {
        'gamma_0': 1,
        'gamma_T': 1,
    },
    # With few steps only fresh noise lets go of what the first ones took for an image.
    ('faces64', 'diffpir', _ANY, 20): {'lam': 1.0, 'mix': 1.0},
    ('faces64', 'ddrm', 'box_inpainting', 20): {'eta_a': 1.0},
    ('faces64', 'ddrm', 'random_inpainting', 20): {'eta_a': 1.0},
    # Fresh noise as wide as x_0 given x_t leaves few steps no time to remove it.
    ('faces64', 'daps', _ANY, 20): {'spread': 0.3},
    **{
        ('faces64', 'daps', task, 20): {'draw': 'langevin', 'spread': 0.3}
        for task in _NONLINEAR
    },
    **{('faces64', 'daps', task): {'draw': 'langevin'} for task in _NONLINEAR},
    ('faces64', 'pigdm', _ANY, 20): {'strength': 2.0},
    ('faces64', 'pigdm', 'random_inpainting', 20): {'strength': 4.0},
    # Fresh noise, but where only noise or colour is missing.
    ('faces64', 'c_pigdm', _ANY, 20): {'strength': 32.0, 'mix': 0.5},
    ('faces64', 'c_pigdm', 'gaussian_deblur', 20): {
        'strength': 64.0,
        'mix': 0.7,
    },
    ('faces64', 'c_pigdm', 'random_inpainting', 20): {
        'strength': 64.0,
        'mix': 0.5,
    },
    ('faces64', 'c_pigdm', 'compressed_sensing', 20): {
        'strength': 128.0,
        'mix': 0.5,
    },
    ('faces64', 'c_pigdm', 'denoising', 20): {'strength': 128.0, 'mix': 0.0},
    ('faces64', 'c_pigdm', 'colorization', 20): {'strength': 8.0, 'mix': 0.0},
    # Few Langevin steps a level have to be long to come to rest.
    ('faces64', 'ald', _ANY, 20): {'langevin_size': 1.5},
    ('faces64', 'ald', 'high_dynamic_range', 20): {
        'langevin_size': 1.5,
        'gamma': 2.0,
    },
    ('faces64', 'ald', 'jpeg', 20): {'gamma': 2.0},
    ('faces64', 'ald', 'phase_retrieval', 20): {},
    # As many iterations as 50 steps have with the method's own 10.
    ('faces64', 'dip', _ANY, 20): {'iterations': 25},
    # Rounding hides much that the network could still make up.
    ('faces64', 'dip', 'jpeg'): {'discrepancy': 1.3},
    ('faces64', 'dip', 'jpeg', 20): {'iterations': 25, 'discrepancy': 1.3},
    ('faces64', 'tmpd', _ANY, 20): {'strength': 2.0},
    ('faces64', 'tmpd', 'random_inpainting', 20): {'strength': 4.0},
    ('faces64', 'dmps', _ANY, 20): {'strength': 1.0},
    ('faces64', 'mcg', _ANY, 20): {'zeta': 2.0},
    ('faces64', 'reddiff', _ANY, 20): {'learning_rate': 0.3, 'weight': 0.1},
    # With the paper's lam of 1 each level holds on to its first, blurred estimate.
    ('faces64', 'sitcom', _ANY, 5): {'learning_rate': 0.02, 'lam': 0.01},
    **{
        ('faces64', 'sitcom', task, 5): {'learning_rate': 0.05, 'lam': 0.01}
        for task in ('gaussian_deblur', 'motion_deblur', 'nonlinear_deblur')
    },
    # What rounding hides, only the distance from x_t holds in place.
    ('faces64', 'sitcom', 'jpeg', 5): {'learning_rate': 0.02, 'lam': 1.0},
}

# What `experiments.tune` goes over where no grid is given.
GRIDS = {
    'dps': {'zeta': [0.75, 1.5, 3.0, 6.0, 12.0]},
    'score_ald': {'gamma_0': [1.0, 3.0, 9.0], 'gamma_T': [1.0, 9.0]},
    'sdedit': {'tau': [50.0, 100.0, 200.0, 300.0, 500.0]},
}


def default_settings(
    prior: str, method: str, task: str, num_steps: int | str = 100
) -> dict[str, float | str]:
    """The tuned hyperparameters, by name; none where nothing was tuned.

    They are those of the number of steps, among the tuned ones, that is nearest
    by ratio. The method's own stand for 100 steps where nothing was tuned there.

    Args:
        prior, method, task: names.
        num_steps: any form that `schedule.respace` takes.

    Raises:
        ValueError: by `schedule.respace`.
    """
    tuned = {}
    for of_task in (_ANY, task):
        for key, settings in DEFAULTS.items():
            if key[:3] == (prior, method, of_task):
                tuned[key[3] if len(key) > 3 else 100] = settings
    if not tuned:  # Of a prior that may have more timesteps than most.
        return {}
    tuned.setdefault(100, {})
    number = len(schedule.respace(num_steps))
    nearest = min(tuned, key=lambda n: abs(math.log(n / number)))
    return dict(tuned[nearest])
