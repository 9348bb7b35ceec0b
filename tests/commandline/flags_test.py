"""Flags: what they give, what they refuse, and that binaries do not share them."""

import contextlib
import importlib
import io
import pathlib
import re
import sys
import types
from unittest import mock

from absl.testing import absltest, parameterized

import invjax
from experiments import restore
from invjax import __main__ as command
from invjax.commandline import groups, program
from invjax.commandline.flags import Flags

_BINARIES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[2] / 'experiments').glob('*.py')
    if not path.stem.startswith('_')
)


def make_flags():
    flags = Flags('A binary.')
    flags.number('zeta', None, 'Step size.', above=0, at_most=10, group='own')
    flags.integer('count', 3, 'How many.', at_least=1)
    flags.string('name', 'x', 'A name.', section='names')
    return flags


class FlagsTest(parameterized.TestCase):
    def test_values_are_what_the_command_line_has_and_else_the_defaults(self):
        given = make_flags().parse(['binary', '--zeta=2.5', '--name=y'])
        self.assertEqual((given.zeta, given.count, given.name), (2.5, 3, 'y'))
        self.assertEqual(given.groups['own'], {'zeta': 2.5})

    def test_a_group_has_only_what_was_given(self):
        self.assertEqual(make_flags().parse(['binary']).groups['own'], {})

    def test_a_second_parse_forgets_the_first(self):
        flags = make_flags()
        flags.parse(['binary', '--count=7'])
        self.assertEqual(flags.parse(['binary']).count, 3)

    def test_values_do_not_change(self):
        given = make_flags().parse(['binary'])
        with self.assertRaisesRegex(AttributeError, 'flags do not change'):
            given.count = 4

    @parameterized.parameters(
        ('--zeta=0', '--zeta must be above 0 and at most 10, got 0.'),
        ('--zeta=10.5', '--zeta must be above 0 and at most 10, got 10.5.'),
        ('--zeta=inf', '--zeta must be above 0 and at most 10, got inf.'),
        ('--zeta=nan', '--zeta must be above 0 and at most 10, got nan.'),
        ('--count=0', '--count must be at least 1 and at most 2147483647'),
        ('--count=3000000000', '--count must be at least 1 and at most 2147'),
        ('--count=big', "--count must be a whole number, got 'big'."),
        ('--count=1.5', "--count must be a whole number, got '1.5'."),
        ('--zeta=big', "--zeta must be a number, got 'big'."),
        ('--cuont=1', "Unknown command line flag 'cuont'. Did you mean: count"),
        ('count', "arguments must be flags, got 'count'"),
    )
    def test_a_mistake_is_one_sentence(self, argument, sentence):
        with self.assertRaises(ValueError) as caught:
            make_flags().parse(['binary', argument])
        self.assertStartsWith(str(caught.exception), sentence)
        self.assertNotIn('\n', str(caught.exception))

    @parameterized.parameters(('--zeta=10', 10.0), ('--zeta=1e-9', 1e-9))
    def test_a_bound_belongs_to_the_range_where_it_says_so(
        self, argument, value
    ):
        self.assertEqual(make_flags().parse(['binary', argument]).zeta, value)

    def test_help_has_each_flag_with_meaning_range_and_default(self):
        text = ' '.join(make_flags().help().split())
        self.assertStartsWith(text, 'A binary. general: --[no]help: Show')
        self.assertIn('--zeta: Step size. (above 0 and at most 10)', text)
        self.assertIn('--count: How many. (at least 1 and', text)
        self.assertIn('[3]', text)
        self.assertIn('names: --name: A name. [x]', text)


class BinariesTest(parameterized.TestCase):
    @parameterized.parameters(*_BINARIES)
    def test_help_shows_the_flags_of_the_binary_and_no_library(self, name):
        # All of them in one program, which absl's own object would not let.
        binary = importlib.import_module(f'experiments.{name}')
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            program.run(binary.main, binary.FLAGS, [name, '--help'])
        self.assertIn('general:\n', out.getvalue())
        for foreign in ('--logtostderr', '--jax_', '--pymdb', '--flagfile'):
            self.assertNotIn(foreign, out.getvalue())
        # A flag that nobody describes is one that nobody can use.
        for line in out.getvalue().splitlines():
            if line.startswith('  --'):
                self.assertRegex(line, r'^  --\S+: \S')


