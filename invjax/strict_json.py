"""Records as strict JSON, which has no numbers that are not finite."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def as_json(data: Any) -> Any:
    """Plain data that JSON can hold: a number that is not finite is null."""
    if isinstance(data, Mapping):
        return {str(name): as_json(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [as_json(value) for value in data]
    if isinstance(data, np.ndarray | jax.Array):
        return as_json(np.asarray(data).tolist())
    if isinstance(data, bool | np.bool_):
        return bool(data)
    if isinstance(data, int | np.integer):
        return int(data)
    if isinstance(data, float | np.floating):
        return float(data) if math.isfinite(data) else None
    return data


def write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    """Write a record, strict JSON; an interruption leaves no half of it."""
    text = json.dumps(as_json(data), indent=2, allow_nan=False, default=str)
    partial = path.with_name(f'.{path.name}-{os.getpid()}')
    partial.write_text(text + '\n')
    os.replace(partial, path)
