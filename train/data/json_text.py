"""JSON as people write it into rows: whatever is wrong with it is a fault of the row."""

import json
from typing import Any

from train.data.rejected import Unusable


def parse_json(text: str, fault: str, expected: str) -> Any:
    """The value of `text`. Raises Unusable that says `fault`, and why."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unusable(f"{fault}: {error.msg} at column {error.colno}", expected) from error
    except RecursionError:
        raise Unusable(f"{fault}: nested too deeply", expected) from None
    except ValueError:  # Python's bound on the digits of a whole number
        raise Unusable(f"{fault}: a number of too many digits", expected) from None
