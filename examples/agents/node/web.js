// A web service behind NAT, in Node alone: its stock HTTP/2 server, with the handlers it has, at the end of a tunnel.
//
//     node web.js <tunnel.json       (what OpenTunnel answered for the address http://, or the URI alone)
'use strict';
const http = require('node:http');
const http2 = require('node:http2');

const server = http2.createServer((request, response) => {
  if (request.method === 'POST') return request.pipe(response);
  response.end(`Hello from Node. You are ${request.headers.forwarded}\n`);
});

const [uri] = require('node:fs').readFileSync(0, 'utf8').match(/ptth:[^"\s]+/);
const request = http.get(uri.replace('ptth:', 'http:'), { headers: { Connection: 'upgrade', Upgrade: 'ptth', ALPN: 'h2' }, agent: false });
request.on('response', (response) => console.error(`the server answers ${response.statusCode}`));
request.on('upgrade', (response, socket, head) => {
  socket.unshift(head); // HTTP/2 may have begun right behind the 101
  server.emit('connection', socket);
  console.error('serving');
});
