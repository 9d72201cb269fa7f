// node:http as a backend: one JSON line for every request it saw, and the same as the answer.
'use strict';
const http = require('node:http');

function record(request, chunks, complete) {
  const tag = request.headers['x-tag'];
  return JSON.stringify({
    tag: tag === undefined ? null : tag,
    method: request.method,
    target: request.url,
    host: request.headers.host === undefined ? null : request.headers.host,
    body: Buffer.concat(chunks).toString('hex'),
    complete,
  });
}

const server = http.createServer({ keepAliveTimeout: 75000 }, (request, response) => {
  const chunks = [];
  let ended = false;
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('error', () => {});
  request.on('end', () => {
    ended = true;
    const line = record(request, chunks, true);
    console.log(line);
    response.setHeader('x-seen-tag', request.headers['x-tag'] || '');
    response.end(line);
  });
  request.on('close', () => {
    if (!ended) console.log(record(request, chunks, false));
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
