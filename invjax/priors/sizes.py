"""Which sizes of images a network can have."""


def divisor(network) -> int:
    """What height and width must be divisible by, for the network's levels.

    1 for a function of one's own, which is asked when it is traced.
    """
    for name in ('channel_mult', 'block_out_channels'):
        levels = getattr(network, name, None)
        if levels is not None:
            return 2 ** (len(levels) - 1)
    return 1


def check(height: int, width: int, divisor: int) -> None:
    """Refuse a size that is not divisible, with one sentence (ValueError)."""
    for name, side in (('height', height), ('width', width)):
        if side != int(side) or side < 1 or side % divisor:
            raise ValueError(
                f'the {name} of images must be a number of pixels that the '
                f"network's levels divide (by {divisor}), got {side}."
            )
