"""The images of a study: those that the flags choose, in their order."""

import contextlib
import io
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from invjax.commandline import studied
from invjax.commandline.flags import Flags

_SHAPE = (8, 8, 3)


class ReadImagesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        # Black is 0 and white is 1.
        self.unit = np.random.default_rng(0).uniform(size=(10, *_SHAPE))
        self.path = pathlib.Path(folder.name) / 'set.npy'
        np.save(self.path, self.unit)

    def read(self, *arguments, **kwargs):
        flags = Flags('A binary.')
        studied.define_images(flags)
        given = flags.parse(['binary', *arguments])
        with contextlib.redirect_stdout(io.StringIO()):
            return studied.read_images(given, _SHAPE, **kwargs)

    def assert_are(self, found, numbers):
        self.assertLen(found, len(numbers))
        for x, number in zip(found, numbers, strict=True):
            np.testing.assert_allclose(x, 2 * self.unit[number] - 1, atol=1e-6)

    def test_the_flags_choose_a_part_and_eight_by_default(self):
        images = f'--images={self.path}'
        self.assert_are(self.read(images), range(8))
        self.assert_are(
            self.read(images, '--first_image=3', '--num_images=2'), [3, 4]
        )

    def test_others_than_those_of_the_flags_are_had_by_their_numbers(self):
        found = self.read(f'--images={self.path}', first=8, number=2)
        self.assert_are(found, [8, 9])

    def test_no_images_are_asked_for_in_a_sentence(self):
        with self.assertRaisesRegex(ValueError, 'give --images, a folder'):
            self.read()


if __name__ == '__main__':
    absltest.main()
