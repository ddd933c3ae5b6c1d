// Access control for NNI's servers. NNI has no passwords, and serves any file for a path with `%2f`. Here each path
// needs its own code as a prefix: its HMAC under a key shared by this server and the search, as in `/CODE/env/...`.
// A trial knows only the address of its own channel, and can reach nothing else.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const net = require('net');

let key = crypto.randomBytes(32);
const tunnelled = new Set(); // ports of connections from other machines

const codeOf = (text) => crypto.createHmac('sha256', key).update(text).digest('hex');
const sealed = (path) => `/${codeOf(path)}${path}`;
const equal = (given, right) => crypto.timingSafeEqual(Buffer.from(given), Buffer.from(right)); // both 64 hex digits

// One code grants access to the page, read-only.
const PAGE = 'page';
const SHOWN =
  /^\/api\/v1\/nni\/((version|check-status|experiment|experiment-metadata|experiments-info|job-statistics|export-data|tensorboard-tasks)$|(trial-jobs|metric-data|metric-data-latest|metric-data-range)(\/|$)|trial-file\/[^/]+\/(trial\.log|stdout|stderr)$)/;
const CLOSED = /^\/(api|logs|netron|env|platform|tuner)(\/|$)|\.websocket/;

const isShown = (request, path) =>
  ['GET', 'HEAD'].includes(request.method) && !request.headers.upgrade && (SHOWN.test(path) || !CLOSED.test(path));

// No `%2f`, `..`, backslash or NUL: none of NNI's own paths needs an escape.
const ADDRESS = /^\/([0-9a-f]{64})((?:\/[\w.~-]+)*\/?)(\?[\x21-\x7e]*)?$/;
const DOTS = /\/\.+(\/|$)/;

// DNS rebinding: a page of another site whose name points here still sends that name as host, and its origin.
function isOwnSite({ host = '', origin }) {
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  const named = net.isIP(name) || name === 'localhost' || name === process.env.SEPNAS_WEB_HOST;
  return Boolean(named) && (origin === undefined || origin === `http://${host}`);
}

function isHere(socket) {
  return /^(::ffff:)?127\.0\.0\.1$/.test(socket.localAddress || '');
}

/** The path of a valid request, without its code; null for an invalid request. */
function opened(request) {
  const found = ADDRESS.exec(request.url);
  if (!found || DOTS.test(found[2]) || !isOwnSite(request.headers)) return null;
  const [, code, path, query = ''] = found;
  const foreign = tunnelled.has(request.socket.remotePort);
  if (equal(code, codeOf(path))) {
    const fits = foreign ? path.startsWith('/platform/') && request.headers.upgrade : isHere(request.socket);
    return fits ? path + query : null;
  }
  return !foreign && equal(code, codeOf(PAGE)) && isShown(request, path) ? (path || '/') + query : null;
}

const REFUSED = 'HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n';

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, answer, ...rest) {
  if (event === 'connection') forgetWhenClosed(request);
  if (event !== 'request' && event !== 'upgrade') return emit.call(this, event, request, answer, ...rest);
  const url = opened(request);
  if (url === null) {
    request.socket.on('error', () => {}).end(REFUSED, () => request.socket.destroy());
    return true;
  }
  request.url = url;
  if (event === 'request') {
    answer.setHeader('Referrer-Policy', 'no-referrer'); // the page's address is a secret
    answer.setHeader('X-Frame-Options', 'DENY');
  }
  return emit.call(this, event, request, answer, ...rest);
};

function forgetWhenClosed(socket) {
  const port = socket.remotePort;
  socket.once('close', () => tunnelled.delete(port));
}

/** Read the shared key, the first line of standard input: 64 hexadecimal digits and a newline. */
function readKey() {
  const text = Buffer.alloc(65);
  for (let length = 0; length < text.length; ) {
    const more = fs.readSync(0, text, length, text.length - length, null);
    if (!more) throw new Error('no key on standard input');
    length += more;
  }
  key = Buffer.from(text.toString('latin1', 0, 64), 'hex');
}

module.exports = { readKey, sealed, tunnelled };
