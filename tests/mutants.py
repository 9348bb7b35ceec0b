"""Plant small faults in the library, one at a time, and see what finds them.

    python tests/mutants.py --count=300 --seed=0 --out=out/mutants

A fault is a sign, a factor, a dropped term, a swapped field, key or argument, a
comparison or a condition turned round. The suite runs once under `coverage`,
which says what tests reach each line; then each fault is planted in a copy of
the clone, and those tests run, and the rest of their files if none of them
fails. What survives is listed with its line. Lines of `equivalent.toml` beside
this file are faults that change no result, with the reason.

The same command continues where it was interrupted.
"""

import argparse
import ast
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
_TIMEOUT = 240  # seconds of a run of tests; a fault that hangs is found
_MOST_TESTS = 25  # of those that reach a line, in the first run


class Mutant(NamedTuple):
    """A fault: some text of a file in place of another.

    Attributes:
        path: of the file, from the root.
        line: where it begins, from 1.
        start, end: offsets of the text in the file.
        new: what stands there then.
        kind: of the fault.
    """

    path: str
    line: int
    start: int
    end: int
    new: str
    kind: str

    def name(self, source: str) -> str:
        """A name that outlives changes elsewhere in the file."""
        text = source.splitlines()[self.line - 1].strip()
        parts = (self.path, text, source[self.start : self.end], self.new)
        return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]


_SWAPPED = {
    'alpha_bar_t': 'alpha_bar_s',
    'alpha_bar_s': 'alpha_bar_t',
    'noise_var_t': 'noise_var_s',
    'noise_var_s': 'noise_var_t',
    'forward': 'adjoint',
    'adjoint': 'forward',
    'of_x': 'to_x',
    'to_x': 'of_x',
    'maximum': 'minimum',
    'minimum': 'maximum',
    'argmax': 'argmin',
    'argmin': 'argmax',
    'max': 'min',
    'min': 'max',
    'floor': 'ceil',
    'ceil': 'floor',
    'sum': 'mean',
    'mean': 'sum',
    'cos': 'sin',
    'sin': 'cos',
    'rows': 'columns',
    'columns': 'rows',
    'height': 'width',
    'width': 'height',
}
_DROPPED_CALLS = {'sqrt', 'exp', 'log', 'square', 'abs', 'clip', 'conj'}
_COMPARISONS = {
    ast.Lt: '<=',
    ast.LtE: '<',
    ast.Gt: '>=',
    ast.GtE: '>',
    ast.Eq: '!=',
    ast.NotEq: '==',
    ast.Is: 'is not',
    ast.IsNot: 'is',
    ast.In: 'not in',
    ast.NotIn: 'in',
}
_OPERATORS = {
    ast.Add: '-',
    ast.Sub: '+',
    ast.Mult: '/',
    ast.Div: '*',
    ast.FloorDiv: '*',
    ast.Pow: '*',
    ast.Mod: '+',
}


