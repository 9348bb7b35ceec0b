"""A process starts once more, with huge pages, and as the same command."""

import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from invjax import huge_pages

# It says each time that it starts; `mode` and `library` are a machine's.
_PROGRAM = """
import os, pathlib, platform, sys
from invjax import huge_pages
huge_pages._MODE = pathlib.Path(sys.argv[1])
platform.libc_ver = lambda: tuple(sys.argv[2].split())
print('started', os.getpid())
if 'FORGET' in os.environ:
    os.environ.pop(huge_pages.VARIABLE, None)
huge_pages.use()
before = huge_pages.environment_without().get(huge_pages.VARIABLE)
print(os.environ.get(huge_pages.VARIABLE), before, sys.argv[3:])
"""


class UseTest(parameterized.TestCase):
    def _run(self, mode, library, given):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = pathlib.Path(folder, 'enabled')
        path.write_text(mode)
        environment = {**huge_pages.environment_without(), **given}
        arguments = [str(path), library, '--out=a b', '']
        done = subprocess.run(
            [sys.executable, '-c', _PROGRAM, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        *starts, last = done.stdout.splitlines()
        self.assertLen(set(starts), 1, 'another process than before')
        self.assertEndsWith(last, "['--out=a b', '']")
        return len(starts), *last.split()[:2]

    @parameterized.parameters(
        ({}, 'glibc.malloc.hugetlb=1', 'None'),
        (
            {huge_pages.VARIABLE: 'glibc.malloc.check=0'},
            'glibc.malloc.check=0:glibc.malloc.hugetlb=1',
            'glibc.malloc.check=0',
        ),
    )
    def test_it_starts_once_more(self, given, now, before):
        actual = self._run('always [madvise] never', 'glibc 2.36', given)
        self.assertEqual(actual, (2, now, before))

    def test_it_starts_but_once_more_where_the_variable_is_lost(self):
        mode, library = 'always [madvise] never', 'glibc 2.36'
        actual = self._run(mode, library, {'FORGET': '1'})
        self.assertEqual(actual, (2, 'None', 'None'))

    @parameterized.parameters(
        ('[always] madvise never', 'glibc 2.36', {}),
        ('always [madvise] never', 'glibc local', {}),
        ('always madvise [never]', 'glibc 2.36', {}),
        ('always [madvise] never', 'glibc 2.34', {}),
        ('always [madvise] never', 'musl 1.2', {}),
        (
            'always [madvise] never',
            'glibc 2.36',
            {huge_pages.VARIABLE: 'glibc.malloc.hugetlb=0'},
        ),
    )
    def test_it_does_not_where_that_would_change_nothing(
        self, mode, library, given
    ):
        starts, now, before = self._run(mode, library, given)
        self.assertEqual(starts, 1)
        expected = given.get(huge_pages.VARIABLE, 'None')
        self.assertEqual((now, before), (expected, expected))


if __name__ == '__main__':
    absltest.main()
