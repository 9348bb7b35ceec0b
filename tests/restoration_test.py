"""One way from what is meant to a method, and what a restoration knows of itself."""

import base64
import dataclasses
import io
import pathlib
import re
import tempfile
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import batch, images, keys, metrics, operators, restoration
from invjax.diffusion import Transition
from invjax.methods import METHODS
from invjax.methods.dmps import DMPS
from invjax.methods.dps import DPS
from invjax.methods.sdedit import SDEdit
from invjax.methods.tds import TDS
from invjax.priors.card import Card
from invjax.problem import measure
from tests.methods import dense

SHAPE = (4, 4, 1)
# What a folder of a prior has: three entries, of which one is for other steps.
_CARD = Card(
    {'name': 'tuned', 'num_train_steps': 1000},
    (
        {
            'method': 'dps',
            'tasks': ['any'],
            'settings': {'zeta': 5.0, 'clip': False},
        },
        {
            'method': 'dps',
            'tasks': ['random_inpainting'],
            'settings': {'zeta': 7.0},
        },
        {
            'method': 'dps',
            'tasks': ['random_inpainting'],
            'num_steps': 10,
            'settings': {'zeta': 0.5, 'normalise': 'gradient'},
        },
    ),
)


@flax.struct.dataclass
class CardedPrior:
    """A closed-form prior with a card."""

    prior: Any
    card: Card = flax.struct.field(pytree_node=False, default=_CARD)

    @property
    def alpha_bar(self):
        return self.prior.alpha_bar

    @property
    def image_shape(self):
        return self.prior.mean.shape

    def bare(self):
        return self.prior

    def __call__(self, x_t, t):
        return self.prior(x_t, t)


PRIOR = CardedPrior(dense.prior_of(SHAPE))


def make_problem(kind='random_inpainting'):
    truth = PRIOR.prior.sample(jax.random.key(1))
    operator = dense.operator_of(kind)
    measured = measure(jax.random.key(2), truth, operator, 0.1)
    return measured.replace(truth=truth, task=kind)


class ResolveTest(parameterized.TestCase):
    @parameterized.parameters('dps', DPS)
    def test_a_name_or_a_class_has_the_defaults_tuned_for_the_prior(self, dps):
        found = restoration.resolve(dps, PRIOR, 'random_inpainting', 100)
        self.assertEqual(found.method, DPS(7.0))
        self.assertEqual(
            found.source, 'defaults tuned for tuned on random_inpainting'
        )
        # Those of the nearest number of steps, and of any task.
        found = restoration.resolve(dps, PRIOR, 'random_inpainting', 'quad12')
        self.assertEqual(found.method, DPS(0.5, 'gradient'))
        found = restoration.resolve(dps, PRIOR, 'gaussian_deblur', 100)
        expected = DPS(5.0, transition=Transition(clip=False))
        self.assertEqual(found.method, expected)

    def test_where_nothing_was_tuned_they_are_the_methods_own(self):
        for prior in (PRIOR, PRIOR.prior, None):
            found = restoration.resolve('dmps', prior, 'random_inpainting')
            self.assertEqual(found.method, DMPS())
            own = "the method's own defaults"
            if prior is PRIOR:
                own += ', since none are known for tuned on random_inpainting: '
                own += 'see tune'
            self.assertEqual(found.source, own)
        found = restoration.resolve('dps', PRIOR.prior, 'random_inpainting')
        self.assertEqual(found.method, DPS())

    def test_what_is_given_comes_on_top(self):
        found = restoration.resolve(
            'dps',
            PRIOR,
            'gaussian_deblur',
            settings={'zeta': 2.0, 'transition': 'ddim', 'eta': 0.5},
        )
        expected = DPS(
            2.0, transition=Transition(kind='ddim', eta=0.5, clip=False)
        )
        self.assertEqual(found.method, expected)

    def test_a_value_is_taken_as_it_is(self):
        value = DPS(1.0)
        found = restoration.resolve(value, PRIOR, 'random_inpainting')
        self.assertIs(found.method, value)
        self.assertEqual(found.source, 'as given')
        found = restoration.resolve(value, settings={'normalise': 'gradient'})
        self.assertEqual(found.method, DPS(1.0, 'gradient'))

    @parameterized.parameters(
        ('dsp', {}, "method must be one of .*, got 'dsp'"),
        (3, {}, 'method must be a name, a class or a value of Method, got 3'),
        (dict, {}, 'method must be a name, a class or a value of Method'),
        ('dps', {'zetta': 1}, "dps has no hyperparameter 'zetta'; it has zeta"),
        (DPS(), {'tau': 1}, "dps has no hyperparameter 'tau'"),
        ('dps', {'zeta': -1}, 'zeta of dps must be 0 or more'),
        (
            'dps',
            {'retained': 0.5},
            'retained of dps is read with projection=state alone, and '
            'projection is none',
        ),
        (DPS(), {'beta_1': 0.5}, 'beta_1 of dps is read with moments=adam'),
        ('sdedit', {'tau': 1000}, 'tau of sdedit must be from 0 to 999'),
    )
    def test_mistakes_are_refused_in_a_sentence(self, method, settings, words):
        with self.assertRaisesRegex(ValueError, words):
            restoration.resolve(
                method, PRIOR, 'random_inpainting', 100, settings
            )


