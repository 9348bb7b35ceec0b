"""Plans: keys that never meet, and names that tell cells apart."""

import dataclasses
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import keys, schedule
from invjax.priors import gaussian
from invjax.study import running
from invjax.study.cells import cell_id, picture_path, read
from invjax.study.plan import Data, Plan, describe_prior, grid

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (11, 11, 3)
PRIOR = gaussian.GaussianPrior.isotropic(np.full(SHAPE, 0.2), 0.1, ALPHA_BAR)
RNG = np.random.default_rng(0)
TRUTHS = [RNG.uniform(-1, 1, SHAPE).astype(np.float32) for _ in range(3)]
DATA = Data(PRIOR, TRUTHS)


def make_plan(**fields):
    return Plan(
        **{
            'task': 'random_inpainting',
            'methods': (invjax.score_ald(4.0, 8.0),),
            'num_steps': 2,
            **fields,
        }
    )


def words_of(key):
    return tuple(jax.random.key_data(key).ravel().tolist())


class KeysTest(absltest.TestCase):
    def test_all_keys_of_a_whole_plan_are_distinct(self):
        root = make_plan(seed=7).root()
        used = [root]
        for image in range(5):
            used.append(keys.of_operator(root, image))
            used.append(keys.of_noise(root, image))
            used.append(keys.of_held_out(root, image))
            # What operators split: places and signs.
            used += list(jax.random.split(keys.of_operator(root, image)))
            for sample in range(4):
                key = keys.of_sample(root, image, sample)
                used.append(key)
                # What the sampler makes of it: start, steps, finish.
                start, steps, finish = jax.random.split(key, 3)
                used += [start, steps, finish]
                used += [jax.random.fold_in(steps, t) for t in range(6)]
        seen = [words_of(key) for key in used]
        self.assertLen(set(seen), len(seen))

    def test_each_image_has_noise_and_held_out_pixels_of_its_own(self):
        plan = make_plan(hold_out=0.2)
        problems = plan.problems(DATA)
        noises = [
            np.asarray(p.y - p.operator.forward(x))
            for p, x in zip(problems, TRUTHS, strict=True)
        ]
        masks = [np.asarray(p.operator.mask) for p in problems]
        both = (masks[0] * masks[1])[..., 0] > 0
        self.assertGreater(both.sum(), 5)
        self.assertFalse(
            np.any(noises[0][both] == noises[1][both]), 'the same noise'
        )
        held_out = [
            np.asarray(rest.operator.mask)
            for _, rest in plan.parts(DATA, problems)
        ]
        self.assertFalse(np.array_equal(held_out[0], held_out[1]))
        for mask, rest in zip(masks, held_out, strict=True):
            self.assertEqual(rest.sum(), np.ceil(0.2 * mask.sum()))
            self.assertTrue(np.all(rest <= mask))

    def test_a_part_of_a_data_set_has_the_measurements_of_the_whole(self):
        whole = make_plan().problems(DATA)
        part = make_plan().problems(Data(PRIOR, TRUTHS[1:], first_image=1))
        for a, b in zip(whole[1:], part, strict=True):
            np.testing.assert_array_equal(a.y, b.y)
            np.testing.assert_array_equal(a.operator.mask, b.operator.mask)


class NamesTest(parameterized.TestCase):
    def names(self, data=DATA, **fields):
        plan = make_plan(**fields)
        _, cells = plan.protocols(data, plan.problems(data))
        return [cell_id(cell) for cell in cells]

    def test_the_same_plan_has_the_same_names(self):
        self.assertEqual(self.names(), self.names())
        self.assertLen(set(self.names(num_samples=3)), 9)

    @parameterized.named_parameters(
        ('setting', {'methods': (invjax.score_ald(4.0, 9.0),)}),
        ('choice', {'methods': (invjax.score_ald(4.0, 8.0, '10'),)}),
        (
            'transition',
            {
                'methods': (
                    invjax.score_ald.of(
                        {'gamma_0': 4.0, 'gamma_T': 8.0, 'eta': 0.5}
                    ),
                )
            },
        ),
        ('method', {'methods': (invjax.dps(4.0),)}),
        ('steps', {'num_steps': 3}),
        ('spacing', {'num_steps': 'quad2'}),
        ('seed', {'seed': 1}),
        ('noise_std', {'noise_stds': (0.1,)}),
        ('noise', {'noise': {'noise': 'salt_pepper', 'amount': 0.2}}),
        ('operator', {'task_parameters': {'drop_fraction': 0.5}}),
        ('task', {'task': 'denoising'}),
        ('hold_out', {'hold_out': 0.1}),
    )
    def test_what_a_picture_depends_on_is_in_its_name(self, fields):
        self.assertFalse(set(self.names()) & set(self.names(**fields)))

    def test_another_version_of_a_method_is_another_cell(self):
        before = self.names()
        version = invjax.score_ald.version
        try:
            invjax.score_ald.version = version + 1
            self.assertFalse(set(before) & set(self.names()))
        finally:
            invjax.score_ald.version = version

    def test_another_prior_or_image_is_another_cell(self):
        other = gaussian.GaussianPrior.isotropic(
            np.full(SHAPE, 0.3), 0.1, ALPHA_BAR
        )
        self.assertNotEqual(describe_prior(PRIOR), describe_prior(other))
        self.assertFalse(
            set(self.names()) & set(self.names(Data(other, TRUTHS)))
        )
        changed = Data(PRIOR, [x + 0.01 for x in TRUTHS])
        self.assertFalse(set(self.names()) & set(self.names(changed)))

    def test_default_settings_are_resolved_before_they_are_named(self):
        default = invjax.dps()
        given = invjax.dps(zeta=1.0, normalise='residual')
        self.assertEqual(
            self.names(methods=(default,)), self.names(methods=(given,))
        )


