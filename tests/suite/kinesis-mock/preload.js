// Loaded before kinesis-mock's main.js (`node --require`). Makes it a server for one test.
'use strict';

const net = require('node:net');

// The harness holds the other end of standard input. When the harness ends for any reason, this process ends, too.
process.stdin.on('close', () => process.exit(0)).resume();

// The two numbers below are replaced with a free port of the loopback interface, which the system chooses and which is
// logged. If the harness chose the ports, it would race with other processes that do the same. Without this script,
// kinesis-mock listens on every interface.
const protocols = { 1: 'https', 2: 'http' };
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  const protocol = protocols[port];
  if (!protocol) return listen.call(this, port, ...rest);
  this.once('listening', () => console.log(`listening ${protocol} ${this.address().port}`));
  return listen.call(this, 0, '127.0.0.1', ...rest);
};
