// Compile channel.tolk: writes channel.boc and channel.code_hash beside it, or with --check only prints what they would be.
// Usage: node compile.js [--check]; NODE_PATH may name the node_modules directory.
'use strict';
const fs = require('fs');
const path = require('path');
const { runTolkCompiler, getTolkCompilerVersion } = require('@ton/tolk-js');

(async () => {
  const result = await runTolkCompiler({
    entrypointFileName: 'channel.tolk',
    fsReadCallback: (name) => fs.readFileSync(path.join(__dirname, name), 'utf8'),
  });
  if (result.status === 'error') {
    process.stderr.write(result.message + '\n');
    process.exit(1);
  }
  const hash = result.codeHashHex.toLowerCase();
  if (!process.argv.includes('--check')) {
    fs.writeFileSync(path.join(__dirname, 'channel.boc'), Buffer.from(result.codeBoc64, 'base64'));
    fs.writeFileSync(path.join(__dirname, 'channel.code_hash'), hash + '\n');
  }
  process.stdout.write(JSON.stringify({ tolk: await getTolkCompilerVersion(), codeHash: hash, codeBoc64: result.codeBoc64 }) + '\n');
})();
