"""User records and Kinesis records as lines of JSON, as the harness reads and writes them."""

import base64
import json
import sys


def read():
    """Each line of standard input."""
    return (json.loads(line) for line in sys.stdin)


def blob(text):
    """The bytes of a field of a line."""
    return base64.b64decode(text)


def write(**fields):
    """A line; bytes become base64."""
    encoded = {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields.items()}
    sys.stdout.write(json.dumps(encoded) + "\n")
