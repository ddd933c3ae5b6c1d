// Who may ask NNI's servers for what. NNI has no passwords, and hands out any file for a path with `%2f`. Here a path is
// opened by a code of its own, its HMAC under a key that this server and the search share, written before it:
// `/CODE/env/...`. A trial that is told its address can reach its own channel, and nothing else.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const net = require('net');

let key = crypto.randomBytes(32);
const tunnelled = new Set(); // ports of the connections that come from other machines

const codeOf = (text) => crypto.createHmac('sha256', key).update(text).digest('hex');
const sealed = (path) => `/${codeOf(path)}${path}`;
const equal = (given, right) => crypto.timingSafeEqual(Buffer.from(given), Buffer.from(right)); // both 64 letters

// One code is for the page: it shows what there is and changes nothing.
const PAGE = 'page';
const SHOWN =
  /^\/api\/v1\/nni\/((version|check-status|experiment|experiment-metadata|experiments-info|job-statistics|export-data|tensorboard-tasks)$|(trial-jobs|metric-data|metric-data-latest|metric-data-range)(\/|$)|trial-file\/[^/]+\/(trial\.log|stdout|stderr)$)/;
const CLOSED = /^\/(api|logs|netron|env|platform|tuner)(\/|$)|\.websocket/;

const isShown = (request, path) =>
  ['GET', 'HEAD'].includes(request.method) && !request.headers.upgrade && (SHOWN.test(path) || !CLOSED.test(path));

// No `%2f`, `..`, backslash or NUL: none of NNI's own paths needs an escape.
const ADDRESS = /^\/([0-9a-f]{64})((?:\/[\w.~-]+)*\/?)(\?[\x21-\x7e]*)?$/;
const DOTS = /\/\.+(\/|$)/;

// A page of another site that has its own name point here (DNS rebinding) still asks by that name, and says its origin.
function isOwnSite({ host = '', origin }) {
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  const named = net.isIP(name) || name === 'localhost' || name === process.env.SEPNAS_WEB_HOST;
  return Boolean(named) && (origin === undefined || origin === `http://${host}`);
}

function isHere(socket) {
  return /^(::ffff:)?127\.0\.0\.1$/.test(socket.localAddress || '');
}

/** The path that a request opens, without its code; null for a request that opens none. */
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
    answer.setHeader('Referrer-Policy', 'no-referrer'); // the address of the page is its password
    answer.setHeader('X-Frame-Options', 'DENY');
  }
  return emit.call(this, event, request, answer, ...rest);
};

function forgetWhenClosed(socket) {
  const port = socket.remotePort;
  socket.once('close', () => tunnelled.delete(port));
}

/** Let this file's caller share its key: 64 hexadecimal letters and a newline, the first that standard input brings. */
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
