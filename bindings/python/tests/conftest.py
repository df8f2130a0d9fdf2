"""An emulator of Kinesis, and a consumer."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kpl

ROOT = Path(__file__).parents[3]


def _program() -> str:
    """Return the path of the program `kpl`; build it if it is not there."""
    given = os.environ.get("KPL_PROGRAM")
    if given:
        return given
    subprocess.run(["cargo", "build", "--quiet", "--package", "kpl"], cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "kpl")


class Kinesis:
    """A client of the emulator."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        headers = {"X-Amz-Target": f"Kinesis_20131202.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        body = urllib.request.Request(self.url, json.dumps(request).encode(), headers)
        with urllib.request.urlopen(body) as reply:
            content = reply.read()
        found: dict[str, Any] = json.loads(content) if content else {}
        return found

    def read(self, stream: str) -> list[tuple[str, bytes]]:
        """Return partition key and data of all user records of a stream, shard by shard."""
        records: list[tuple[str, bytes]] = []
        for shard in self.call("ListShards", StreamName=stream)["Shards"]:
            iterator = self.call(
                "GetShardIterator", StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while True:
                reply = self.call("GetRecords", ShardIterator=iterator, Limit=10_000)
                for record in reply["Records"]:
                    data = base64.b64decode(record["Data"])
                    if kpl.is_aggregated(data):
                        records.extend((each.partition_key, each.data) for each in kpl.decode_aggregated(data))
                    else:
                        records.append((record["PartitionKey"], data))
                iterator = reply.get("NextShardIterator")
                if not iterator or not reply["Records"]:
                    break
        return records


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Start an emulator. Returns the process and the URL."""
    command = [_program(), "emulator", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://[0-9.:]+", line)
        if found:
            return process, found[0]
    raise RuntimeError("the emulator has ended")


@pytest.fixture(scope="session")
def kinesis() -> Iterator[Kinesis]:
    streams = [f"--stream=s{n}:2" for n in range(40)]
    process, url = start("--no-limits", *streams)
    yield Kinesis(url)
    process.kill()
    process.wait()


_streams = (f"s{n}" for n in range(40))


@pytest.fixture
def stream() -> str:
    """An empty stream of two shards."""
    return next(_streams)


@pytest.fixture
def config(kinesis: Kinesis) -> Any:
    """Returns a function that returns a config for the emulator."""

    def make(**settings: Any) -> kpl.Config:
        endpoint = {"region": "us-east-1", "endpoint_url": kinesis.url}
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        return kpl.Config(**{**endpoint, **keys, **settings})

    return make
