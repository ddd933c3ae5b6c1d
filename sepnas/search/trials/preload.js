// Patches for NNI 3.0 that no setting provides; loaded into its node processes with NODE_OPTIONS=--require.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const Module = require('module');
const { readKey, sealed } = require('./guard.js');

// NNI's server listens on all interfaces. Here it listens on 127.0.0.1, and on request on one more address.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port !== 'number') return listen.call(this, port, ...rest);
  const asked = process.env.SEPNAS_WEB_HOST || '127.0.0.1';
  const everywhere = asked === '0.0.0.0' || asked === '::';
  this.once('listening', () => {
    const found = this.address().port;
    if (!everywhere && asked !== '127.0.0.1') listenElsewhere(this, found, asked);
    tellPort(found);
  });
  const host = everywhere ? asked : '127.0.0.1';
  return listen.call(this, { port, host }, ...rest.filter((item) => typeof item === 'function'));
};

function listenElsewhere(server, port, host) {
  const also = net.createServer((socket) => server.emit('connection', socket));
  also.on('error', (error) => server.emit('error', error));
  also.listen({ port, host });
  server.on('close', () => also.close());
}

// The system chooses the port, so that no other process can take it between a check and its use.
function tellPort(port) {
  global.nni.args.port = port;
  if (!process.env.SEPNAS_PORT_FILE) return;
  global.nni.args.tunerCommandChannel = `ws://localhost:${port}/tuner`; // NNI compares this with its own address
  fs.writeFileSync(`${process.env.SEPNAS_PORT_FILE}.new`, String(port), { mode: 0o600 });
  fs.renameSync(`${process.env.SEPNAS_PORT_FILE}.new`, process.env.SEPNAS_PORT_FILE);
}

const patches = {
  // Addresses sent to trials and machines include the code. `localhost` might resolve to another process's ::1.
  './rest': ({ RestManager }) => {
    RestManager.prototype.getFullUrl = function (protocol, _, ...parts) {
      return `${protocol}://127.0.0.1:${global.nni.args.port}${sealed(`/${this.urlJoin(...parts)}`)}`;
    };
  },
  // A process that has lost its server exits; otherwise it would obey any new server at the same address.
  './client': ({ WsChannelClient }) => {
    if (WsChannelClient) WsChannelClient.prototype.reconnect = () => process.kill(process.pid, 'SIGTERM');
  },
};
patches['common/command_channel/websocket/client'] = patches['./client'];
const load = Module._load;
Module._load = function (request, parent, ...rest) {
  const loaded = load.call(this, request, parent, ...rest);
  if (patches[request] && parent.filename.includes(`${path.sep}nni_node${path.sep}common${path.sep}`)) {
    patches[request](loaded);
  }
  return loaded;
};

// NNI keeps a list of all experiments in the home folder; ours stay out of it.
if (process.env.SEPNAS_NNI_HOME) require('os').homedir = () => process.env.SEPNAS_NNI_HOME;

// The search holds our standard input open. When the search ends in any way, no process may remain.
if (process.env.SEPNAS_LIFELINE === String(process.ppid)) {
  readKey();
  process.stdin.resume().on('end', () => {
    process.kill(process.pid, 'SIGTERM'); // NNI's regular shutdown, which ends its trials
    setTimeout(() => process.exit(1), 10000).unref();
  });
  if (process.env.SEPNAS_REMOTE) require('./remote.js');
}
