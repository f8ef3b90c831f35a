// pg-boss, tuned: jobs are fetched 32 at once (one at once when they take their time), and whoever found some looks again
// at once instead of sleeping for half a second, its shortest interval.
const PgBoss = require("pg-boss");
const { main, jobs, chunks } = require("./contract.cjs");

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, schedule: false, supervise: false, max: 10 });
boss.on("error", (error) => console.error(error.message));
let started;
const ready = () => (started ??= boss.start());
const batchSize = process.env.BENCH_WORK === "wait" ? 1 : 32;
const KINDS = Object.keys(jobs);

main({
  prepare: async () => {
    await ready();
    for (const kind of KINDS) await boss.createQueue(kind);
  },
  send: async (kind, number) => (await ready(), boss.send(kind, { number })),
  fill: async (kind, total) => {
    await ready();
    for (const size of chunks(total, 1000)) {
      await boss.insert(Array.from({ length: size }, (_, number) => ({ name: kind, data: { number } })));
    }
  },
  work: async (concurrency) => {
    await ready();
    const kind = process.env.BENCH_WORK;
    for (let one = 0; one < concurrency; one++) {
      let id;
      id = await boss.work(kind, { batchSize, pollingIntervalSeconds: 0.5 }, async (found) => {
        if (id) boss.notifyWorker(id);
        for (const job of found) await jobs[kind](job.data.number);
      });
    }
  },
});
