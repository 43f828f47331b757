// An agent of the mux backend in Node alone: serves a tunnel's clients from a local TCP service.
//
//     node agent.js 127.0.0.1:3000 <<<"$TNL_URI"        (a tunnel URI is a secret: not an argument, which everybody can read)
'use strict';
const { randomUUID } = require('node:crypto');
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const net = require('node:net');
const { setTimeout: sleep } = require('node:timers/promises');

const [, host, port] = /^\[?(.+?)\]?:(\d+)$/.exec(process.argv[2]) ?? quit(2, 'which local service? HOST:PORT');
const uri = /ptths?:[^"\s]+/.exec(process.env.TNL_URI ?? require('node:fs').readFileSync(0, 'utf8'))?.[0]
  ?? quit(2, 'a ptth:// or ptths:// tunnel URI is wanted in TNL_URI or on stdin');
// The name lets the next session replace one that was lost before the server has noticed.
const target = `${uri.replace('ptth', 'http')}?agent=${randomUUID()}`;
const { get } = uri.startsWith('ptths') ? https : http;

// One client: its CONNECT is `stream`.
function serve(stream) {
  // Reading stops after each piece. Otherwise libuv reports an end where a reset has come right behind the last bytes.
  const callback = (length, piece) => {
    if (!stream.destroyed) stream.write(piece.subarray(0, length), () => local.resume());
    return false;
  };
  const local = new Local({ allowHalfOpen: true, onread: { buffer: Buffer.allocUnsafe(65_536), callback } });
  let finished = false; // the client has said all, and `local` was told
  local.connect({ host, port, noDelay: true }, () => {
    if (stream.destroyed) return; // 'close' has its word
    stream.respond({ ':status': 200 });
    stream.pipe(local, { end: false });
    stream.on('end', () => {
      if (stream.destroyed || stream.rstCode) return; // an abort is called an end too
      finished = true;
      local.end();
    });
  });
  local.on('end', () => (local.reset ? stream.destroy(local.reset) : stream.end()));
  local.on('error', (error) => {
    if (stream.destroyed) return;
    if (!stream.headersSent) return stream.respond({ ':status': 502 }, { endStream: true });
    stream.destroy(error); // not `close(code)`: it sends END_STREAM before the reset, and the answer would look complete
  });
  stream.on('error', () => {}); // 'close' follows
  stream.on('close', () => {
    if (!finished) return local.resetAndDestroy();
    // It may have been reset since, by a client that wants no more: what it had said still goes out.
    local.resume().destroySoon();
  });
}

// A socket whose failed write does not destroy it: what the service had said before it hung up is still to be read.
class Local extends net.Socket {
  _write(chunk, encoding, done) { super._write(chunk, encoding, (error) => done(this.note(error))); }
  _writev(chunks, done) { super._writev(chunks, (error) => done(this.note(error))); }
  // ECONNRESET: it has aborted, and as that is told once, reading will find an end that is none. EPIPE: it had finished.
  note(error) { if (error?.code === 'ECONNRESET') this.reset = error; }
}

// One session, until it ends. How long to wait before the next one, at least, or undefined if it was a good one.
function session() {
  return new Promise((ended, failed) => {
    const headers = { Connection: 'upgrade', Upgrade: 'ptth', ALPN: 'h2' };
    const request = get(target, { headers, timeout: 10_000, agent: false });
    request.on('timeout', () => request.destroy(new Error('no answer')));
    request.on('error', failed);
    request.on('response', (response) => {
      if (response.statusCode === 401) quit(1, 'the tunnel is closed or its URI is wrong; open it again');
      response.resume();
      failed(Object.assign(new Error(`the server answers ${response.statusCode}`), { after: response.headers['retry-after'] }));
    });
    request.on('upgrade', (response, socket, head) => {
      socket.setTimeout(0).setNoDelay();
      socket.unshift(head); // HTTP/2 may have begun right behind the 101
      const session = http2.performServerHandshake(socket);
      session.setLocalWindowSize(2 ** 30); // 64 KiB a round trip for all clients together, otherwise
      session.on('stream', serve);
      session.on('error', () => {});
      session.on('close', ended);
      console.error('serving');
      let unanswered = 0;
      const pulse = setInterval(() => {
        if (++unanswered > 3) socket.destroy();
        else if (!session.destroyed) session.ping(() => { unanswered = 0; });
      }, 5_000);
      session.on('close', () => clearInterval(pulse));
    });
  });
}

function quit(code, why) {
  console.error(why);
  process.exit(code);
}

(async () => {
  for (let wait = 0.5; ; wait = Math.min(2 * wait, 30)) {
    let after = 0;
    await session().then(() => { wait = 0.5; console.error('the session ended'); },
      (error) => { after = Number(error.after) || 0; console.error(error.message); });
    await sleep(1000 * (after + wait * Math.random()));
  }
})();
