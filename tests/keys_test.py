"""Keys: no two uses of an experiment share one."""

import itertools

import jax
import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch, keys, measurement, operators, problem, sampler
from invjax.methods.dps import DPS
from invjax.methods.unconditional import Unconditional
from invjax.schedule import reverse_steps
from tests.methods import dense

_NUM_IMAGES, _NUM_SAMPLES = 6, 5


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def keys_of_plan(root):
    """Purpose, image and sample to a key, of all that an experiment draws."""
    found = {}
    for image in range(_NUM_IMAGES):
        found['operator', image] = keys.of_operator(root, image)
        found['noise', image] = keys.of_noise(root, image)
        found['held out', image] = keys.of_held_out(root, image)
        for sample in range(_NUM_SAMPLES):
            found['sample', image, sample] = keys.of_sample(root, image, sample)
    return found


def derived_by_the_sampler(key, steps):
    """What `sampler` makes of a sample's key, and methods of a step's."""
    key_start, key_steps, key_finish = jax.random.split(key, 3)
    found = [key_start, key_steps, key_finish]
    for t in np.asarray(steps.t):
        key_step = jax.random.fold_in(key_steps, t)
        found += [key_step, *jax.random.split(key_step)]
        found += [jax.random.fold_in(key_step, i) for i in range(3)]
    return found


class PlanTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 2**32 - 1)
    def test_all_keys_of_a_plan_are_distinct(self, seed):
        found = keys_of_plan(keys.root(seed))
        self.assertLen({data(key) for key in found.values()}, len(found))

    def test_the_root_is_used_for_nothing(self):
        root = keys.root(0)
        found = {data(key) for key in keys_of_plan(root).values()}
        self.assertNotIn(data(root), found)
        # Nor are the keys that a careless split or fold of it would give.
        for number in range(_NUM_IMAGES):
            self.assertNotIn(data(jax.random.fold_in(root, number)), found)

    def test_what_the_sampler_derives_is_no_key_of_the_plan(self):
        # `split(key)[i]` and `fold_in(key, i)` are one key: so all that samplers
        # and methods make of keys is walked over too.
        root = keys.root(0)
        plan = keys_of_plan(root)
        steps = reverse_steps(dense.ALPHA_BAR, 3)
        derived = [
            data(key)
            for image, sample in itertools.product(range(3), range(2))
            for key in derived_by_the_sampler(
                plan['sample', image, sample], steps
            )
        ]
        # Of a step's key a split's two and the first two folds are the same:
        # no method takes both.
        distinct = set(derived)
        self.assertLen(distinct, 3 * 2 * (3 + 3 * 4))
        self.assertEmpty(distinct & {data(key) for key in plan.values()})

    def test_a_second_experiment_shares_no_key_with_the_first(self):
        one, other = (
            {data(key) for key in keys_of_plan(keys.root(seed)).values()}
            for seed in (0, 1)
        )
        self.assertEmpty(one & other)

    def test_an_image_has_its_keys_whatever_part_is_run(self):
        root = keys.root(3)
        plan = keys_of_plan(root)
        measured = dense.case_of('dense').problem
        lanes = batch.make_lanes(
            root, [measured] * 2, [DPS(), DPS(2.0)], 2, first_image=4
        )
        expected = [
            data(plan['sample', image, sample])
            for image in (4, 5)
            for sample in (0, 1)
            for _ in range(2)
        ]
        self.assertEqual([data(key) for key in lanes.keys], expected)


class SamplerTest(absltest.TestCase):
    def test_the_sampler_draws_by_the_keys_that_are_walked_over(self):
        # Start, each step by its timestep, and the end.
        taken = []

        class Noting(Unconditional):
            def start(self, key, problem, steps):
                taken.append(key)
                return super().start(key, problem, steps)

            def update(self, key, x_t, state, step, problem, prior):
                taken.append(key)
                return super().update(key, x_t, state, step, problem, prior)

            def finish(self, key, x, state, problem):
                taken.append(key)
                return x

        case = dense.case_of('random_inpainting')
        steps = reverse_steps(dense.ALPHA_BAR, 3)
        key = keys.of_sample(keys.root(0))
        with jax.disable_jit():
            sampler.sample(key, steps, case.problem, case.prior, Noting())
        walked = derived_by_the_sampler(key, steps)
        expected = [walked[0], *walked[3::6], walked[2]]
        self.assertEqual(
            [data(key) for key in taken], [data(key) for key in expected]
        )


class UseTest(absltest.TestCase):
    def test_the_operator_the_noise_and_x_T_are_not_correlated(self):
        # In compressed sensing all three are drawn of the shape of the image.
        shape = (16, 16, 3)
        root = keys.root(0)
        truth = np.zeros(shape, np.float32)
        measured = measurement.measure(
            truth, 'denoising', seed=root, noise_std=1.0
        )
        draws = {
            'operator': jax.random.normal(keys.of_operator(root), shape),
            'noise': measured.y,
        }
        for sample in range(2):
            key = keys.of_sample(root, 0, sample)
            x, _ = sampler.start(
                key, reverse_steps(dense.ALPHA_BAR, 3), measured, DPS()
            )
            draws[f'x_T of {sample}'] = x
        for one, other in itertools.combinations(draws, 2):
            correlation = np.corrcoef(
                np.ravel(draws[one]), np.ravel(draws[other])
            )[0, 1]
            # Five standard errors of 768 pairs.
            self.assertLess(abs(correlation), 5 / 768**0.5, (one, other))

    def test_measure_takes_the_keys_of_the_image(self):
        root = keys.root(5)
        truth = dense.prior_of((4, 4, 1)).sample(dense.KEY).clip(-1, 1)
        for image in (0, 3):
            measured = measurement.measure(
                truth,
                'random_inpainting',
                seed=5,
                image=image,
                noise_std=0.2,
            )
            operator = operators.make_operator(
                'random_inpainting', keys.of_operator(root, image), (4, 4, 1)
            )
            expected = problem.measure(
                keys.of_noise(root, image), truth, operator, 0.2
            )
            np.testing.assert_array_equal(measured.y, expected.y)


class RootTest(parameterized.TestCase):
    def test_a_seed_and_its_key_are_the_same_root(self):
        self.assertEqual(data(keys.root(7)), data(jax.random.key(7)))
        self.assertEqual(data(keys.root(np.int64(7))), data(keys.root(7)))
        self.assertEqual(data(keys.root(7.0)), data(keys.root(7)))
        self.assertEqual(
            data(keys.root(jax.random.key(7))), data(jax.random.key(7))
        )

    def test_all_seeds_of_32_bits_are_roots_of_their_own(self):
        seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
        self.assertLen({data(keys.root(seed)) for seed in seeds}, len(seeds))

    @parameterized.parameters(
        -1, 2**32, 0.5, True, float('nan'), float('inf'), '7', None
    )
    def test_what_is_no_seed_is_refused(self, seed):
        with self.assertRaisesRegex(
            ValueError, 'seed must be a whole number from 0 to 4294967295, got'
        ):
            keys.root(seed)


if __name__ == '__main__':
    absltest.main()
