"""`invjax BINARY --flag=...`: the binaries of `experiments/` as subcommands."""

import importlib
import pkgutil
import sys

from invjax.commandline.program import run
from invjax.compiled import find_without_tracing


def main() -> None:
    """Run the binary that the first argument names."""
    import invjax.experiments

    # What runs in another environment is no command.
    names = [
        module.name
        for module in pkgutil.iter_modules(invjax.experiments.__path__)
        if not module.name.startswith('_')
    ]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        given = f', got {sys.argv[1]!r}' if len(sys.argv) > 1 else ''
        print(
            f'error: invjax must be followed by one of {", ".join(names)}'
            f'{given}; invjax BINARY --help shows its flags.',
            file=sys.stderr,
        )
        sys.exit(2)
    if sys.argv[1] in ('demo', 'restore'):
        find_without_tracing()
    binary = importlib.import_module(f'invjax.experiments.{sys.argv[1]}')
    run(
        binary.main,
        binary.FLAGS,
        sys.argv[1:],
        getattr(binary, 'needs_huge_pages', None),
    )


if __name__ == '__main__':
    main()
