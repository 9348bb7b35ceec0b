"""Plant small faults in the library, one at a time, and see what finds them.

    python tests/mutants.py --count=300 --seed=0 --out=out/mutants
    python tests/mutants.py --planted --out=out/planted

A fault is a sign, a factor, a dropped term, a swapped field, key or argument, a
comparison or a condition turned round. Each is planted in a copy of the clone,
and the test files run that import its module, its namesake first and then by
the number of imports in between, until a test fails or `--seconds` of the
processor are spent. What survives is listed with its line. At the end all tests
that found a fault run without one: a kill by a test that fails there is none.

`--planted` takes the faults of `planted.toml` beside this file instead of a
sample. Lines of `equivalent.toml` are faults that change no result, with the
reason. The same command continues where it was interrupted; `--again` judges
survivors anew.
"""

import argparse
import ast
import collections
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Seconds of the processor after which a single test counts as hanging, on top
# of those that all tests of a fault may take together, and of the clock.
_HANG = 200
_WAIT = 1500


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
        lines = source.splitlines()
        text = lines[self.line - 1].strip()
        # The same line may stand in a file twice, and a text twice in a line.
        which = sum(line.strip() == text for line in lines[: self.line - 1])
        column = self.start - source.rfind(text, 0, self.start + len(text))
        parts = (
            *(self.path, text, str(which), str(column)),
            *(source[self.start : self.end], self.new),
        )
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
    """All faults that can be planted in a file, also some that do not parse."""
    source = path.read_text()
    finder = _Finder(str(path.relative_to(ROOT)), source)
    finder.visit(ast.parse(source))
    return list(dict.fromkeys(finder.found))


def _can_be_planted(mutant: Mutant) -> bool:
    try:
        ast.parse(planted(mutant, (ROOT / mutant.path).read_text()))
    except SyntaxError:
        return False
    return True


def planted(mutant: Mutant, source: str) -> str:
    """The text of a file with the fault in it."""
    return source[: mutant.start] + mutant.new + source[mutant.end :]


def choose(
    mutants: dict[str, list[Mutant]], count: int, seed: int
) -> list[Mutant]:
    """A seeded sample in random order: one fault of each file, then of all."""
    rng = random.Random(seed)
    orders = {
        path: rng.sample(found, len(found))
        for path, found in sorted(mutants.items())
    }
    firsts = [
        next(filter(_can_be_planted, order), None) for order in orders.values()
    ]
    chosen = [first for first in firsts if first is not None]
    rest = [m for order in orders.values() for m in order if m not in chosen]
    rng.shuffle(rest)
    for mutant in filter(_can_be_planted, rest):
        if len(chosen) >= count:
            break
        chosen.append(mutant)
    rng.shuffle(chosen)
    return chosen


def planted_by_hand() -> dict[Mutant, str]:
    """The faults of `planted.toml`, and what each is."""
    text = (ROOT / 'tests' / 'planted.toml').read_text()
    found = {}
    for entry in tomllib.loads(text)['fault']:
        source = (ROOT / entry['path']).read_text()
        if source.count(entry['old']) != 1:
            raise SystemExit(
                f'{entry["path"]} must have the text of the fault '
                f'{entry["what"]!r} once, and has it '
                f'{source.count(entry["old"])} times: {entry["old"]!r}.'
            )
        start = source.index(entry['old'])
        mutant = Mutant(
            entry['path'],
            source.count('\n', 0, start) + 1,
            start,
            start + len(entry['old']),
            entry['new'],
            entry['what'],
        )
        found[mutant] = entry['what']
    return found