class _Finder(ast.NodeVisitor):
    """All faults of a file."""

    def __init__(self, path: str, source: str):
        self.path, self.source = path, source
        self.found: list[Mutant] = []
        lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        # AST columns count bytes of UTF-8.
        self._lines = lines

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(text)

    def _span(self, node) -> tuple[int, int]:
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _text(self, node) -> str:
        start, end = self._span(node)
        return self.source[start:end]

    def _add(self, node, new: str, kind: str, span=None):
        start, end = self._span(node) if span is None else span
        if self.source[start:end] != new:
            line = self.source.count('\n', 0, start) + 1
            self.found.append(Mutant(self.path, line, start, end, new, kind))

    def visit_Raise(self, node):
        pass  # Words of a message.

    def visit_JoinedStr(self, node):
        pass

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node):
        names = {t.id for t in node.targets if isinstance(t, ast.Name)}
        # Lists of what to try are choices, of which none is wrong.
        if not names & {'tuning_grid', 'validation_settings', '__all__'}:
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        if node.name in ('__repr__', '_repr_html_'):
            return
        for part in (*node.body, *node.args.defaults):
            self.visit(part)
        for default in node.args.kw_defaults:
            if default is not None:
                self.visit(default)
        # Keys of one split, one in place of the other.
        for statement in ast.walk(node):
            if isinstance(statement, ast.Assign):
                self._swap_keys(statement, node)

    def _swap_keys(self, statement, function):
        (target, *_) = statement.targets
        if not isinstance(target, ast.Tuple):
            return
        names = [e.id for e in target.elts if isinstance(e, ast.Name)]
        keys = [name for name in names if name.startswith('key')]
        if len(keys) < 2:
            return
        for use in ast.walk(function):
            is_use = isinstance(use, ast.Name) and isinstance(use.ctx, ast.Load)
            if is_use and use.id in keys:
                other = keys[(keys.index(use.id) + 1) % len(keys)]
                self._add(use, other, 'wrong key')

    def visit_BinOp(self, node):
        self.generic_visit(node)
        left, right = self._span(node.left), self._span(node.right)
        # With the parentheses around each.
        start, end = self._span(node)
        between = self.source[left[1] : right[0]]
        new = _OPERATORS.get(type(node.op))
        symbol = re.search(r'\*\*|//|[-+*/%]', between)
        if new is None or symbol is None:
            return
        at = left[1] + symbol.start(), left[1] + symbol.end()
        self._add(node, new, 'operator', at)
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            head = self.source[start : left[1] + symbol.start()].rstrip()
            tail = self.source[left[1] + symbol.end() : end].lstrip()
            if isinstance(node.op, ast.Sub):
                tail = f'-({tail})'
            for part in (head, tail):
                if _parses(part):
                    self._add(node, f'({part})', 'dropped term')

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            self._add(node, f'({self._text(node.operand)})', 'sign')

    def visit_Compare(self, node):
        self.generic_visit(node)
        left, right = node.left, node.comparators[0]
        new = _COMPARISONS.get(type(node.ops[0]))
        span = self._span(left)[1], self._span(right)[0]
        between = self.source[span[0] : span[1]]
        symbol = re.search(r'<=|>=|==|!=|<|>|is not|not in|is|in', between)
        if new and symbol:
            at = span[0] + symbol.start(), span[0] + symbol.end()
            self._add(node, new, 'comparison', at)

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        for value in node.values:
            # One condition alone.
            self._add(node, f'({self._text(value)})', 'dropped term')

    def visit_If(self, node):
        self.generic_visit(node)
        if not all(isinstance(s, ast.Raise) for s in node.body):
            self._add(node.test, f'not ({self._text(node.test)})', 'condition')
        else:
            self._add(node.test, 'False', 'check left out')

    def visit_IfExp(self, node):
        self.generic_visit(node)
        self._add(node.test, f'not ({self._text(node.test)})', 'condition')

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self._add(node, str(not value), 'constant')
        elif isinstance(value, int):
            self._add(node, str(value + 1), 'constant')
        elif isinstance(value, float):
            self._add(node, repr(2 * value if value else 1.0), 'constant')

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load) and node.attr in _SWAPPED:
            _, end = self._span(node)
            at = end - len(node.attr), end
            self._add(node, _SWAPPED[node.attr], 'swapped field', at)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load) and node.id in _SWAPPED:
            self._add(node, _SWAPPED[node.id], 'swapped name')

    def visit_Call(self, node):
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ''
        if name == 'fold_in' or (name in _DROPPED_CALLS and node.args):
            self._add(node, f'({self._text(node.args[0])})', 'dropped call')
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._drop(node, keyword)
        plain = [a for a in node.args if not isinstance(a, ast.Starred)]
        if len(plain) >= 2 and len(plain) == len(node.args):
            a, b = (self._text(part) for part in plain[:2])
            span = self._span(plain[0])[0], self._span(plain[1])[1]
            self._add(node, f'{b}, {a}', 'swapped arguments', span)

    def _drop(self, call, keyword):
        start, end = self._span(keyword)
        after = re.match(r'\s*,', self.source[end:])
        if after:
            end += after.end()
        self._add(call, '', 'dropped argument', (start, end))


def _parses(text: str) -> bool:
    try:
        ast.parse(f'({text})', mode='eval')
    except SyntaxError:
        return False
    return True


