"""Folders as diffusers saves them, and what is said of those that do not fit."""

import json
import pathlib
import tempfile

import jax
import numpy as np
import safetensors.numpy
import torch_goldens
from absl.testing import absltest, parameterized
from torch_goldens import images, relative_error

from invjax import schedule
from invjax.diffusion import score_from_eps
from invjax.priors import diffusers_folder
from invjax.priors.parametrisation import Parametrisation

# A network that is quick to trace, with attention and both samplers.
SMALL = 'no_mid16'
DDPM = {'_class_name': 'DDPMScheduler', 'num_train_timesteps': 100}
PIPELINE = {
    '_class_name': 'DDPMPipeline',
    'unet': ['diffusers', 'UNet2DModel'],
    'scheduler': ['diffusers', 'DDPMScheduler'],
}


class FolderTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name) / 'saved'

    def save(self, name=SMALL, scheduler=DDPM, index=PIPELINE, **changes):
        """Write a golden's network as a saved pipeline; returns the golden."""
        golden, config = torch_goldens.load(f'diffusers_{name}')
        self.write('model_index.json', index)
        self.write(
            'unet/config.json',
            {'_class_name': 'UNet2DModel'} | config | changes,
        )
        self.write('scheduler/scheduler_config.json', scheduler)
        self.tensors = torch_goldens.recipe_state_dict(golden)
        self.write_weights()
        return golden

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def write_weights(self, name='diffusion_pytorch_model.safetensors'):
        path = self.folder / 'unet' / name
        safetensors.numpy.save_file(self.tensors, path)

    def assert_refused(self, message, folder=None):
        with self.assertRaisesRegex(ValueError, message) as caught:
            diffusers_folder.read(folder or self.folder)
        # One sentence that begins with which folder it is.
        self.assertStartsWith(str(caught.exception), str(self.folder))
        self.assertNotIn('\n', str(caught.exception))


