"""Runs the tests of aiokpl's public behaviour with kpl: fetches its sdist from PyPI, and replaces the imports.

Usage: python tests/aiokpl_suite.py [--kinesis URL]; without a URL, starts an emulator.

Tests of what kpl does not have, or has on purpose in another way, are in `NOT_RUN`, with the reason. The modules that are
not in `MODULES` test inner classes, or replace the client of aiobotocore, which kpl does not have (`test_producer`,
`test_sync`, `test_metrics`, and the integration tests of limiter, retrier, shard map, backpressure and CloudWatch).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import urllib.request
from pathlib import Path

VERSION = "0.2.0"

MODULES = [
    "test_outcome.py",
    "test_config.py",
    "test_hashing.py",
    "test_aggregation.py",
    "test_sink_memory.py",
    "test_sink_null.py",
    "test_sink_protocol.py",
    "test_sink_cloudwatch.py",
    "test_sink_opentelemetry.py",
    "test_sink_datadog.py",
    "integration/test_producer_integration.py",
    "integration/test_sync_integration.py",
    "integration/test_codec_roundtrip.py",
]

PRIVATE = "it tests functions that are not public"
MESSAGE = "ValueError is raised, with a message of our own that names the byte"

NOT_RUN = {
    "test_aggregation.py::test_varint_encode_known": PRIVATE,
    "test_aggregation.py::test_varint_roundtrip": PRIVATE,
    "test_aggregation.py::test_decode_varint_truncated": PRIVATE,
    "test_aggregation.py::test_decode_varint_too_long": PRIVATE,
    "test_aggregation.py::test_skip_unknown_varint": PRIVATE,
    "test_aggregation.py::test_skip_unknown_length_delimited": PRIVATE,
    "test_aggregation.py::test_skip_unknown_truncated_length_delimited": PRIVATE,
    "test_aggregation.py::test_skip_unknown_bad_wire_type": PRIVATE,
    "test_aggregation.py::test_pk_table_dedup_is_order_preserving": PRIVATE,
    "test_aggregation.py::test_ehk_table_dedup_is_order_preserving": PRIVATE,
    "test_aggregation.py::test_pk_dedup_idempotent": PRIVATE,
    "test_aggregation.py::test_decode_missing_required_pk_index": MESSAGE,
    "test_aggregation.py::test_decode_missing_required_data": MESSAGE,
    "test_aggregation.py::test_decode_truncated_record_data_field": MESSAGE,
    "test_aggregation.py::test_decode_truncated_pk_table_entry": MESSAGE,
    "test_aggregation.py::test_decode_truncated_ehk_table_entry": MESSAGE,
    "test_aggregation.py::test_decode_truncated_record_entry": MESSAGE,
    "test_aggregation.py::test_decode_tag_truncated_key": MESSAGE,
    "test_aggregation.py::test_decode_tag_truncated_value": MESSAGE,
    "test_aggregation.py::test_decode_truncated_record_tag_field": MESSAGE,
    "test_aggregation.py::test_decode_tag_missing_key": "a tag without a name has an empty one",
}

# The pages with code for users. The others are about inner classes.
PAGES = [
    "README.md",
    "docs/index.md",
    "docs/dev/sinks.md",
    "docs/phases/phase-1-codec.md",
    "docs/phases/phase-6-producer.md",
    "docs/phases/phase-7-metrics.md",
    "docs/phases/phase-8-sync.md",
]

# Blocks with these words do not run, with aiokpl neither.
NOT_A_PROGRAM = {
    "put_record(...)": "the arguments are left out",
    "from flask import": "it needs flask",
    "OTLPMetricExporter": "it needs a collector of OpenTelemetry",
}

# Runs the code blocks of a page in one module, with a producer where a block uses one that it does not create.
RUN_PAGE = '''
import ast, asyncio, inspect, sys, textwrap

import kpl

async def run(code, names):
    found = eval(code, names)
    if inspect.isawaitable(found):
        await found

async def run_with_producer(code, names):
    async with kpl.Producer(names["config"]) as producer:
        await run(code, {**names, "producer": producer})

names = {"config": kpl.Config(region="us-east-1", metrics_level=kpl.MetricsLevel.DETAILED)}
for block in sys.stdin.read().split("\\0"):
    names["SyncProducer"], names["Config"] = kpl.SyncProducer, kpl.Config
    code = compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    is_coroutine = bool(code.co_flags & inspect.CO_COROUTINE)
    has_own = "as producer" in block
    if is_coroutine:
        asyncio.run((run if has_own else run_with_producer)(code, names))
    elif "producer." in block and not has_own:
        with kpl.SyncProducer(names["config"]) as producer:
            exec(code, {**names, "producer": producer})
    else:
        exec(code, names)
'''

CONFTEST = '''
import os

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


def pytest_collection_modifyitems(items):
    import inspect

    for item in items:
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.anyio)


@pytest.fixture(scope="session")
def kinesis_client():
    import botocore.session
    from botocore.config import Config

    return botocore.session.Session().create_client(
        "kinesis",
        endpoint_url=os.environ["KINESIS_URL"],
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"max_attempts": 3, "mode": "standard"}),
    )
'''


def fetch(directory: Path) -> Path:
    """Download the tests, and replace the imports."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, f"aiokpl=={VERSION}", "--dest", str(directory)], check=True)
    with tarfile.open(directory / f"aiokpl-{VERSION}.tar.gz") as sdist:
        sdist.extractall(directory, filter="data")
    tests = directory / f"aiokpl-{VERSION}" / "tests"
    for file in tests.rglob("*.py"):
        text = re.sub(r"^(\s*(?:from|import) )aiokpl\b", r"\1kpl", file.read_text(), flags=re.MULTILINE)
        # Names that are not public.
        file.write_text(re.sub(r"^    _\w+,\n", "", text, flags=re.MULTILINE))
    for conftest in tests.rglob("conftest.py"):
        conftest.unlink()
    (tests / "conftest.py").write_text(CONFTEST)
    return tests


