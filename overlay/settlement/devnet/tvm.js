// The real TVM behind standard input and output: one JSON request a line, one JSON answer a line.
// Uses the public API of @ton/sandbox only. The Python side is tvm.py.
'use strict';
const readline = require('readline');
const { Blockchain, Executor } = require('@ton/sandbox');
const { Address, Cell, parseTuple } = require('@ton/core');

(async () => {
  const answer = (value) => process.stdout.write(JSON.stringify(value) + '\n');
  let executor = await Executor.create();
  const slim = await Blockchain.create({ executor, config: 'slim' });
  answer({
    id: 0, node: process.versions.node, emulator: executor.getVersion().commitHash,
    config: slim.config.toBoc().toString('base64'),
  });
  let config = null;

  const operations = {
    async config(request) {
      config = request.config;
      return { success: true };
    },
    async transaction(request) {
      const { result } = await executor.runTransaction({
        config, libs: null, verbosity: 'short', shardAccount: request.shardAccount, message: Cell.fromBase64(request.message),
        now: request.now, lt: BigInt(request.lt), randomSeed: Buffer.from(request.seed, 'hex'), ignoreChksig: false, debugEnabled: false,
      });
      if (result.success) return { success: true, transaction: result.transaction, shardAccount: result.shardAccount };
      return { success: false, error: result.error, exitCode: result.vmResults ? result.vmResults.vmExitCode : null };
    },
    async method(request) {
      const { output } = await executor.runGetMethod({
        config, verbosity: 'short', code: Cell.fromBase64(request.code), data: Cell.fromBase64(request.data), methodId: request.methodId,
        stack: parseTuple(Cell.fromBase64(request.stack)), address: Address.parse(request.address), balance: BigInt(request.balance),
        unixTime: request.now, randomSeed: Buffer.alloc(32), gasLimit: 1000000n, debugEnabled: false,
      });
      if (!output.success) return { success: false, error: output.error, exitCode: null };
      return { success: true, stack: output.stack, exitCode: output.vm_exit_code, gasUsed: output.gas_used };
    },
  };

  for await (const line of readline.createInterface({ input: process.stdin })) {
    let request;
    try {
      request = JSON.parse(line);
      answer({ id: request.id, ...(await operations[request.op](request)) });
    } catch (error) {
      // A trap leaves the emulator's memory in pieces: whatever runs in it afterwards would fail, or be wrong.
      if (error instanceof WebAssembly.RuntimeError) executor = await Executor.create();
      answer({ id: request ? request.id : null, success: false, error: String(error), exitCode: null });
    }
  }
})();
