"""Published settings: each names where it is from, and does there what it does here."""

import pathlib
import re
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import consistency, operators, problem, restoration
from invjax.methods import METHODS
from invjax.priors import check, checkpoint
from invjax.priors.card import ANY, Card, read_entries

_ROOT = pathlib.Path(__file__).parents[2]
_ENTRIES = read_entries(_ROOT / 'checkpoints/ffhq256/defaults.toml')
_GOLDENS = _ROOT / 'tests/goldens'


class _Prior:
    alpha_bar = np.linspace(0.999, 0.001, 1000)
    card = Card({'name': 'ffhq256', 'num_train_steps': 1000}, _ENTRIES)


class EntriesTest(parameterized.TestCase):
    def test_each_is_of_a_method_and_tasks_and_says_where_it_is_from(self):
        for entry in _ENTRIES:
            method = METHODS[entry['method']].of(entry['settings'])
            method.check(1000)
            self.assertLessEqual(
                set(entry['tasks']), {*operators.OPERATORS, ANY}
            )
            self.assertRegex(
                entry['source'],
                rf"'s authors \(.* of [\w-]+/[\w-]+, {entry['num_steps']} \w+\)",
            )

    def test_no_two_are_for_the_same_run(self):
        runs = [
            (entry['method'], task, entry['num_steps'])
            for entry in _ENTRIES
            for task in entry['tasks']
        ]
        self.assertLen(set(runs), len(runs))

    @parameterized.parameters(
        ('diffpir', 'motion_deblur', 'quad100', {'lam': 1.75, 'mix': 0.3}),
        ('diffpir', 'box_inpainting', 'quad20', {'mix': 1.0}),
        ('daps', 'nonlinear_deblur', 'edm200', {'langevin_steps': 200}),
        ('ddrm', 'colorization', 20, {'eta_a': 0.85}),
        ('pigdm', 'super_resolution', 1000, {'weighting': 'paper'}),
    )
    def test_they_are_taken_and_their_source_is_told(
        self, method, task, num_steps, expected
    ):
        found = restoration.resolve(method, _Prior, task, num_steps)
        settings = found.method.settings()
        for name, value in expected.items():
            self.assertEqual(settings[name], value)
        self.assertRegex(found.source, f"ffhq256 on {task} by .*'s authors")

    @parameterized.parameters(
        ('pigdm', 'super_resolution', 100), ('pigdm', 'gaussian_deblur', 1000)
    )
    def test_other_runs_have_the_methods_own(self, method, task, num_steps):
        found = restoration.resolve(method, _Prior, task, num_steps)
        self.assertEqual(found.method, METHODS[method]())
        self.assertStartsWith(found.source, "the method's own defaults")


class UnitsTest(parameterized.TestCase):
    """The authors' formula in the authors' units, beside ours."""

    @parameterized.parameters(
        ('gaussian_deblur', 100, 7.0), ('box_inpainting', 20, 1.0)
    )
    def test_diffpir_weighs_the_denoised_image_as_its_authors(
        self, task, num_steps, their_lambda
    ):
        # A denoising problem of one pixel, with the noise of their scripts.
        sigma, sigma_t, x0_hat, y = 12.75 / 255, 0.7, 0.3, -0.5
        rho = their_lambda * sigma**2 / sigma_t**2
        unit = (y / 2 + 0.5 + rho * (x0_hat / 2 + 0.5)) / (1 + rho)
        lam = _Prior.card.default_settings('diffpir', task, num_steps)['lam']
        shape = (1, 1, 1)
        measured = problem.from_measurement(
            jnp.full(shape, y),
            operators.make_operator('denoising', jax.random.key(0), shape),
            2 * sigma,
        )
        ours = consistency.solve_nearest(
            measured, jnp.full(shape, x0_hat), sigma_t**2 / lam
        )
        np.testing.assert_allclose(ours.x, 2 * unit - 1, rtol=1e-5)

    @parameterized.parameters(
        ('phase_retrieval', 5e-5),
        ('high_dynamic_range', 2e-5),
        ('nonlinear_deblur', 1e-5),
    )
    def test_daps_takes_the_mean_of_its_authors_langevin_steps(self, task, lr):
        size = _Prior.card.default_settings('daps', task, 200)['langevin_size']
        # As a function of the share of the levels that are done; the precision
        # of their likelihood, exp(-||y - A x||^2 / tau^2), is 2 / tau^2.
        share = np.arange(200) / 201
        sizes = lr * (1 + share * (0.01 - 1)) * 2 / 0.01**2
        self.assertBetween(size / sizes.mean(), 0.97, 1.03)


class LoadedTest(absltest.TestCase):
    def test_only_the_known_file_has_them(self):
        root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        known = checkpoint.KNOWN_PRIORS['ffhq256']._replace(network=None)
        self.enter_context(
            mock.patch.dict(checkpoint.KNOWN_PRIORS, {'ffhq256': known})
        )
        self.enter_context(
            mock.patch.dict('os.environ', INVJAX_CHECKPOINTS=str(root))
        )
        self.enter_context(
            mock.patch.object(check, 'refuse_unless_it_denoises')
        )
        shutil.copyfile(_GOLDENS / 'unet_tiny32.pt', root / known.filename)
        shutil.copyfile(_GOLDENS / 'unet_variety32.pt', root / 'ffhq256.pt')
        taken = invjax.load_prior('ffhq256')
        self.assertEqual(taken.card.tuned, _ENTRIES)
        other = invjax.load_prior(
            root / 'ffhq256.pt',
            num_heads=4,
            head_channels=None,
            new_attention_order=True,
            image_size=32,
            noise_schedule='cosine',
            num_train_steps=4000,
            rescale_timesteps=True,
        )
        self.assertEqual(other.card.name, 'ffhq256')
        self.assertEqual(other.card.tuned, ())
        self.assertRegex(taken.card['note'], re.escape('BSD 3-Clause'))


if __name__ == '__main__':
    absltest.main()
