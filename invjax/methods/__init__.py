"""Methods that turn an unconditional prior into a restoration.

One paper a file: a class that inherits from `Method`, with all that the project
knows of it. Its line in `_CLASSES` makes it a choice of `--method`, a row of the
contract tests and a row of the tables.
"""

from typing import Any

from invjax.methods.admm_tv import ADMMTV
from invjax.methods.ald import ALD
from invjax.methods.base import Method
from invjax.methods.c_pigdm import CPiGDM
from invjax.methods.daps import DAPS
from invjax.methods.ddnm import DDNM
from invjax.methods.ddrm import DDRM
from invjax.methods.diffpir import DiffPIR
from invjax.methods.dip import DIP
from invjax.methods.dmps import DMPS
from invjax.methods.dps import DPS
from invjax.methods.fast_dips import FastDIPS
from invjax.methods.mcg import MCG
from invjax.methods.mmps import MMPS
from invjax.methods.pigdm import PiGDM
from invjax.methods.pnp import HQS, PnPADMM
from invjax.methods.reddiff import REDDiff
from invjax.methods.repaint import RePaint
from invjax.methods.score_ald import ScoreALD
from invjax.methods.sdedit import SDEdit
from invjax.methods.sitcom import SITCOM
from invjax.methods.tds import TDS
from invjax.methods.tmpd import TMPD
from invjax.methods.unconditional import Unconditional
from invjax.methods.wiener import Wiener

_CLASSES: tuple[type[Method], ...] = (
    Unconditional,
    SDEdit,
    ScoreALD,
    ALD,
    DPS,
    MCG,
    PiGDM,
    CPiGDM,
    TMPD,
    MMPS,
    DMPS,
    DDNM,
    DDRM,
    DiffPIR,
    DAPS,
    REDDiff,
    SITCOM,
    FastDIPS,
    RePaint,
    TDS,
    Wiener,
    ADMMTV,
    HQS,
    PnPADMM,
    DIP,
)
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _CLASSES}

__all__ = ['METHODS', 'Method', 'able_methods', 'method_class']


def method_class(name: str) -> type[Method]:
    """The class of a name; ValueError with the names that there are."""
    if name not in METHODS:
        raise ValueError(
            f'method must be one of {", ".join(METHODS)}, got {name!r}.'
        )
    return METHODS[name]


def able_methods(operator: Any) -> list[str]:
    """Names of the methods that, at their defaults, can do an operator."""
    return [
        name for name, cls in METHODS.items() if isinstance(operator, cls.needs)
    ]
