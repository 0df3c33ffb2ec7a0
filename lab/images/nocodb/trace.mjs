// Copies what server.js really needs out of node_modules (1.6 GB) to DESTINATION/app (124 MB), and
// the Node that runs this to DESTINATION/bin.
// Usage: node trace.mjs DESTINATION
import { cpSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { nodeFileTrace } from '@vercel/nft';

// Read by path at run time, so no import leads to them.
const READ_BY_PATH = ['node_modules/nocodb/dist/public', 'node_modules/nc-lib-gui/lib'];

const destination = process.argv[2];
const app = join(destination, 'app');
const { fileList } = await nodeFileTrace(['server.js'], { base: process.cwd() });

for (const file of fileList) {
  mkdirSync(dirname(join(app, file)), { recursive: true });
  cpSync(file, join(app, file), { recursive: true, verbatimSymlinks: true });
}
for (const folder of READ_BY_PATH) {
  cpSync(folder, join(app, folder), { recursive: true });
}
cpSync(process.execPath, join(destination, 'bin/node'));
console.log(`${fileList.size} files traced, Node ${process.version}`);
