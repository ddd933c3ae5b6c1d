// Loaded into NNI's node processes with NODE_OPTIONS=--require: what NNI 3.0 has no setting for.
'use strict';
const net = require('net');

// NNI's server has no password and would listen on all interfaces: 127.0.0.1, and one more address on request.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port !== 'number') return listen.call(this, port, ...rest);
  const asked = process.env.SEPNAS_WEB_HOST || '127.0.0.1';
  const everywhere = asked === '0.0.0.0' || asked === '::';
  if (!everywhere && asked !== '127.0.0.1') {
    const also = net.createServer((socket) => this.emit('connection', socket));
    also.on('error', (error) => this.emit('error', error));
    also.listen({ port, host: asked });
    this.on('close', () => also.close());
  }
  const host = everywhere ? asked : '127.0.0.1';
  return listen.call(this, { port, host }, ...rest.filter((item) => typeof item === 'function'));
};

// It keeps a list of all experiments in the home folder; ours are nobody else's concern.
if (process.env.SEPNAS_NNI_HOME) require('os').homedir = () => process.env.SEPNAS_NNI_HOME;

// The search holds our standard input open. When it is gone, however it went, nothing may stay behind.
if (process.env.SEPNAS_LIFELINE === String(process.ppid)) {
  process.stdin.resume().on('end', () => {
    process.kill(process.pid, 'SIGTERM'); // NNI's own way to stop: it ends its trials
    setTimeout(() => process.exit(1), 10000).unref();
  });
  if (process.env.SEPNAS_REMOTE) require('./remote.js');
}
