// An independent check of the channel contract: reads scenarios as JSON on standard input, encodes every message with
// @ton/core after docs/protocols/{channel,voucher}.md (nothing comes from the Python side but the scenario's numbers and
// the code), runs them in a Blockchain of @ton/sandbox and prints what came of each. test_contract_oracle.py compares.
'use strict';
const { Blockchain, Executor, internal } = require('@ton/sandbox');
const { Address, Cell, beginCell, contractAddress } = require('@ton/core');
const { keyPairFromSeed, sign } = require('@ton/crypto');

const OPS = { top_up: 0x10c00001, claim: 0x10c00002, close_together: 0x10c00003, start_refund: 0x10c00004, finish_refund: 0x10c00005 };
const VOUCHER_TAG = 0x564f5543, CLOSE_TAG = 0x434c4f53;

function initOf(code, stage, keys, startS) {
  const terms = beginCell().storeAddress(Address.parse(stage.payer)).storeBuffer(keys.payee.publicKey)
    .storeUint(stage.nonce, 64).storeUint(startS + stage.expiry_s, 32).storeUint(stage.challenge_period_s, 32).endCell();
  const data = beginCell().storeCoins(0).storeCoins(0).storeAddress(Address.parse(stage.payee)).storeBuffer(keys.payer.publicKey)
    .storeUint(VOUCHER_TAG, 32).storeInt(stage.network_id, 32).storeUint(0, 32).storeRef(terms).endCell();
  return { code, data };
}

const signature = (keys, who, cell) => (who === 'nobody' ? Buffer.alloc(64) : sign(cell.hash(), keys[who].secretKey));

function bodyOf(step, address, keys, startS) {
  const head = () => beginCell().storeUint(OPS[step.op], 32).storeUint(BigInt(step.query_id), 64);
  if (step.op === 'top_up') return head().storeCoins(BigInt(step.amount_nanoton)).endCell();
  if (step.op === 'claim') {
    const voucher = beginCell().storeUint(VOUCHER_TAG, 32).storeInt(step.network_id, 32).storeAddress(address)
      .storeUint(step.seq, 64).storeCoins(BigInt(step.amount_nanoton)).endCell();
    return head().storeBuffer(signature(keys, step.signer, voucher)).storeBit(step.close).storeRef(voucher).endCell();
  }
  if (step.op === 'close_together') {
    const agreement = beginCell().storeUint(CLOSE_TAG, 32).storeInt(step.network_id, 32).storeAddress(address)
      .storeCoins(BigInt(step.amount_nanoton)).storeUint(startS + step.valid_for_s, 32).endCell();
    const second = beginCell().storeBuffer(signature(keys, step.cosigner, agreement)).endCell();
    return head().storeBuffer(signature(keys, step.signer, agreement)).storeRef(second).storeRef(agreement).endCell();
  }
  if (step.op in OPS) return head().endCell();
  if (step.op === 'bounced') return beginCell().storeUint(0xffffffff, 32).storeUint(OPS.claim, 32).endCell();
  return step.op === 'empty' ? Cell.EMPTY : beginCell().storeUint(0xdeadbeef, 32).storeUint(1, 64).endCell();
}

function outMessage(message) {
  const body = message.body.beginParse();
  const named = body.remainingBits >= 96;
  return {
    to: message.info.dest.toRawString(), value: String(message.info.value.coins), bounced: message.info.bounced,
    op: named ? body.loadUint(32) : null, query_id: named ? String(body.loadUintBig(64)) : null,
  };
}

async function play(scenario, code, keys, startS, executor) {
  const blockchain = await Blockchain.create({ executor, config: 'slim' });
  const { stage } = scenario;
  const init = initOf(code, stage, keys, startS);
  const address = contractAddress(0, init);
  const other = contractAddress(0, initOf(code, { ...stage, nonce: stage.nonce + 1 }, keys, startS));
  const senders = { payer: stage.payer, payee: stage.payee, relayer: stage.relayer, nobody: stage.relayer };
  const steps = [];
  for (const step of scenario.steps) {
    blockchain.now = startS + step.at_s;
    const { transactions } = await blockchain.sendMessage(internal({
      from: Address.parse(senders[step.sender]), to: address, value: BigInt(step.value_nanoton),
      body: bodyOf(step, step.channel === 'own' ? address : other, keys, startS),
      stateInit: step.deploys ? init : undefined, bounce: step.bounce && step.op !== 'bounced', bounced: step.op === 'bounced',
    }));
    const [first] = transactions, compute = first.description.computePhase;
    const account = (await blockchain.getContract(address)).account.account;
    steps.push({
      exit_code: compute.type === 'vm' ? compute.exitCode : null, gas: compute.type === 'vm' ? String(compute.gasUsed) : '0',
      fees: String(first.totalFees.coins), balance: String(account ? account.storage.balance.coins : 0n),
      sent: first.outMessages.values().map(outMessage),
    });
  }
  return { name: scenario.name, address: address.toRawString(), steps };
}

(async () => {
  const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const keys = Object.fromEntries(Object.entries(input.seeds).map(([who, seed]) => [who, keyPairFromSeed(Buffer.from(seed, 'hex'))]));
  const code = Cell.fromBase64(input.code);
  const played = [], executor = await Executor.create();
  for (const scenario of input.scenarios) played.push(await play(scenario, code, keys, input.start_s, executor));
  process.stdout.write(JSON.stringify(played));
})();
