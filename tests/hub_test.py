"""Files of the hub, where the hub is a folder."""

import pathlib
from unittest import mock

import huggingface_hub
from absl.testing import absltest, parameterized

from invjax import hub


class FolderTest(parameterized.TestCase):
    @parameterized.parameters(
        (['config.json'],),
        (['unet/config.json'],),
        (['config.json', 'unet/deep/weights.bin'],),
        (['unet/deep/weights.bin', 'config.json'],),
    )
    def test_it_is_the_one_that_the_names_begin_at(self, names):
        with mock.patch.object(
            huggingface_hub,
            'hf_hub_download',
            lambda repository, name: f'/cache/{repository}/revision/{name}',
        ):
            found = hub._download('owner/name', names)
        self.assertEqual(
            pathlib.Path(found), pathlib.Path('/cache/owner/name/revision')
        )


if __name__ == '__main__':
    absltest.main()