def find_mutants(path: pathlib.Path) -> list[Mutant]:
    """All faults that can be planted in a file, and that still parse."""
    source = path.read_text()
    finder = _Finder(str(path.relative_to(ROOT)), source)
    finder.visit(ast.parse(source))
    found = []
    for mutant in dict.fromkeys(finder.found):
        try:
            ast.parse(planted(mutant, source))
        except SyntaxError:
            continue
        found.append(mutant)
    return found


def planted(mutant: Mutant, source: str) -> str:
    """The text of a file with the fault in it."""
    return source[: mutant.start] + mutant.new + source[mutant.end :]


def choose(
    mutants: dict[str, list[Mutant]], count: int, seed: int
) -> list[Mutant]:
    """A seeded sample, as many a file as its faults ask, and one at least."""
    rng = random.Random(seed)
    total = sum(map(len, mutants.values()))
    chosen = []
    for path in sorted(mutants):
        number = max(1, round(count * len(mutants[path]) / total))
        number = min(number, len(mutants[path]))
        chosen += rng.sample(sorted(mutants[path]), number)
    rest = sorted(
        {m for found in mutants.values() for m in found} - set(chosen)
    )
    missing = max(0, count - len(chosen))
    return chosen + rng.sample(rest, min(missing, len(rest)))


def measure_coverage(out: pathlib.Path) -> pathlib.Path:
    """Run the suite once, noting what test reaches which line."""
    data = out / 'coverage.sqlite'
    if not data.exists():
        partial = out / 'partial.sqlite'
        subprocess.run(
            [
                *(
                    sys.executable,
                    '-m',
                    'pytest',
                    '-q',
                    '-p',
                    'no:cacheprovider',
                ),
                *('--cov=invjax', '--cov-context=test', '--cov-report='),
                *('-n', '2', '--dist', 'loadscope', '-m', 'not slow'),
            ],
            cwd=ROOT,
            env={**os.environ, 'COVERAGE_FILE': str(partial)},
            check=False,
        )
        os.replace(partial, data)
    return data


def covering_tests(data: pathlib.Path) -> dict[tuple[str, int], list[str]]:
    """Path and line to the tests that reach it, as pytest names them."""
    from coverage.numbits import numbits_to_nums

    found = collections.defaultdict(set)
    with sqlite3.connect(data) as database:
        rows = database.execute(
            'select file.path, context.context, line_bits.numbits from line_bits '
            'join file on file.id = line_bits.file_id '
            'join context on context.id = line_bits.context_id'
        )
        for path, context, bits in rows:
            test, _, phase = context.partition('|')
            try:
                relative = str(pathlib.Path(path).relative_to(ROOT))
            except ValueError:
                continue
            for line in numbits_to_nums(bits):
                if phase:
                    found[relative, line].add(test)
    return {place: sorted(tests) for place, tests in found.items()}