class OverridesTest(absltest.TestCase):
    def test_every_binary_with_a_prior_takes_what_a_file_does_not_tell(self):
        folder = pathlib.Path(restore.__file__).parent
        asked = {
            'image_size': 32,
            'noise_schedule': 'cosine',
            'num_train_steps': 4000,
            'rescale_timesteps': True,
            'weights_key': 'ema',
        }
        found = []
        for path in sorted(folder.glob('*.py')):
            text = path.read_text()
            if 'FLAGS' not in text or not re.search(
                r'define_(prior|overrides)', text
            ):
                self.assertNotIn('load_prior', text, path.name)
                continue
            binary = importlib.import_module(f'experiments.{path.stem}')
            given = binary.FLAGS.parse(
                [path.stem, *(f'--{name}={v}' for name, v in asked.items())]
            )
            self.assertEqual(groups.overrides_of(given), asked)
            found.append(path.stem)
        self.assertContainsSubset(
            ['convert_weights', 'evaluate', 'restore', 'sweep', 'tune'], found
        )

    def test_they_reach_the_prior(self):
        given = restore.FLAGS.parse(
            ['restore', '--prior=a.pt', '--num_train_steps=4000']
        )
        with mock.patch.object(groups.checkpoint, 'load_prior') as load:
            load.return_value.image_shape = (8, 8, 3)
            load.return_value.network.num_classes = None
            groups.load_prior(given)
        self.assertEqual(load.call_args.kwargs['num_train_steps'], 4000)


class CommandTest(absltest.TestCase):
    def run_with(self, *arguments):
        """What `invjax ARGUMENTS` runs: the call of `program.run`."""
        # A wheel has the binaries in the package; here they are beside it.
        package = types.ModuleType('invjax.experiments')
        package.__path__ = [
            str(pathlib.Path(__file__).parents[2] / 'experiments')
        ]
        with (
            mock.patch.dict(sys.modules, {'invjax.experiments': package}),
            mock.patch.object(invjax, 'experiments', package, create=True),
            mock.patch.object(sys, 'argv', ['invjax', *arguments]),
            mock.patch.object(command, 'run') as run,
        ):
            command.main()
        return run.call_args.args

    def test_the_first_argument_is_the_binary_and_the_rest_its_flags(self):
        main, flags, arguments, needs = self.run_with('sweep', '--seed=3')
        self.assertEqual(main.__module__, 'invjax.experiments.sweep')
        self.assertEqual(arguments, ['sweep', '--seed=3'])
        self.assertIn('--grid', flags.help())
        self.assertIsNone(needs)

    def test_whole_steps_of_training_take_huge_pages(self):
        *_, flags, _, needs = self.run_with('train')
        self.assertTrue(needs(flags.parse(['train'])))
        *_, flags, _, needs = self.run_with('benchmark')
        self.assertFalse(needs(flags.parse(['benchmark'])))
        self.assertTrue(needs(flags.parse(['benchmark', '--training=true'])))

    def test_anything_else_is_one_sentence_with_the_choices(self):
        for arguments, words in (
            ((), 'by one of .*restore.*; invjax BINARY --help'),
            (('swep',), "by one of .*restore.*, got 'swep'; invjax"),
        ):
            errors = io.StringIO()
            with (
                contextlib.redirect_stderr(errors),
                self.assertRaises(SystemExit) as caught,
            ):
                self.run_with(*arguments)
            self.assertEqual(caught.exception.code, 2)
            self.assertRegex(errors.getvalue(), words)
            self.assertEqual(errors.getvalue().count('\n'), 1)


if __name__ == '__main__':
    absltest.main()
