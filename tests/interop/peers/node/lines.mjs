// The harness's format: one JSON value per line for each user record or Kinesis record.

import { createInterface } from "node:readline";

// Parses each line of standard input.
export async function* read() {
  for await (const line of createInterface({ input: process.stdin })) {
    yield JSON.parse(line);
  }
}

// Decodes a field with bytes.
export function blob(text) {
  return Buffer.from(text, "base64");
}

// Prints a line. Bytes are in base64, times in seconds.
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
