"""Tables, curves and the verdict from the folders of finished sweeps.

    python -m experiments.report --results=DIR,DIR,DIR --out=report

Each folder has the cells of one task. Writes `report.md`, a figure of curves a
metric, and one of what choices without the truth cost.
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
    found = [cell for name in given.results for cell in cells.read(name)]
    if not found:
        raise ValueError(f'{", ".join(given.results)} have no cells.')
    out = record.make_folder(given.out, 'report')
    record.say_if_replaced(out, 'report.md')
    found, sentences = sweeps.complete(found)
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
