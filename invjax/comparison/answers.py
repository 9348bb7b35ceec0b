"""How a script in another Python answers questions, a line of JSON each.

The standard library alone, which any environment has. `peer.py` asks.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer each line of the input until it ends; the first line out is ready.

    What packages print goes to the errors, so that the output has answers
    alone.

    Args:
        answer: a question, a dict, to plain data.
    """
    output, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps('ready'), file=output, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=output, flush=True)
