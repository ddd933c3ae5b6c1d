// Patches for NNI 3.0's remote training service (nni_node/training_service/remote_v3) that no setting provides.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const { once } = require('events');
const { promisify } = require('util');
const Module = require('module');
const { tunnelled } = require('./guard.js');

// {id: experiment id, machines: {"host:port": {python, keys: [[type, base64], ...]}}}
const remote = JSON.parse(process.env.SEPNAS_REMOTE);
const say = (text) => console.error(`sepnas: ${text}`); // `news` of manager.py reads these lines
const named = (config) => `${config.host}:${config.port}`;

function patchSsh(Ssh) {
  // NNI checks no host key, does not notice a dead connection, and crashes when one breaks. It expects machines to
  // reach its open server; here they reach it through a tunnel in the existing SSH connection.
  Ssh.prototype.connect = async function () {
    const { Client } = Module.createRequire(path.join(process.cwd(), 'main.js'))('ssh2');
    const { keys } = remote.machines[named(this.config)];
    const types = keys.flatMap(([type]) => (type === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [type]));
    this.client = new Client();
    this.client.connect({
      host: this.config.host,
      port: this.config.port,
      username: this.config.user,
      ...(this.config.sshKeyFile
        ? { privateKey: fs.readFileSync(this.config.sshKeyFile) }
        : { agent: process.env.SSH_AUTH_SOCK }),
      algorithms: { serverHostKey: [...new Set(types)] },
      hostVerifier: (found) => keys.some(([, key]) => key === found.toString('base64')),
      readyTimeout: 20000,
      keepaliveInterval: 5000,
      keepaliveCountMax: 3,
    });
    await once(this.client, 'ready'); // throws on an 'error' event
    this.client.on('error', (error) => say(`${named(this.config)}: ${error.message}`));
    this.client.on('tcp connection', (_, accept) => {
      const [ours, theirs] = [net.connect(global.nni.args.port, '127.0.0.1'), accept()];
      ours.once('connect', () => {
        tunnelled.add(ours.localPort); // before any data from the machine is forwarded
        theirs.pipe(ours);
      });
      for (const [from, to] of [[ours, theirs], [theirs, ours]]) {
        from.on('error', () => from.destroy()).on('close', () => to.destroy());
      }
      ours.pipe(theirs);
    });
    this.tunnelPort = await promisify(this.client.forwardIn.bind(this.client))('127.0.0.1', 0);
  };
  const run = Ssh.prototype.run;
  Ssh.prototype.run = async function (command) {
    if (command.includes(' -m pip install ')) return ''; // never install packages on remote machines
    command = `umask 077; ${command}`; // keeps the trial's files private
    const [, folder] = command.match(/ -m \S+launch_trial_keeper (.+)$/) || [];
    if (!folder) return run.call(this, command);
    for (const name of ['guard.js', 'preload.js']) await this.upload(path.join(__dirname, name), `${folder}/${name}`);
    const { python } = remote.machines[named(this.config)];
    const settings = `NODE_OPTIONS='--require "${folder}/preload.js"' SEPNAS_PYTHON='${python}'`;
    return run.call(this, command.replace('umask 077; ', `umask 077; ${settings} `));
  };
}

function patchWorker(Worker) {
  // NNI looks for a python on the PATH, whose order the machine's .bashrc may change.
  Worker.prototype.findPython = async function () {
    return `'${remote.machines[named(this.config)].python}'`;
  };
  const launch = Worker.prototype.launchTrialKeeperDaemon;
  Worker.prototype.launchTrialKeeperDaemon = function () {
    this.channelUrl = this.channelUrl.replace(/:\d+\//, `:${this.ssh.tunnelPort}/`);
    return launch.call(this);
  };
  const stop = Worker.prototype.stop;
  Worker.prototype.stop = async function () {
    await stop.call(this);
    const folder = '"$HOME"/nni-experiments';
    await this.ssh.run(`rm -rf ${folder}/${remote.id}; rmdir ${folder} 2>/dev/null || true`);
  };
}

function patchService(Service) {
  // In NNI, one unusable machine ends the experiment. Here it is skipped; trials of a lost machine run elsewhere.
  Service.prototype.start = async function () {
    await this.server.start();
    const begun = await Promise.allSettled(this.config.machineList.map((machine) => this.launchWorker(machine)));
    const problems = begun.map((outcome) => outcome.reason);
    problems.forEach((problem, index) => {
      if (problem) say(`${named(this.config.machineList[index])} cannot be used: ${problem.message}`);
    });
    this.workers = this.workers.filter((_, index) => !problems[index]);
    if (!this.workers.length) throw new Error('no machine can be used');
    return this.workers.map((worker) => worker.env);
  };
  Service.prototype.restartWorker = async function (worker) {
    say(`${named(worker.config)} is lost`);
    this.stopWorker(worker, true);
    if (!this.workers.length) process.kill(process.pid, 'SIGTERM');
  };
}

const patches = {
  './ssh': ['Ssh', patchSsh],
  './worker': ['Worker', patchWorker],
  './remote': ['RemoteTrainingServiceV3', patchService],
};
const load = Module._load;
Module._load = function (request, parent, ...rest) {
  const loaded = load.call(this, request, parent, ...rest);
  const [name, patch] = patches[request] || [];
  if (patch && parent.filename.includes(`${path.sep}remote_v3${path.sep}`)) {
    delete patches[request];
    patch(loaded[name]);
  }
  return loaded;
};