def _run_tests(folder: pathlib.Path, tests: list[str]) -> str:
    """`killed`, `survived` or `killed by time`."""
    environment = {
        **os.environ,
        'PYTHONPATH': str(folder),
        'PYTHONDONTWRITEBYTECODE': '1',
        'OPENBLAS_NUM_THREADS': '1',
    }
    command = [
        *(sys.executable, '-m', 'pytest', '-x', '-q', '--no-header'),
        *('-p', 'no:cacheprovider', '-m', 'not slow'),
    ]
    with subprocess.Popen(
        [*command, *tests],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            status = process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return 'killed by time'
    # 5: no test was collected.
    return 'survived' if status in (0, 5) else 'killed'


def judge(mutant: Mutant, tests: list[str], folder: pathlib.Path) -> str:
    """Plant a fault in a copy of the clone, and run what may find it."""
    if not tests:
        return 'not reached'
    path = folder / mutant.path
    source = (ROOT / mutant.path).read_text()
    path.write_text(planted(mutant, source))
    try:
        outcome = _run_tests(folder, tests[:_MOST_TESTS])
        files = sorted({test.partition('::')[0] for test in tests})
        if outcome == 'survived':
            # A program that one test has compiled serves the next, which then
            # is not seen to reach the line.
            outcome = _run_tests(folder, files)
    finally:
        path.write_text(source)
    return outcome


def _copy_of_clone(folder: pathlib.Path) -> pathlib.Path:
    ignored = shutil.ignore_patterns('.git', '.venv', 'out', '.jax_cache')
    shutil.copytree(ROOT, folder / 'clone', ignore=ignored)
    return folder / 'clone'


def equivalents() -> dict[str, str]:
    """Names of faults that change no result, and why."""
    path = ROOT / 'tests' / 'equivalent.toml'
    entries = tomllib.loads(path.read_text()) if path.is_file() else {}
    return {e['name']: e['reason'] for e in entries.get('mutant', ())}


def report(rows: list[dict], known: dict[str, str]) -> list[str]:
    """Counts by file, then what survived."""
    for row in rows:
        if (
            row['outcome'] in ('survived', 'not reached')
            and row['name'] in known
        ):
            row['outcome'] = 'equivalent'
    counts = collections.defaultdict(collections.Counter)
    for row in rows:
        kind = 'killed' if row['outcome'].startswith('killed') else 'survived'
        kind = 'equivalent' if row['outcome'] == 'equivalent' else kind
        counts[row['path']][kind] += 1
        counts['all'][kind] += 1
    lines = [
        '| file | faults | killed | equivalent | survived |',
        '| --- ' * 5 + '|',
    ]
    for path in sorted(counts, key=lambda p: (p == 'all', p)):
        c = counts[path]
        lines.append(
            f'| `{path}` | {sum(c.values())} | {c["killed"]} '
            f'| {c["equivalent"]} | {c["survived"]} |'
        )
    total = counts['all']
    judged = total['killed'] + total['survived']
    if judged:
        lines += [
            '',
            f'{total["killed"] / judged:.1%} of the faults that are not '
            'equivalent were found.',
        ]
    lines += ['', 'Survivors:', '']
    for row in rows:
        if row['outcome'] in ('survived', 'not reached'):
            lines.append(
                f'- {row["name"]} `{row["path"]}:{row["line"]}` {row["kind"]}, '
                f'{row["outcome"]}: `{row["old"]}` -> `{row["new"]}` in '
                f'`{row["text"]}`'
            )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help='a part of a path')
    parser.add_argument('--workers', type=int, default=os.cpu_count())
    parser.add_argument(
        '--out', type=pathlib.Path, default=ROOT / 'out/mutants'
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    mutants = {
        str(path.relative_to(ROOT)): found
        for path in sorted((ROOT / 'invjax').rglob('*.py'))
        if given.only in str(path) and (found := find_mutants(path))
    }
    chosen = choose(mutants, given.count, given.seed)
    print(f'{len(chosen)} of {sum(map(len, mutants.values()))} faults.')
    tests = covering_tests(measure_coverage(given.out))
    kept = given.out / 'rows.jsonl'
    lines = kept.read_text().splitlines() if kept.is_file() else []
    rows = {row['name']: row for row in map(json.loads, lines)}
    lock = threading.Lock()
    local = threading.local()
    with (
        tempfile.TemporaryDirectory() as name,
        concurrent.futures.ThreadPoolExecutor(given.workers) as pool,
    ):

        def one(mutant):
            source = (ROOT / mutant.path).read_text()
            if mutant.name(source) in rows:
                return
            if not hasattr(local, 'folder'):
                place = pathlib.Path(name) / str(threading.get_ident())
                local.folder = _copy_of_clone(place)
            found = tests.get((mutant.path, mutant.line), [])
            row = {
                'name': mutant.name(source),
                'path': mutant.path,
                'line': mutant.line,
                'kind': mutant.kind,
                'old': source[mutant.start : mutant.end],
                'new': mutant.new,
                'text': source.splitlines()[mutant.line - 1].strip(),
                'outcome': judge(mutant, found, local.folder),
            }
            with lock, kept.open('a') as file:
                file.write(json.dumps(row) + '\n')
                rows[row['name']] = row
            print(
                f'{row["outcome"]:<14} {row["path"]}:{row["line"]} '
                f'{row["kind"]}',
                flush=True,
            )

        list(pool.map(one, chosen))
    names = {m.name((ROOT / m.path).read_text()) for m in chosen}
    lines = report([r for n, r in rows.items() if n in names], equivalents())
    (given.out / 'mutants.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
