// The wire of the mux backend on one screen, in Node alone. agent.js is the same with all that bad days need.
//
//     node minimal.js 127.0.0.1:3000 <tunnel.json       (what OpenTunnel answered, or the URI alone)
'use strict';
const http = require('node:http');
const http2 = require('node:http2');
const net = require('node:net');

const [host, port] = process.argv[2].split(':');
const [uri] = require('node:fs').readFileSync(0, 'utf8').match(/ptth:[^"\s]+/);
const headers = { Connection: 'upgrade', Upgrade: 'ptth', ALPN: 'h2' };
const request = http.get(uri.replace('ptth:', 'http:'), { headers, agent: false });
request.on('response', (response) => console.error(`the server answers ${response.statusCode}`));
request.on('upgrade', (response, socket, head) => {
  socket.unshift(head);
  console.error('serving');
  http2.performServerHandshake(socket).on('stream', (stream) => {
    const local = net.connect({ host, port, allowHalfOpen: true }, () => {
      stream.respond({ ':status': 200 });
      stream.pipe(local).pipe(stream);
    });
    local.on('error', (error) => {
      if (stream.headersSent) stream.destroy(error); // RST_STREAM: what was cut short must not look complete
      else stream.respond({ ':status': 502 }, { endStream: true });
    });
    stream.on('error', () => local.resetAndDestroy());
  });
});
