"""Records: strict JSON whatever is in them, and the folders that they are in."""

import contextlib
import io
import json
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from invjax.commandline import record


class RecordTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_what_json_cannot_hold_is_null_and_the_rest_as_it_was(self):
        data = {
            'nan': np.nan,
            'inf': [np.float32(np.inf), -np.inf],
            'array': jnp.array([1.5, jnp.nan]),
            'count': np.int64(3),
            'yes': np.bool_(True),
            'text': 'NaN',
        }
        path = self.folder / 'record.json'
        record.write_json(path, data)

        def refuse(constant):
            raise AssertionError(f'{constant} is not strict JSON')

        found = json.loads(path.read_text(), parse_constant=refuse)
        self.assertEqual(
            found,
            {
                'nan': None,
                'inf': [None, None],
                'array': [1.5, None],
                'count': 3,
                'yes': True,
                'text': 'NaN',
            },
        )
        self.assertEqual([p.name for p in self.folder.iterdir()], [path.name])

    def test_a_folder_that_cannot_be_written_is_named(self):
        with self.assertRaisesRegex(ValueError, "got '/dev/null/out'"):
            record.make_folder('/dev/null/out', 'restore')

    def test_a_folder_is_made_with_those_above_it_and_left_empty(self):
        made = record.make_folder(str(self.folder / 'a/b/c'), 'restore')
        self.assertEqual(made, self.folder / 'a/b/c')
        self.assertEqual([*made.iterdir()], [])

    def test_only_what_is_there_is_said_to_be_replaced(self):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            record.say_if_replaced(self.folder, 'sheet.png', 'result.json')
            self.assertEqual(said.getvalue(), '')
            (self.folder / 'sheet.png').touch()
            record.say_if_replaced(self.folder, 'sheet.png', 'result.json')
        self.assertEqual(
            said.getvalue(),
            f'{self.folder} has sheet.png, which will be replaced.\n',
        )


if __name__ == '__main__':
    absltest.main()
