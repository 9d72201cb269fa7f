// node:http as a client: each row's answer and the next one on the same agent, a JSON line each.
'use strict';
const http = require('node:http');
const [, , base, count] = process.argv;
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function get(path) {
  return new Promise((resolve) => {
    const request = http.get(base + path, { agent, timeout: 10000 }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', (error) => resolve({ error: String(error) }));
      response.on('end', () => {
        resolve({
          status: response.statusCode,
          reason: response.headers['x-outrigger-reason'] || null,
          body: Buffer.concat(chunks).toString('hex'),
        });
      });
    });
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', (error) => resolve({ error: String(error) }));
  });
}

(async () => {
  for (let index = 0; index < Number(count); index++) {
    const answer = await get(`/row/${index}`);
    const next = await get(`/next/${index}`);
    console.log(JSON.stringify({ index, answer, next }));
  }
  agent.destroy();
})();