class GridTest(absltest.TestCase):
    def test_all_combinations_with_the_last_fastest(self):
        self.assertEqual(
            grid(a=[1, 2], b=[3, 4]),
            [
                {'a': 1, 'b': 3},
                {'a': 1, 'b': 4},
                {'a': 2, 'b': 3},
                {'a': 2, 'b': 4},
            ],
        )


class RunningTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.holder.cleanup)
        cls.plan = make_plan(
            methods=(invjax.score_ald(4.0, 8.0), invjax.score_ald(9.0, 8.0)),
            num_samples=2,
            hold_out=0.25,
            has_costs=True,
        )
        cls.done = running.compute(
            cls.holder.name, cls.plan, DATA, max_lanes=4, say=lambda _: None
        )
        cls.cells = read(cls.holder.name)

    def test_every_cell_is_computed_once(self):
        self.assertEqual(self.done.num_computed, 3 * 2 * 2)
        self.assertLen(self.cells, 3 * 2 * 2 + 3)
        again = running.compute(
            self.holder.name, self.plan, DATA, say=lambda _: None
        )
        self.assertEqual(again.num_computed, 0)
        self.assertEqual(read(self.holder.name), self.cells)

    def test_scores_are_those_of_the_picture_and_its_own_truth(self):
        from invjax import images, metrics

        for cell in self.cells:
            path = picture_path(self.holder.name, cell['id'])
            x = images.read_exact(path, SHAPE[0])
            truth = TRUTHS[cell['protocol']['image']]
            # A picture has 256 levels.
            self.assertAlmostEqual(
                cell['scores']['psnr'],
                float(metrics.psnr(x, truth)),
                delta=0.05,
            )

    def test_a_part_of_a_data_set_gives_the_cells_of_the_whole(self):
        part = Data(PRIOR, TRUTHS[2:], first_image=2)
        with tempfile.TemporaryDirectory() as folder:
            running.compute(folder, self.plan, part, say=lambda _: None)
            found = {c['id']: c['scores'] for c in read(folder)}
        whole = {c['id']: c['scores'] for c in self.cells}
        self.assertLen(found, 2 * 2 + 1)
        for name, scores in found.items():
            for score in ('psnr', 'ssim', 'chi_square'):
                self.assertAlmostEqual(
                    scores[score], whole[name][score], places=4
                )

    def test_a_method_does_not_see_what_is_held_out(self):
        seen, rest = self.plan.parts(DATA, self.plan.problems(DATA))[0]
        np.testing.assert_array_equal(
            np.asarray(rest.y)[np.asarray(seen.operator.mask)[..., 0] > 0], 0
        )
        scores = [
            c['scores'] for c in self.cells if c['protocol']['sample'] == 1
        ]
        for found in scores:
            self.assertGreater(found['held_out'], 0)

    def test_costs_are_counted_for_each_method(self):
        for cell in self.cells:
            if cell['protocol']['method'] == 'score_ald':
                self.assertEqual(cell['scores']['forward'], 2)
                self.assertEqual(cell['scores']['backward'], 0)
                self.assertGreater(cell['scores']['seconds'], 0)

    def test_two_processes_share_the_cells(self):
        with tempfile.TemporaryDirectory() as folder:
            for process in range(2):
                done = running.compute(
                    folder,
                    dataclasses.replace(self.plan, has_costs=False),
                    DATA,
                    process=process,
                    num_processes=2,
                    say=lambda _: None,
                )
                self.assertEqual(done.num_computed, 6)
            self.assertCountEqual(
                [c['id'] for c in read(folder)], [c['id'] for c in self.cells]
            )


class DataTest(absltest.TestCase):
    def test_a_part_of_a_data_set_has_the_numbers_it_has_in_the_whole(self):
        data = Data(None, ['fifth', 'sixth', 'seventh'], first_image=5)
        self.assertEqual(
            [data.truth(number) for number in (5, 6, 7)],
            ['fifth', 'sixth', 'seventh'],
        )
        self.assertEqual([number for number, _ in data.numbered()], [5, 6, 7])


if __name__ == '__main__':
    absltest.main()
