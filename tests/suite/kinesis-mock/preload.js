// Loaded before kinesis-mock's main.js (`node --require`); makes a server for tests of it.
'use strict';

const net = require('node:net');

// The harness holds the other end of standard input: when it is gone, however it died, so are we.
process.stdin.on('close', () => process.exit(0)).resume();

// The two numbers below stand for "any free port of the loopback interface": the system picks one, and we say
// which. Choosing the ports outside would race with every other process that does the same, and kinesis-mock by
// itself listens on every interface.
const faces = { 1: 'https', 2: 'http' };
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  const face = faces[port];
  if (!face) return listen.call(this, port, ...rest);
  this.once('listening', () => console.log(`listening ${face} ${this.address().port}`));
  return listen.call(this, 0, '127.0.0.1', ...rest);
};
