// NocoDB as a server: its npm package is a router that is mounted into an Express application.
'use strict';

const http = require('node:http');
const express = require('express');
const { Noco } = require('nocodb');

const port = Number(process.env.PORT || 8080);

async function main() {
  const app = express();
  const server = http.createServer(app);
  app.use(await Noco.init({}, server, app));
  // Only now: whoever gets an answer gets it from a server whose migrations are done.
  server.listen(port, '0.0.0.0', () => console.log(`NocoDB listens on port ${port}`));
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => {
      server.close(() => process.exit(0));
      server.closeAllConnections();
    });
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