class RestoreTest(absltest.TestCase):
    def test_it_is_the_lanes_of_one_image(self):
        measured = make_problem()
        restored = restoration.restore(
            measured, PRIOR, 'dps', 10, seed=3, num_samples=2
        )
        method = DPS(0.5, 'gradient')
        self.assertEqual(restored.method, method)
        lanes = batch.make_lanes(keys.root(3), [measured], [method], 2)
        expected = batch.run_lanes(lanes, PRIOR, 10)
        np.testing.assert_array_equal(restored.samples, expected.x)
        np.testing.assert_array_equal(
            restored.info.residual, expected.info.residual
        )
        self.assertEqual(restored.samples.shape, (2, *SHAPE))
        self.assertGreater(np.ptp(restored.samples, axis=0).max(), 0.01)
        # A key is a seed as well.
        again = restoration.restore(
            measured, PRIOR, method, 10, seed=jax.random.key(3)
        )
        np.testing.assert_allclose(again.image, restored.image, atol=1e-5)

    def test_a_restoration_may_be_the_mean_of_as_many_samples(self):
        measured = make_problem()
        four = restoration.restore(measured, PRIOR, 'dps', 6, num_samples=4)
        mean = restoration.restore(measured, PRIOR, 'dps', 6, mean_of=4)
        np.testing.assert_allclose(mean.image, four.mean, atol=1e-6)
        two = restoration.restore(
            measured, PRIOR, 'dps', 6, num_samples=2, mean_of=2
        )
        clipped = np.clip(four.samples, -1, 1)
        for found, pair in zip(
            two.samples, (clipped[:2], clipped[2:]), strict=True
        ):
            np.testing.assert_allclose(found, pair.mean(axis=0), atol=1e-6)
        self.assertEqual(mean.mean_of, 4)
        np.testing.assert_allclose(
            mean.info.residual[0], four.info.residual.mean(axis=0), rtol=1e-5
        )

    def test_a_mean_of_none_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'mean_of must be a whole'):
            restoration.restore(make_problem(), PRIOR, 'dps', 6, mean_of=0)

    def test_of_starts_it_takes_the_one_of_least_residual(self):
        measured = make_problem()
        all_of_them = restoration.restore(
            measured, PRIOR, 'dps', 6, num_samples=10, seed=4
        )
        found = restoration.restore(
            measured, PRIOR, 'dps', 6, num_samples=2, starts=5, seed=4
        )
        self.assertEqual(found.samples.shape, (2, *measured.image_shape))
        for group, x in enumerate(found.samples):
            # After two of six steps two of five go on.
            own = np.arange(5 * group, 5 * group + 5)
            early = all_of_them.info.residual[own, 1]
            kept = own[np.argsort(early)[:2]]
            final = [all_of_them.scores()[i]['residual_norm'] for i in kept]
            best = kept[np.argmin(final)]
            np.testing.assert_allclose(x, all_of_them.samples[best], atol=1e-6)
        self.assertEqual(found.starts, 5)

    def test_settings_may_be_given_by_name(self):
        measured = make_problem()
        one, other = (
            restoration.restore(measured, PRIOR, method, 10, **settings).image
            for method, settings in (
                ('dps', {'zeta': 2.0}),
                (DPS(2.0, 'gradient'), {}),
            )
        )
        np.testing.assert_array_equal(one, other)

    def test_mistakes_are_refused_before_any_work(self):
        for kind, method, kwargs, words in (
            ('dense', 'ddrm', {}, 'ddrm needs a linear operator with a'),
            ('dense', 'dps', {'num_samples': 0}, 'num_samples must be a whole'),
            ('dense', 'dps', {'num_samples': 1.5}, 'num_samples must be a'),
            ('dense', 'dps', {'num_steps': 0}, 'num_steps must be'),
            ('dense', 'dps', {'seed': -1}, 'seed must be'),
        ):
            with self.assertRaisesRegex(ValueError, words):
                restoration.restore(make_problem(kind), PRIOR, method, **kwargs)

    def test_progress_counts_the_steps_of_all_samples(self):
        seen = []
        restoration.restore(
            make_problem(),
            PRIOR,
            SDEdit(),
            10,
            num_samples=3,
            max_lanes=2,
            on_progress=lambda *pair: seen.append(pair),
        )
        self.assertEqual(seen[-1], (30, 30))


class RestorationTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.problem = make_problem()
        self.restored = restoration.restore(
            self.problem, PRIOR, DPS(0.7), 10, num_samples=3
        )

    def test_it_knows_its_images(self):
        samples = self.restored.samples
        np.testing.assert_array_equal(self.restored.image, samples[0])
        # Of clipped samples, some values of which lie beyond.
        wide = dataclasses.replace(self.restored, samples=3 * samples)
        self.assertGreater(np.abs(wide.samples).max(), 1)
        np.testing.assert_allclose(
            wide.mean, np.clip(3 * samples, -1, 1).mean(axis=0)
        )
        np.testing.assert_array_equal(self.restored.failed, [-1, -1, -1])

    def test_scores_are_those_of_each_sample(self):
        scores = self.restored.scores()
        self.assertLen(scores, 3)
        for x, found in zip(self.restored.samples, scores, strict=True):
            truth, clipped = self.problem.truth, jnp.clip(x, -1, 1)
            np.testing.assert_allclose(found['psnr'], metrics.psnr(x, truth))
            # The window of SSIM does not fit into so small a picture.
            self.assertNotIn('ssim', found)
            residual = self.problem.y - self.problem.operator.forward(clipped)
            np.testing.assert_allclose(
                found['residual_norm'], np.linalg.norm(residual), rtol=1e-5
            )
            number = float(np.sum(self.problem.operator.support()))
            np.testing.assert_allclose(
                found['expected_residual_norm'],
                0.1 * np.sqrt(number),
                rtol=1e-5,
            )
        blind = self.problem.replace(truth=None)
        found = restoration.score(self.restored.image, blind)
        self.assertEqual(
            set(found), {'residual_norm', 'expected_residual_norm'}
        )

    def test_a_value_that_is_not_finite_is_a_failed_sample(self):
        residual = np.array(self.restored.info.residual)
        residual[1, 4] = np.nan
        info = self.restored.info._replace(residual=residual)
        failed = dataclasses.replace(self.restored, info=info).failed
        np.testing.assert_array_equal(failed, [-1, 4, -1])

    def test_it_shows_itself_in_a_few_lines_and_as_pictures(self):
        text = repr(self.restored)
        self.assertIn('DPS(zeta=0.7)', text)
        self.assertIn('3 of 4 x 4 x 1', text)
        self.assertIn('10 steps', text)
        self.assertIn('with tuned; as given', text)
        self.assertLessEqual(text.count('\n'), 4)
        html = self.restored._repr_html_()
        names = re.findall('<figcaption>(.*?)</figcaption>', html)
        self.assertEqual(names, ['truth', 'measurement', 'restored'])
        shown = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            for data in re.findall('base64,(.*?)"', html)
        ]
        for pixels, x in zip(
            shown,
            (self.problem.truth, self.problem.y, self.restored.image),
            strict=True,
        ):
            expected = images.to_uint8(np.asarray(x)).squeeze()
            np.testing.assert_array_equal(pixels, expected)

    def test_a_sample_is_saved_as_a_picture(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / 'x.png'
            self.restored.save(path, sample=2)
            pixels = np.asarray(Image.open(path))
        expected = images.to_uint8(self.restored.samples[2]).squeeze()
        np.testing.assert_array_equal(pixels, expected)


class LibraryTest(absltest.TestCase):
    def test_methods_stand_in_the_package_by_their_names(self):
        import invjax

        for name, cls in METHODS.items():
            self.assertIs(getattr(invjax, name), cls)
        self.assertEqual(invjax.tds(particles=4), TDS(particles=4))
        self.assertIs(invjax.tasks, operators.OPERATORS)


if __name__ == '__main__':
    absltest.main()
