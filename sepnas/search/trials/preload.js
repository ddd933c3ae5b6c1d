// Loaded into NNI's node processes with NODE_OPTIONS=--require: what NNI 3.0 has no setting for.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const Module = require('module');
const { readKey, sealed } = require('./guard.js');

// NNI's server would listen on all interfaces: 127.0.0.1, and one more address on request.
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

// The system chooses the port, so that nobody else can take one which was found to be free.
function tellPort(port) {
  global.nni.args.port = port;
  if (!process.env.SEPNAS_PORT_FILE) return;
  global.nni.args.tunerCommandChannel = `ws://localhost:${port}/tuner`; // NNI compares it with its own
  fs.writeFileSync(`${process.env.SEPNAS_PORT_FILE}.new`, String(port), { mode: 0o600 });
  fs.renameSync(`${process.env.SEPNAS_PORT_FILE}.new`, process.env.SEPNAS_PORT_FILE);
}

const patches = {
  // Addresses that trials and machines are told bring their code along; `localhost` may be another's ::1.
  './rest': ({ RestManager }) => {
    RestManager.prototype.getFullUrl = function (protocol, _, ...parts) {
      return `${protocol}://127.0.0.1:${global.nni.args.port}${sealed(`/${this.urlJoin(...parts)}`)}`;
    };
  },
  // Whoever listened at the address of a lost server would be obeyed: what has lost its server ends.
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

// It keeps a list of all experiments in the home folder; ours are nobody else's concern.
if (process.env.SEPNAS_NNI_HOME) require('os').homedir = () => process.env.SEPNAS_NNI_HOME;

// The search holds our standard input open. When it is gone, however it went, nothing may stay behind.
if (process.env.SEPNAS_LIFELINE === String(process.ppid)) {
  readKey();
  process.stdin.resume().on('end', () => {
    process.kill(process.pid, 'SIGTERM'); // NNI's own way to stop: it ends its trials
    setTimeout(() => process.exit(1), 10000).unref();
  });
  if (process.env.SEPNAS_REMOTE) require('./remote.js');
}
