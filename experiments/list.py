"""The methods, tasks and priors that there are, with a line on each.

python -m experiments.list
"""

import sys

from invjax import docstrings
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.methods import METHODS
from invjax.operators import OPERATORS
from invjax.priors import checkpoint

FLAGS = Flags(__doc__)


def main(given):
    del given
    tables = {
        'methods': {
            name: docstrings.first_line(sys.modules[cls.__module__].__doc__)
            for name, cls in METHODS.items()
        },
        'tasks': {
            name: docstrings.first_line(factory.__doc__)
            for name, factory in OPERATORS.items()
        },
        'priors': {
            name: known.note for name, known in checkpoint.KNOWN_PRIORS.items()
        },
    }
    for title, rows in tables.items():
        print(f'{title}:')
        for name, words in rows.items():
            print(f'  {name:<20} {words}')


if __name__ == '__main__':
    run(main, FLAGS)
