"""The code of the README and of the migration page runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = ROOT.parents[1]
PAGES = [ROOT / "README.md", PROJECT / "README.md", PROJECT / "docs" / "migrating-from-aiokpl.md"]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block(block: str, kinesis: Any) -> None:
    names = {stream for stream in kinesis.call("ListStreams")["StreamNames"]}
    if "events" not in names:
        kinesis.call("CreateStream", StreamName="events", ShardCount=2)
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL_KINESIS": kinesis.url}
    ended = subprocess.run(
        [sys.executable, "-c", block], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "print(" not in block or "True" in ended.stdout
