// An HTTP/2 server that takes everything and, told to stop (SIGTERM), prints what it got as JSON:
// {"requests": {"<path> <body>": times}, "headers": {"<name>: <value>": times}}.
// Arguments: key file, certificate file, settings as JSON, body of every reply.
'use strict';
const fs = require('node:fs');
const http2 = require('node:http2');

const [key, cert, settings, answer] = process.argv.slice(2);
const requests = {};
const headersSeen = {};
const count = (table, name) => { table[name] = (table[name] || 0) + 1; };

const server = http2.createSecureServer({
  key: fs.readFileSync(key),
  cert: fs.readFileSync(cert),
  settings: JSON.parse(settings),
});

server.on('stream', (stream, headers) => {
  let body = '';
  stream.setEncoding('utf8');
  stream.on('error', () => {});
  stream.on('data', (piece) => { body += piece; });
  stream.on('end', () => {
    count(requests, `${headers[':path']} ${body}`);
    for (const name of Object.keys(headers)) {
      if (name !== ':path') count(headersSeen, `${name}: ${headers[name]}`);
    }
    stream.respond({ ':status': 200, 'content-type': 'application/json' }, { endStream: answer === '' });
    if (answer !== '') stream.end(answer);
  });
});

server.listen(0, '127.0.0.1', () => { console.log(server.address().port); });
process.on('SIGTERM', () => {
  process.stdout.write(JSON.stringify({ requests, headers: headersSeen }) + '\n', () => process.exit(0));
});
