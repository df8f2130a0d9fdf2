// Reads operations with their inputs, one per line. Executes each with the AWS SDK, and prints the output or the error.

import kinesis from "@aws-sdk/client-kinesis";

import * as lines from "./lines.mjs";

const client = new kinesis.KinesisClient();
for await (const [operation, input] of lines.read()) {
  try {
    if (operation === "wait") {
      await kinesis.waitUntilStreamExists({ client, maxWaitTime: 30 }, input);
      lines.write({ output: {} });
    } else {
      const Command = kinesis[`${operation}Command`];
      const { $metadata, ...output } = await client.send(new Command(typed(input)));
      lines.write({ output });
    }
  } catch (error) {
    const Class = kinesis[error.name];
    lines.write({ error: error.name, known: Class !== undefined && error instanceof Class, message: error.message });
  }
}
client.destroy();

// Converts an input to the types of the SDK.
function typed(input) {
  const fields = Object.entries(input).map(([name, value]) => {
    switch (name) {
      case "Data":
        return [name, lines.blob(value)];
      case "Timestamp":
        return [name, new Date(value * 1000)];
      case "Records":
        return [name, value.map(typed)];
      default:
        return [name, value];
    }
  });
  return Object.fromEntries(fields);
}
