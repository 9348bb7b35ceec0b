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


def _groups(
    rows: Sequence[Mapping],
) -> dict[tuple[str, int], dict[str, float]]:
    """Network and batch to the seconds of an image, by the kind of step."""
    groups: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault((row['network'], row['batch']), {})
        group[row['what']] = row['seconds_per_image']
    return groups
