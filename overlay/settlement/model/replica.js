// The real TVM with accounts that stay here: one JSON request a line on standard input, one JSON answer a line.
// Uses the public API of @ton/sandbox only. The Python side is replica.py.
'use strict';
const readline = require('readline');
const { Blockchain, Executor } = require('@ton/sandbox');
const { Cell, beginCell, loadShardAccount } = require('@ton/core');

const NOBODY = beginCell().storeRef(beginCell().storeBit(0).endCell()).storeUint(0, 256).storeUint(0, 64).endCell()
  .toBoc().toString('base64');

function summary(encoded) {
  const { account } = loadShardAccount(Cell.fromBase64(encoded).beginParse());
  if (!account) return { exists: false, balance: '0', due: '0', data: null };
  const { state } = account.storage;
  return {
    exists: true, balance: String(account.storage.balance.coins), due: String(account.storageStats.duePayment || 0n),
    data: state.type === 'active' ? state.state.data.toBoc().toString('base64') : null,
  };
}

(async () => {
  const answer = (value) => process.stdout.write(JSON.stringify(value) + '\n');
  const executor = await Executor.create();
  const slim = await Blockchain.create({ executor, config: 'slim' });
  const config = slim.config.toBoc().toString('base64');
  answer({ config });
  let accounts = new Map();
  const kept = new Map();

  const operations = {
    async run({ address, message, now, lt }) {
      const { result } = await executor.runTransaction({
        config, libs: null, verbosity: 'short', shardAccount: accounts.get(address) || NOBODY, message: Cell.fromBase64(message),
        now, lt: BigInt(lt), randomSeed: Buffer.alloc(32), ignoreChksig: false, debugEnabled: false,
      });
      if (!result.success) return { success: false };
      accounts.set(address, result.shardAccount);
      return { success: true, transaction: result.transaction, account: summary(result.shardAccount) };
    },
    async forget() {
      accounts = new Map();
      return {};
    },
    async keep({ address }) {
      kept.set(address, accounts.get(address));
      return {};
    },
    async restore({ address }) {
      accounts.set(address, kept.get(address));
      return { account: summary(accounts.get(address)) };
    },
  };

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    answer(await operations[request.op](request));
  }
})();
