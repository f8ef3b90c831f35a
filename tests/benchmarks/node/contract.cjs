// What every measured program of Node does: the same requests and notes as `tests/benchmarks/peers/contract.py`.
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");

const WAIT_MS = 10;
const NOTE_EVERY_MS = 10;
const PACED_FROM = 1_000_000;

const starts = [];
let count = 0;
let first = 0n;
let last = 0n;

function done() {
  last = process.hrtime.bigint();
  if (++count === 1) first = last;
}

// Date.now() has milliseconds only: the offset to the clock with nanoseconds is taken once, at a tick of the former.
const offset = (() => {
  const before = Date.now();
  while (Date.now() === before);
  return BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();
})();
const now = () => Number(process.hrtime.bigint() + offset);

const jobs = {
  nothing: async () => done(),
  wait: async () => {
    await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    done();
  },
  stamp: async (number) => {
    starts.push([number, now()]);
    done();
  },
};

async function main(peer) {
  const [role, ...words] = process.argv.slice(2);
  if (role === "prepare") await peer.prepare();
  else if (role === "work") return work(peer, Number(words[0]));
  else if (role === "pace") await pace(peer, Number(words[0]), Number(words[1]));
  else await timed(peer, role, words[0], Number(words[1]));
  process.exit(0);
}

async function work(peer, concurrency) {
  const folder = process.env.BENCH_FOLDER;
  const file = fs.openSync(path.join(folder, `${process.pid}.tally`), "w");
  const note = () => {
    const words = Buffer.alloc(24);
    [BigInt(count), first, last].forEach((word, place) => words.writeBigInt64LE(word, 8 * place));
    fs.writeSync(file, words, 0, 24, 0);
  };
  setInterval(note, NOTE_EVERY_MS);
  console.log("ready");
  const lines = readline.createInterface({ input: process.stdin });
  lines.once("line", () => peer.work(concurrency));
  lines.once("close", () => {
    note();
    fs.writeFileSync(path.join(folder, `${process.pid}.starts`), JSON.stringify(starts));
    process.exit(0);
  });
}

async function timed(peer, role, kind, total) {
  await peer.send(kind, 0);
  const started = process.hrtime.bigint();
  if (role === "fill") await peer.fill(kind, total - 1);
  else for (let number = 1; number < total; number++) await peer.send(kind, number);
  console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - started) / 1e9, count: total - 1 }));
}

async function pace(peer, total, rate) {
  const calls = [];
  let due = now();
  for (let number = PACED_FROM; number < PACED_FROM + total; number++) {
    // A timer of Node is a millisecond off: the rest is spun away.
    const left = (due - now()) / 1e6;
    if (left > 2) await new Promise((resolve) => setTimeout(resolve, left - 2));
    while (now() < due);
    const called = now();
    await peer.send("stamp", number);
    calls.push([number, called, now()]);
    due = Math.max(due + 1e9 / rate, now());
  }
  console.log(JSON.stringify(calls));
}

const chunks = (total, size) =>
  Array.from({ length: Math.ceil(total / size) }, (_, place) => Math.min(size, total - place * size));

module.exports = { main, jobs, chunks };
