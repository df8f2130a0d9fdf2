"""Reads operations with their inputs, one per line. Executes each with boto3, and prints the output or the error."""

import base64
import datetime
import json

import boto3
from botocore import xform_name
from botocore.exceptions import ClientError

import lines

client = boto3.client("kinesis")


def typed(fields):
    """Converts an input to the types of boto3."""
    convert = {"Data": lines.blob, "Records": lambda records: [typed(record) for record in records]}
    return {name: convert.get(name, lambda value: value)(value) for name, value in fields.items()}


def plain(value):
    """Converts types that JSON does not have."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    raise TypeError(value)


def call(operation, fields):
    if operation == "wait":
        client.get_waiter("stream_exists").wait(WaiterConfig={"Delay": 1, "MaxAttempts": 30}, **fields)
        return {"output": {}}
    try:
        output = getattr(client, xform_name(operation))(**typed(fields))
    except ClientError as error:
        code, message = (error.response["Error"][name] for name in ("Code", "Message"))
        known = getattr(client.exceptions, code, None)
        return {"error": code, "known": known is not None and isinstance(error, known), "message": message}
    del output["ResponseMetadata"]
    return {"output": output}


for operation, fields in lines.read():
    print(json.dumps(call(operation, fields), default=plain), flush=True)
