"""Tables, curves and the verdict from the folders of finished sweeps.

    python -m experiments.report --results=DIR,DIR,DIR --out=report

Writes `report.md`, a figure of curves a metric, and one of what choices without
the truth cost. Measurements that were made in several ways, and several priors,
have a table each.
"""

from invjax.commandline import record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import sweeps as figures
from invjax.study import cells, sweeps

FLAGS = Flags(__doc__)
FLAGS.strings('results', [], 'Folders that sweeps wrote.')
FLAGS.string('out', None, 'Folder for the report; by default a new one.')


def main(given):
    if not given.results:
        raise ValueError('give --results, folders that sweeps wrote.')
    by_folder = {name: cells.read(name) for name in given.results}
    for name, of_folder in by_folder.items():
        if not of_folder:
            raise ValueError(f'{name}, of --results, has no cells.')
    found = [cell for of_folder in by_folder.values() for cell in of_folder]
    found, sentences = sweeps.complete(sweeps.tell_apart(found))
    out = record.make_folder(given.out, 'report')
    record.say_if_replaced(out, 'report.md')
    lines = sweeps.report(found)
    (out / 'report.md').write_text('\n'.join(lines) + '\n')
    figures.curves(out, found)
    tasks = sorted({cell['protocol']['task'] for cell in found})
    losses = sweeps.losses(tasks, found)
    if losses:
        figures.losses(out, losses)
    print('\n'.join([*sentences, *lines]))
    print(f'written: {out}/report.md and the curves beside it')


if __name__ == '__main__':
    run(main, FLAGS)