class ReadTest(FolderTestCase):
    def check_output(self, prior, golden, x_t, rows, output_of):
        """The network's own output, made again from the noise of the prior."""
        with jax.default_matmul_precision('highest'):
            eps = jax.jit(jax.vmap(prior))(x_t, rows).eps
        out = output_of(np.asarray(eps))
        expected = images(golden['out'])
        self.assertLess(relative_error(out, expected), torch_goldens.TOLERANCE)

    def test_a_network_of_the_noise_is_asked_at_timesteps(self):
        golden = self.save(scheduler=DDPM | {'num_train_timesteps': 1000})
        prior, note = diffusers_folder.read(self.folder)
        self.assertEqual(note, '')
        self.assertEqual(prior.image_shape, (16, 16, 3))
        np.testing.assert_allclose(
            prior.alpha_bar,
            schedule.alpha_bars(schedule.linear_betas()),
            rtol=1e-12,
        )
        self.check_output(
            prior, golden, images(golden['x']), golden['t'], lambda eps: eps
        )

    def test_a_network_of_v_is_turned_into_one_of_the_noise(self):
        golden = self.save(
            'grey_scaleshift32',
            DDPM
            | {'num_train_timesteps': 1000, 'prediction_type': 'v_prediction'},
        )
        prior, _ = diffusers_folder.read(self.folder)
        x_t = images(golden['x'])
        alpha_bar = prior.alpha_bar[golden['t']][:, None, None, None]
        # eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t, solved for v.
        self.check_output(
            prior,
            golden,
            x_t,
            golden['t'],
            lambda eps: (
                (eps - np.sqrt(1 - alpha_bar) * x_t) / np.sqrt(alpha_bar)
            ),
        )

    def test_a_score_network_is_asked_at_noise_levels_of_half_the_range(self):
        golden = self.save(
            've_ncsnpp32',
            {
                '_class_name': 'ScoreSdeVeScheduler',
                'num_train_timesteps': 2,
                'sigma_min': 3.7,
                'sigma_max': 41.0,
            },
            PIPELINE | {'_class_name': 'ScoreSdeVePipeline'},
        )
        prior, _ = diffusers_folder.read(self.folder)
        sigma = np.array([3.7, 41.0])
        # Images in [-1, 1] are twice as wide as those of the network.
        np.testing.assert_allclose(
            prior.alpha_bar, 1 / (1 + (2 * sigma) ** 2), rtol=1e-12
        )
        z = 2 * images(golden['x']) - 1
        alpha_bar = prior.alpha_bar[:, None, None, None]
        self.check_output(
            prior,
            golden,
            np.float32(np.sqrt(alpha_bar) * z),
            np.arange(2),
            # The score of x_t times d x_t / d input, which is
            # 2 sqrt(alpha_bar).
            lambda eps: (
                np.asarray(score_from_eps(eps, alpha_bar))
                * 2
                * np.sqrt(alpha_bar)
            ),
        )

    def test_its_unet_folder_and_the_old_layout_are_the_same_prior(self):
        self.save()
        expected, _ = diffusers_folder.read(self.folder)
        with self.subTest('unet'):
            found, _ = diffusers_folder.read(self.folder / 'unet')
            self.assert_same(found, expected)
        with self.subTest('old'):
            unet, scheduler = self.folder / 'unet', self.folder / 'scheduler'
            for path in (*unet.iterdir(), *scheduler.iterdir()):
                path.rename(self.folder / path.name)
            unet.rmdir()
            scheduler.rmdir()
            found, _ = diffusers_folder.read(self.folder)
            self.assert_same(found, expected)

    def test_old_names_of_attention_are_the_same_prior(self):
        self.save()
        expected, _ = diffusers_folder.read(self.folder)
        old = {
            'to_q': 'query',
            'to_k': 'key',
            'to_v': 'value',
            'to_out.0': 'proj_attn',
        }
        renamed = {}
        for name, tensor in self.tensors.items():
            for new_part, old_part in old.items():
                name = name.replace(f'.{new_part}.', f'.{old_part}.')
            renamed[name] = tensor
        self.assertIn('up_blocks.0.attentions.0.proj_attn.bias', renamed)
        self.tensors = renamed
        self.write_weights()
        found, _ = diffusers_folder.read(self.folder)
        self.assert_same(found, expected)

    def test_safetensors_come_before_bin(self):
        self.save()
        (self.folder / 'unet' / 'diffusion_pytorch_model.bin').write_bytes(
            b'not read'
        )
        diffusers_folder.read(self.folder)
        with self.subTest('bin alone'):
            expected, _ = diffusers_folder.read(self.folder)
            (
                self.folder / 'unet' / 'diffusion_pytorch_model.safetensors'
            ).unlink()
            # The content decides on the format.
            self.write_weights('diffusion_pytorch_model.bin')
            found, _ = diffusers_folder.read(self.folder)
            self.assert_same(found, expected)

    def assert_same(self, found, expected):
        self.assertEqual(
            jax.tree.structure(found), jax.tree.structure(expected)
        )
        for a, b in zip(
            jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_what_is_a_folder_of_diffusers_is_seen_without_reading_it(self):
        self.save()
        self.assertTrue(diffusers_folder.is_folder(self.folder))
        self.assertTrue(diffusers_folder.is_folder(self.folder / 'unet'))
        self.assertFalse(diffusers_folder.is_folder(self.folder / 'scheduler'))


class RefusedTest(FolderTestCase):
    @parameterized.parameters(
        (
            {'_class_name': 'StableDiffusionPipeline', 'vae': ['a', 'b']},
            'StableDiffusionPipeline with vae, so it is conditional',
        ),
        (
            {'_class_name': 'LDMPipeline', 'vqvae': ['a', 'b']},
            'LDMPipeline with vqvae',
        ),
    )
    def test_pipelines_with_other_parts(self, index, message):
        self.save(index=PIPELINE | index)
        self.assert_refused(message)

    def test_a_part_that_was_left_empty_is_no_part(self):
        self.save(index=PIPELINE | {'safety_checker': [None, None]})
        diffusers_folder.read(self.folder)

    @parameterized.parameters(
        (
            {'_class_name': 'UNet2DConditionModel'},
            'UNet2DConditionModel, which is conditional',
        ),
        ({'num_class_embeds': 10}, 'needs a class label'),
        ({'class_embed_type': 'timestep'}, 'needs a class label'),
        ({'in_channels': 4}, 'takes 4 channels and gives 3'),
        ({'out_channels': 6}, "6 channels for .* of 3.*'learned_range'"),
        ({'sample_size': None}, 'sample_size must be .*got None'),
        ({'sample_size': 15}, r'levels divide \(by 2\), got 15'),
        ({'act_fn': 'mish'}, "act_fn must be silu or swish, got 'mish'"),
        (
            {'down_block_types': ['DownBlock2D', 'CrossAttnDownBlock2D']},
            'blocks of type CrossAttnDownBlock2D; those .*AttnSkipDownBlock2D',
        ),
        (
            {'up_block_types': ['UpBlock2D']},
            'up_block_types has 1 entries, but block_out_channels has 2',
        ),
        ({'resnet_time_scale_shift': 'ada_group'}, 'default or scale_shift'),
        ({'time_embedding_type': 'learned'}, 'positional or fourier'),
        ({'norm_num_groups': 5}, '16 channels cannot be .* in 5 groups'),
        ({'something_new': 3}, "not known here: {'something_new': 3}"),
        (
            {'block_out_channels': [16, 48]},
            'weights do not fit the configuration: .*of another shape',
        ),
        (
            {'layers_per_block': 2},
            'weights do not fit the configuration: of its tensors, .*missing',
        ),
    )
    def test_networks_that_are_no_prior(self, changes, message):
        self.save(**changes)
        self.assert_refused(message)

    @parameterized.parameters(
        ({'_class_name': 'CMStochasticIterativeScheduler'}, 'is a CMStoch'),
        ({'prediction_type': 'flow'}, 'epsilon or sample or v_prediction'),
        ({'beta_schedule': 'cubic'}, 'must be one of linear, .*cubic'),
        (
            {'rescale_betas_zero_snr': True},
            'no signal, where a network that predicts the noise',
        ),
        (
            {
                '_class_name': 'FlowMatchEulerDiscreteScheduler',
                'use_dynamic_shifting': True,
            },
            'use_dynamic_shifting',
        ),
    )
    def test_schedulers_that_no_prior_has(self, changes, message):
        self.save(scheduler=DDPM | changes)
        self.assert_refused(message)

    def test_a_folder_without_weights_or_scheduler_says_what_is_needed(self):
        self.save()
        weights = self.folder / 'unet' / 'diffusion_pytorch_model.safetensors'
        weights.rename(weights.with_suffix('.fp16.safetensors'))
        self.assert_refused(
            'model.safetensors or .*model.bin.* but it has '
            'diffusion_pytorch_model.fp16.safetensors'
        )
        (self.folder / 'scheduler' / 'scheduler_config.json').unlink()
        self.assert_refused('must have scheduler/scheduler_config.json')
        (self.folder / 'unet' / 'config.json').write_text('{')
        self.assert_refused('config.json is no JSON that can be read')
        (self.folder / 'unet' / 'config.json').unlink()
        self.assert_refused('must have unet/config.json or config.json')


class SchedulerTest(parameterized.TestCase):
    def read(self, kind, **entries):
        scheduler = {'_class_name': kind} | entries
        return diffusers_folder.levels_from_scheduler(scheduler)

    @parameterized.parameters(
        'DDPMScheduler',
        'DDIMScheduler',
        'PNDMScheduler',
        'DPMSolverMultistepScheduler',
        'EulerAncestralDiscreteScheduler',
        'UniPCMultistepScheduler',
    )
    def test_all_that_sample_on_betas_have_the_same_levels(self, kind):
        how, levels, note = self.read(
            kind,
            beta_schedule='scaled_linear',
            beta_start=0.001,
            beta_end=0.01,
            num_train_timesteps=250,
            prediction_type='sample',
        )
        self.assertEqual(how, Parametrisation('x_0'))
        self.assertEqual(
            levels, schedule.Betas('scaled_linear', 250, 0.001, 0.01)
        )
        self.assertEqual(note, '')

    def test_levels_of_a_score_network_are_twice_those_of_its_images(self):
        # Its images are in [0, 1]; a word left out has the default of its
        # scheduler in diffusers, 0.01 and 1348.
        for entries, ends in (
            ({'sigma_min': 0.02, 'sigma_max': 50.0}, [0.04, 100.0]),
            ({}, [0.02, 2696.0]),
        ):
            how, levels, _ = self.read('ScoreSdeVeScheduler', **entries)
            sigma = np.sqrt(1 / levels.alpha_bar - 1)
            np.testing.assert_allclose(sigma[[0, -1]], ends, rtol=1e-6)
            # Asked at the level of its own images.
            np.testing.assert_allclose(
                how.coefficients(levels.alpha_bar).time, sigma / 2, rtol=1e-9
            )

    def test_trained_betas_are_the_table(self):
        _, levels, _ = self.read('DDPMScheduler', trained_betas=[0.1, 0.2, 0.3])
        np.testing.assert_allclose(levels.alpha_bar, [0.9, 0.72, 0.504])

    def test_a_last_level_without_signal_is_left_out_with_a_word(self):
        _, levels, note = self.read(
            'DDIMScheduler',
            rescale_betas_zero_snr=True,
            prediction_type='v_prediction',
        )
        self.assertLen(levels.alpha_bar, 999)
        self.assertIn('last 1 of 1000 noise levels has no signal', note)

    def test_a_flow_is_told_its_time_in_steps(self):
        how, levels, _ = self.read(
            'FlowMatchEulerDiscreteScheduler', num_train_timesteps=5, shift=3.0
        )
        # Times of diffusers 0.42.1 for this scheduler, noisiest left out.
        np.testing.assert_allclose(
            how.coefficients(levels.alpha_bar).time,
            [2.1429, 3.3333, 4.0909, 4.6154],
            rtol=1e-4,
        )
        self.assertEqual(how.output, 'velocity')

    def test_edm_is_told_a_quarter_of_the_logarithm_of_sigma(self):
        how, levels, _ = self.read(
            'EDMEulerScheduler', num_train_timesteps=5, sigma_data=0.4
        )
        # Levels of diffusers 0.42.1 for five steps.
        sigma = np.array([0.002, 0.16975, 2.5152, 17.528, 80])
        np.testing.assert_allclose(
            np.sqrt(1 / levels.alpha_bar - 1), sigma, rtol=1e-4
        )
        np.testing.assert_allclose(
            how.coefficients(levels.alpha_bar).time,
            np.log(sigma) / 4,
            atol=1e-4,
        )
        self.assertEqual((how.output, how.sigma_data), ('edm', 0.4))


if __name__ == '__main__':
    absltest.main()
