// graphile-worker: jobs as rows of Postgres, deleted when done. With BENCH_VARIANT=batch it fetches and completes in
// sets; without, one by one.
const { makeWorkerUtils, run, runMigrations, Logger } = require("graphile-worker");
const { main, jobs, chunks } = require("./contract.cjs");

const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const batch = {
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
const preset = process.env.BENCH_VARIANT === "batch" ? { worker: batch } : {};
let made;
const utils = () => (made ??= makeWorkerUtils({ connectionString, logger }));
const taskList = Object.fromEntries(Object.entries(jobs).map(([name, job]) => [name, ({ number }) => job(number)]));

main({
  prepare: () => runMigrations({ connectionString, logger }),
  send: async (kind, number) => (await utils()).addJob(kind, { number }),
  fill: async (kind, total) => {
    for (const size of chunks(total, 1000)) {
      const specs = Array.from({ length: size }, (_, number) => ({ identifier: kind, payload: { number } }));
      await (await utils()).addJobs(specs);
    }
  },
  work: (concurrency) =>
    run({ connectionString, logger, preset, taskList, concurrentJobs: concurrency, noHandleSignals: true }),
});
