"""The flags of training: what they mean, and that a card's command means it."""

import shlex
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from experiments import train
from invjax.commandline import groups
from invjax.training import Config, look


def _config(*flags):
    return train.config_of(train.FLAGS.parse(['train', *flags]))


class TrainTest(parameterized.TestCase):
    def test_flags_left_out_are_the_defaults(self):
        self.assertEqual(
            _config('--images=faces', '--out=run'),
            Config(images='faces', out='run'),
        )

    def test_the_command_on_a_card_is_that_of_the_run(self):
        config = Config(
            images='my pictures/x.npz:train',
            out="it's here",
            size=(32, 32),
            channels=2,
            value_range=(-1.5, 4095.0),
            crop='random',
            flips='all',
            held_out=0.25,
            licence='CC BY 4.0; ask first',
            preset='medium',
            network={
                'channel_mult': (1, 3),
                'attention_downsamplings': (),
                'num_res_blocks': 3,
                'resample': 'plain',
            },
            learned_variance=False,
            noise_schedule='cosine',
            num_train_steps=400,
            remat=True,
            half_lives=(10, 20),
            weighting='min_snr',
            learning_rate=3e-5,
            seed=7,
        )
        _, _, _, *flags = shlex.split(look.command(config))
        self.assertEqual(_config(*flags), config)

    def test_every_field_has_a_flag(self):
        fields = set(Config.__dataclass_fields__) - {'network'}
        given = train.FLAGS.parse(['train'])
        self.assertContainsSubset(fields, given.as_dict())

    def test_processes_that_train_together_must_find_each_other(self):
        for flags, words in (
            (['--num_processes=2', '--process_id=1'], 'need --coordinator'),
            (['--coordinator=auto', '--process_id=1'], 'leave them out'),
            (['--coordinator=host:1'], 'needs --num_processes'),
            (
                ['--coordinator=host:1', '--num_processes=2', '--process_id=2'],
                'below it, got 2 and 2',
            ),
        ):
            given = train.FLAGS.parse(['train', *flags])
            with self.assertRaisesRegex(ValueError, words):
                groups.join_training(given)

    def test_processes_meet_where_the_flags_say(self):
        with mock.patch.object(jax.distributed, 'initialize') as meet:
            groups.join_training(train.FLAGS.parse(['train']))
            meet.assert_not_called()
            flags = ['--coordinator=h:1', '--num_processes=3', '--process_id=2']
            groups.join_training(train.FLAGS.parse(['train', *flags]))
            meet.assert_called_once_with('h:1', 3, 2)
            groups.join_training(
                train.FLAGS.parse(['train', '--coordinator=auto'])
            )
            self.assertEqual(meet.call_args, mock.call())

    @parameterized.parameters(
        (['--images=x'], 'give --out'),
        (['--out=x'], 'give --images'),
        (['--images=x', '--out=y', '--size=big'], '--size must be numbers'),
        (['--images=x', '--out=y', '--batch=0'], '--batch must be at least 1'),
        (['--images=x', '--out=y', '--size=1,2,3'], 'size must be a height'),
    )
    def test_what_cannot_be_is_refused(self, flags, words):
        with self.assertRaisesRegex(ValueError, words):
            _config(*flags)


if __name__ == '__main__':
    absltest.main()
