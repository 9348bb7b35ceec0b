"""What a benchmark measured, as tables."""

from collections.abc import Mapping, Sequence

from invjax.benchmarking import Measured


def table(measured: Measured) -> list[str]:
    """All of it, in Markdown."""
    lines = [
        f'Ceiling: {measured.ceiling / 1e9:.0f} GFLOP/s on '
        f'{measured.device}, {measured.dtype}.',
        '',
        '| network | batch | what | ms an image | fraction of ceiling | '
        'first call, s | peer, ms | ours / peer |',
        '| --- ' * 8 + '|',
    ]
    for row in measured.rows:
        of_peer = '| |'
        if 'ratio' in row:
            milliseconds = 1000 * row['peer_seconds_per_image']
            of_peer = f'{milliseconds:.1f} | {row["ratio"]:.2f} |'
        lines.append(
            f'| {row["network"]} | {row["batch"]} | {row["what"]} '
            f'| {1000 * row["seconds_per_image"]:.1f} '
            f'| {row["share_of_ceiling"]:.0%} '
            f'| {row["first_call_seconds"]:.1f} | {of_peer}'
        )
    lines += ['', '| | |', '| --- | --- |']
    for (network, batch), group in _groups(measured.rows).items():
        if 'unconditional step' not in group:
            continue
        inside = group['unconditional step'] / group['forward'] - 1
        against = group['DPS step'] / group['bare DPS step']
        lines += [
            f'| {network}, batch {batch}: sampler beyond the network '
            f'| {inside:.1%} |',
            f'| {network}, batch {batch}: DPS step in the sampler / bare '
            f'| {against:.2f} |',
        ]
    return lines + [f'| {name} | {value} |' for name, value in measured.others]


def accelerator_table(
    rows: Sequence[Mapping], device: str, peak_words: str
) -> list[str]:
    """What `accelerating.measure` gave, in Markdown.

    Args:
        rows: of it.
        device: what kind it is.
        peak_words: of the data sheet's peak, or that it is not known.
    """
    theirs = {
        (*_key(row), row['mode']): row['ms_per_image']
        for row in rows
        if row['part'] == 'PyTorch' and 'ms_per_image' in row
    }
    lines = [
        f'{device}; {peak_words}.',
        '',
        '| network | batch | precision | what | ms an image | TFLOP/s | share '
        'of peak | GiB | compile, s | ours / eager | ours / compiled |',
        '| --- ' * 11 + '|',
    ]
    for row in rows:
        if row['part'] != 'networks' or 'left_out' in row:
            continue
        share = row.get('share_of_peak')
        ratios = [
            theirs.get((*_key(row), mode))
            for mode in ('eager', 'torch.compile')
        ]
        cells = [
            *_labels(row),
            f'{row["ms_per_image"]:.2f}',
            f'{row["tflops_per_second"]:.3g}',
            '' if share is None else f'{share:.0%}',
            f'{row["gib"]:.2f}',
            f'{row["compile_seconds"]:.1f}',
            *(
                '' if r is None else f'{row["ms_per_image"] / r:.2f}'
                for r in ratios
            ),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    lines += [
        '',
        '| network | lanes | precision | what | s a lane | first call, s |',
        '| --- ' * 6 + '|',
    ]
    for row in rows:
        if 'seconds_per_image' in row:
            of_steps = row.get('of_steps')
            words = '' if of_steps is None else f', by {of_steps} of them'
            cells = [
                *_labels({**row, 'what': row['what'] + words}),
                f'{row["seconds_per_image"]:.3f}',
                f'{row["first_call_seconds"]:.1f}',
            ]
            lines.append(f'| {" | ".join(cells)} |')
    lines += [
        f'- left out: {row["part"]}'
        + ''.join(f', {row[n]}' for n in (*_LABELS, 'mode') if n in row)
        + f': {row["left_out"].removesuffix(".")}.'
        for row in rows
        if 'left_out' in row
    ]
    return lines


_LABELS = ('network', 'batch', 'precision', 'what')


def _labels(row: Mapping) -> list[str]:
    return [str(row[name]) for name in _LABELS]


def _key(row: Mapping) -> tuple:
    """By which a row of PyTorch goes with one of ours."""
    kind = {'DPS step': 'gradient'}.get(row['what'], row['what'])
    return row['network'], row['batch'], row['precision'], kind


def _groups(
    rows: Sequence[Mapping],
) -> dict[tuple[str, int], dict[str, float]]:
    """Network and batch to the seconds of an image, by the kind of step."""
    groups: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault((row['network'], row['batch']), {})
        group[row['what']] = row['seconds_per_image']
    return groups
