// User records and Kinesis records as lines of JSON, as the harness reads and writes them.

import { createInterface } from "node:readline";

// Each line of standard input.
export async function* read() {
  for await (const line of createInterface({ input: process.stdin })) {
    yield JSON.parse(line);
  }
}

// The bytes of a field of a line.
export function blob(text) {
  return Buffer.from(text, "base64");
}

// A line; bytes become base64, times become seconds.
export function write(fields) {
  process.stdout.write(JSON.stringify(encoded(fields)) + "\n");
}

function encoded(value) {
  if (value instanceof Uint8Array) {
    return Buffer.from(value).toString("base64");
  }
  if (value instanceof Date) {
    return value.getTime() / 1000;
  }
  if (Array.isArray(value)) {
    return value.map(encoded);
  }
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, encoded(field)]));
  }
  return value;
}