def _module(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def _imports() -> dict[str, set[str]]:
    """Module of the clone to the modules of the clone that it imports."""
    folders = ('invjax', 'experiments', 'tests')
    files = [p for f in folders for p in sorted((ROOT / f).rglob('*.py'))]
    known = {_module(path): path for path in files}
    found = {}
    for module, path in known.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ''
                if node.level:
                    parents = module.split('.')
                    if path.name != '__init__.py':
                        parents = parents[:-1]
                    parents = parents[: len(parents) - node.level + 1]
                    base = '.'.join([*parents, *filter(None, [base])])
                for alias in node.names:
                    inner = f'{base}.{alias.name}'
                    names.add(inner if inner in known else base)
        found[module] = (names & known.keys()) - {module}
    return found


@functools.cache
def _text(file: str) -> str:
    return (ROOT / file).read_text()


def test_files(path: str, words: dict[str, int]) -> list[str]:
    """Test files that import a module, the nearest first."""
    imports = _imports()
    users = collections.defaultdict(set)
    for module, names in imports.items():
        for name in names:
            users[name].add(module)
    distance = {_module(ROOT / path): 0}
    queue = collections.deque(distance)
    while queue:
        module = queue.popleft()
        for user in users[module] - distance.keys():
            distance[user] = distance[module] + 1
            queue.append(user)
    # `study/verdict.py` has `study/verdict_test.py`.
    inside = pathlib.Path(path).relative_to('invjax').with_suffix('')
    namesake = f'tests/{inside}_test.py'
    files = {}
    for module, far in distance.items():
        file = module.replace('.', '/') + '.py'
        if file.endswith('_test.py'):
            text = _text(file)
            # What tests each method or operator finds them in a list.
            if re.search('contract|properties', file):
                far = min(far, 1)
            near = _nearness(text, words)
            files[file] = (file != namesake, near, far, len(text), file)
    if (ROOT / namesake).is_file():
        files.setdefault(namesake, (False, 0, 0, 0, namesake))
    return sorted(files, key=files.get)


def words_of(path: str, line: int) -> dict[str, int]:
    """Names by which a test may call on a line of a module.

    Returns:
        Those of the function or class that the line belongs to, 0, of what
        uses these in the module, 1, and so on.
    """
    tree = ast.parse((ROOT / path).read_text())
    uses = {}  # name of a statement to the names in it
    found = {pathlib.Path(path).stem: 4}
    for node in tree.body:
        names = [getattr(node, 'name', None)]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = getattr(node, 'targets', None) or [node.target]
            names = [getattr(target, 'id', None) for target in targets]
        inner = list(ast.walk(node))
        if node.lineno <= line <= node.end_lineno:
            names += [
                n.name
                for n in inner
                if isinstance(n, ast.FunctionDef)
                and n.lineno <= line <= n.end_lineno
                and not n.name.startswith('__')
            ]
            found |= dict.fromkeys(filter(None, names), 0)
        inside = {n.id for n in inner if isinstance(n, ast.Name)}
        inside |= {n.attr for n in inner if isinstance(n, ast.Attribute)}
        uses |= dict.fromkeys(filter(None, names), inside)
    for depth in (1, 2, 3):
        users = [n for n, inside in uses.items() if inside & found.keys()]
        for name in users:
            found.setdefault(name, depth)
    return found


@functools.cache
def _words_in(text: str) -> frozenset[str]:
    return frozenset(re.findall(r'\w+', text))


def _nearness(text: str, words: dict[str, int]) -> int:
    return min((words[w] for w in words.keys() & _words_in(text)), default=9)


class _Recorder:
    """What happened, as a plugin of pytest's, which writes it into a file.

    Tests that name what has the fault come first, and after so many seconds of
    the processor no other test begins.
    """

    def __init__(
        self, file: pathlib.Path, words: dict[str, int], seconds: float
    ):
        self.file, self.words, self.seconds = file, words, seconds
        self.found = {'failed': [], 'passed': 0, 'ended': False}

    def pytest_collectreport(self, report):
        if report.failed:
            self.found['failed'].append(report.nodeid)

    def pytest_collection_modifyitems(self, items):
        files = list(dict.fromkeys(item.path for item in items))
        of_tests, of_classes = {}, {}
        for file in files:
            text = file.read_text()
            body = ast.parse(text).body
            # Programs that a test begins cost seconds each.
            slow = {'subprocess'} | {
                node.name
                for node in body
                if isinstance(node, ast.FunctionDef)
                and 'subprocess' in ast.get_source_segment(text, node)
            }
            for group in body:
                if not isinstance(group, ast.ClassDef):
                    continue
                of_classes[file, group.name] = 5 + _nearness(
                    ast.get_source_segment(text, group), self.words
                )
                for test in group.body:
                    if isinstance(test, ast.FunctionDef):
                        segment = ast.get_source_segment(text, test)
                        near = _nearness(segment, self.words)
                        if slow & _words_in(segment):
                            near += 30
                        of_tests[file, group.name, test.name] = near

        def nearness(item):
            group = getattr(item.cls, '__name__', '')
            # Parameters stand behind a test's name.
            found = [
                near
                for (file, cls, test), near in of_tests.items()
                if (file, cls) == (item.path, group)
                and item.name.startswith(test)
            ]
            if re.search(rf'_{next(iter(self.words))}\d*$', item.name):
                found.append(0)
            of_class = of_classes.get((item.path, group), 20)
            return (
                max(found)
                if max(found, default=0) > 30
                else min([*found, of_class])
            )

        near = {item: nearness(item) for item in items}
        best = {}  # A class stays together, for what it sets up once.
        for item in items:
            group = item.path, item.cls
            best[group] = min(best.get(group, 99), near[item])
        order = {group: i for i, group in enumerate(best)}
        # All of a namesake is about the module, by whatever names.
        namesake = f'{next(iter(self.words))}_test.py'
        items.sort(
            key=lambda item: (
                item.path.name != namesake,
                best[item.path, item.cls],
                order[item.path, item.cls],
                near[item],
            )
        )

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.found['failed'].append(report.nodeid)
        elif report.when == 'call' and report.passed:
            self.found['passed'] += 1

    def pytest_runtest_teardown(self, item):
        of_programs = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = of_programs.ru_utime + of_programs.ru_stime
        if time.process_time() + spent > self.seconds:
            item.session.shouldstop = 'The seconds are spent.'

    def pytest_sessionfinish(self):
        self.found['ended'] = True
        self.file.write_text(json.dumps(self.found))


def _load_packages():
    """What takes seconds to import, once for all runs, and none of ours."""
    import absl.testing.parameterized  # noqa: F401
    import dm_pix  # noqa: F401
    import flax.linen  # noqa: F401
    import grain  # noqa: F401
    import hypothesis  # noqa: F401
    import jinja2  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import PIL.Image  # noqa: F401
    import pytest  # noqa: F401
    import scipy.ndimage
    import scipy.signal  # noqa: F401
    import tifffile  # noqa: F401

    if any(name.partition('.')[0] == 'invjax' for name in sys.modules):
        raise SystemExit('invjax was imported before a fault was planted.')


class _Run(NamedTuple):
    """A process that tests a fault in a copy of the clone."""

    pid: int
    start: float
    file: pathlib.Path


def _begin(
    folder: pathlib.Path,
    tests: list[str],
    words: dict[str, int],
    seconds: float,
    stop: bool,
) -> _Run:
    """Fork a process that has the packages, and run tests in a copy."""
    file = folder.parent / 'found.json'
    file.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return _Run(pid, time.monotonic(), file)
    status = 97
    try:
        os.setsid()
        output = os.open(
            folder.parent / 'output.txt',
            os.O_CREAT | os.O_TRUNC | os.O_WRONLY,
            0o644,
        )
        os.dup2(output, 1)
        os.dup2(output, 2)
        limit = int(seconds + time.process_time()) + _HANG
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        os.chdir(folder)
        os.environ['PYTHONPATH'] = str(folder)
        sys.path[0] = str(folder)
        import pytest

        options = ['-q', '--no-header', '-p', 'no:cacheprovider', '--tb=line']
        # The packages that are there already are not rewritten, and need not be.
        options += ['-W', 'ignore::pytest.PytestAssertRewriteWarning']
        options += [
            '-p',
            'no:cov',
            '-p',
            'no:xdist',
            '-m',
            'not slow and not wheel',
        ]
        recorder = _Recorder(file, words, seconds)
        pytest.main([*options, *['-x'] * stop, *tests], plugins=[recorder])
        ours = sys.modules.get('invjax')
        where = getattr(ours, '__file__', None) or str(folder)
        status = 0 if pathlib.Path(where).is_relative_to(folder) else 98
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _outcome(run: _Run, status: int, folder: pathlib.Path) -> dict:
    """Of a process that has ended: `killed` or `survived`, and by what."""
    found = {'failed': [], 'passed': 0, 'ended': False}
    if run.file.is_file():
        found = json.loads(run.file.read_text())
    code = os.waitstatus_to_exitcode(status)
    if code in (97, 98):
        raise SystemExit(
            f'The run in {folder} did not test the copy:\n'
            + (folder.parent / 'output.txt').read_text()[-2000:]
        )
    if found['failed']:
        outcome, by = 'killed', found['failed'][0]
    elif found['ended']:
        outcome, by = 'survived', ''
    elif code in (-signal.SIGXCPU, -signal.SIGKILL):
        outcome, by = 'killed by time', ''
    else:
        outcome, by = 'killed', f'the process, which ended with {code}'
    return {'outcome': outcome, 'by': by, 'passed': found['passed']}


def _copy_of_clone(folder: pathlib.Path) -> pathlib.Path:
    ignored = shutil.ignore_patterns('.git', '.venv', 'out', '.*_cache')
    shutil.copytree(ROOT, folder / 'clone', ignore=ignored)
    return folder / 'clone'


def _place(mutant: Mutant | None, folder: pathlib.Path, number: int):
    """Plant a fault in a copy, at a time that no kept bytecode has."""
    path = folder / mutant.path
    path.write_text(planted(mutant, (ROOT / mutant.path).read_text()))
    os.utime(path, (10**9 + number, 10**9 + number))


def run_all(mutants: list[Mutant], given, keep) -> None:
    """Test each fault, some at a time, and hand over what came of it."""
    waiting = collections.deque(enumerate(mutants))
    with tempfile.TemporaryDirectory() as name:
        free = [
            _copy_of_clone(pathlib.Path(name) / str(i))
            for i in range(min(given.workers, len(mutants)))
        ]
        running = {}
        while waiting or running:
            while waiting and free:
                number, mutant = waiting.popleft()
                folder = free.pop()
                _place(mutant, folder, number)
                words = words_of(mutant.path, mutant.line)
                tests = test_files(mutant.path, words)[: given.files]
                run = _begin(folder, tests, words, given.seconds, stop=True)
                running[run.pid] = run, mutant, folder
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(0.05)
                for run, *_ in running.values():
                    if time.monotonic() - run.start > _WAIT:
                        os.killpg(run.pid, signal.SIGKILL)
                continue
            if pid not in running:
                continue
            run, mutant, folder = running.pop(pid)
            row = _outcome(run, status, folder)
            row['seconds'] = round(usage.ru_utime + usage.ru_stime, 1)
            # What it has left running of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            shutil.copy2(ROOT / mutant.path, folder / mutant.path)
            free.append(folder)
            keep(mutant, row)


def failing_without_fault(tests: list[str]) -> set[str]:
    """Those of some tests that fail where no fault is planted."""
    if not tests:
        return set()
    with tempfile.TemporaryDirectory() as name:
        folder = _copy_of_clone(pathlib.Path(name))
        run = _begin(folder, tests, {'': 0}, 10**6, stop=False)
        os.waitpid(run.pid, 0)
        if not run.file.is_file():
            raise SystemExit('The tests without a fault did not end.')
        return set(json.loads(run.file.read_text())['failed'])


def equivalents() -> dict[str, str]:
    """Names of faults that change no result, and why."""
    path = ROOT / 'tests' / 'equivalent.toml'
    entries = tomllib.loads(path.read_text()) if path.is_file() else {}
    return {e['name']: e['reason'] for e in entries.get('mutant', ())}


def report(rows: list[dict], known: dict[str, str]) -> list[str]:
    """Counts by folder, then what survived."""
    counts = collections.defaultdict(collections.Counter)
    survivors = []
    for row in rows:
        kind = row['outcome'].partition(' ')[0]
        if kind == 'survived' and row['name'] in known:
            kind = 'equivalent'
        elif kind == 'survived':
            survivors.append(row)
        for place in (str(pathlib.Path(row['path']).parent), 'all'):
            counts[place][kind] += 1
    lines = [
        '| folder | faults | killed | equivalent | survived |',
        '| --- ' * 5 + '|',
    ]
    for place in sorted(counts, key=lambda p: (p == 'all', p)):
        c = counts[place]
        lines.append(
            f'| `{place}` | {c.total()} | {c["killed"]} '
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
    for row in survivors:
        lines.append(
            f'- {row["name"]} `{row["path"]}:{row["line"]}` {row["kind"]}, '
            f'after {row["passed"]} tests: `{row["old"]}` -> `{row["new"]}` in '
            f'`{row["text"]}`'
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help='a part of a path')
    parser.add_argument('--planted', action='store_true')
    parser.add_argument('--again', action='store_true')
    parser.add_argument('--workers', type=int, default=os.cpu_count())
    parser.add_argument(
        '--seconds', type=float, default=60, help='of the processor, a fault'
    )
    parser.add_argument(
        '--files', type=int, default=12, help='of tests, a fault'
    )
    parser.add_argument(
        '--out', type=pathlib.Path, default=ROOT / 'out/mutants'
    )
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.planted:
        chosen = list(planted_by_hand())
    else:
        mutants = {
            str(path.relative_to(ROOT)): found
            for path in sorted((ROOT / 'invjax').rglob('*.py'))
            if given.only in str(path) and (found := find_mutants(path))
        }
        print(
            f'{sum(map(len, mutants.values()))} faults to choose from.',
            flush=True,
        )
        chosen = choose(mutants, given.count, given.seed)
    # Read at the first import: what is compiled once serves all faults.
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(out / 'compiled')
    os.environ['JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    os.environ['OPENBLAS_NUM_THREADS'] = '1'
    os.environ['MPLBACKEND'] = 'agg'
    _load_packages()
    kept = out / 'rows.jsonl'
    lines = kept.read_text().splitlines() if kept.is_file() else []
    rows = {row['name']: row for row in map(json.loads, lines)}
    known = equivalents()

    def name(mutant):
        return mutant.name((ROOT / mutant.path).read_text())

    def keep(mutant, row):
        source = (ROOT / mutant.path).read_text()
        row = {
            'name': name(mutant),
            'path': mutant.path,
            'line': mutant.line,
            'kind': mutant.kind,
            'old': source[mutant.start : mutant.end],
            'new': mutant.new,
            'text': source.splitlines()[mutant.line - 1].strip(),
            **row,
        }
        rows[row['name']] = row
        with kept.open('a') as file:
            file.write(json.dumps(row) + '\n')
        print(
            f'{row["outcome"]} {row["path"]}:{row["line"]} {row["kind"]}, '
            f'{row["seconds"]} s, {row["by"] or row["passed"]}',
            flush=True,
        )

    def judged(mutant):
        row = rows.get(name(mutant))
        if row is None:
            return False
        survived = row['outcome'] == 'survived' and row['name'] not in known
        return not (survived and given.again)

    run_all([m for m in chosen if not judged(m)], given, keep)
    found = [rows[n] for n in dict.fromkeys(map(name, chosen))]
    unsound = failing_without_fault(
        sorted({row['by'] for row in found if '.py::' in row['by']})
    )
    for row in found:
        if row['by'] in unsound:
            print(f'Fails without a fault too: {row["by"]}')
            row |= {'outcome': 'survived', 'by': ''}
            with kept.open('a') as file:
                file.write(json.dumps(row) + '\n')
    lines = report(found, known)
    (out / 'mutants.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
