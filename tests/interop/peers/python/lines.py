"""The harness's format: one JSON value per line for each user record or Kinesis record."""

import base64
import json
import sys


def read():
    """Parses each line of standard input."""
    return (json.loads(line) for line in sys.stdin)


def blob(text):
    """Decodes a field with bytes."""
    return base64.b64decode(text)


def write(**fields):
    """Prints a line. Bytes are in base64."""
    encoded = {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields.items()}
    sys.stdout.write(json.dumps(encoded) + "\n")