def run_pages(sdist: Path, url: str) -> int:
    """Run the code blocks of aiokpl's documentation. Return the number of pages that fail."""
    request = {"StreamName": "my-stream", "ShardCount": 2}
    headers = {"X-Amz-Target": "Kinesis_20131202.CreateStream", "Content-Type": "application/x-amz-json-1.1"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), headers)).close()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "DD_API_KEY": "any"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL_KINESIS": url}
    failed = 0
    for page in PAGES:
        blocks = re.findall(r"```python[^\n]*\n(.*?)```", (sdist / page).read_text(), re.DOTALL)
        programs = []
        for block in map(textwrap.dedent, blocks):
            reason = next((reason for word, reason in NOT_A_PROGRAM.items() if word in block), None)
            if reason is None:
                programs.append(re.sub(r"^(\s*(?:from|import) )aiokpl\b", r"\1kpl", block, flags=re.MULTILINE))
            else:
                print(f"{page}: a block is not run: {reason}")
        command = [sys.executable, "-c", RUN_PAGE]
        ended = subprocess.run(command, input="\0".join(programs), env=environment, text=True, check=False)
        print(f"{page}: {len(programs)} of {len(blocks)} blocks", "ran" if ended.returncode == 0 else "FAILED", flush=True)
        failed += ended.returncode != 0
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinesis", metavar="URL")
    arguments, pytest_options = parser.parse_known_args()
    process = None
    url = arguments.kinesis
    if url is None:
        from conftest import start

        process, url = start("--no-limits")
    try:
        with tempfile.TemporaryDirectory() as directory:
            tests = fetch(Path(directory))
            deselected = [option for name in NOT_RUN for option in ("--deselect", name)]
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), *deselected]
            environment = {**os.environ, "KINESIS_URL": url}
            tested = subprocess.run([*command, *pytest_options, *MODULES], cwd=tests, env=environment, check=False)
            return tested.returncode or run_pages(tests.parent, url)
    finally:
        if process is not None:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
