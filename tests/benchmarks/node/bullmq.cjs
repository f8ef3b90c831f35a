// BullMQ; what is done is removed at once, so it keeps nothing.
const IORedis = require("ioredis");
const { Queue, Worker } = require("bullmq");
const { main, jobs, chunks } = require("./contract.cjs");

const Redis = IORedis.Redis ?? IORedis;
const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue("bench", { connection });
const opts = { removeOnComplete: true };

main({
  prepare: async () => {},
  send: (kind, number) => queue.add(kind, { number }, opts),
  fill: async (kind, total) => {
    for (const size of chunks(total, 1000)) {
      await queue.addBulk(Array.from({ length: size }, (_, number) => ({ name: kind, data: { number }, opts })));
    }
  },
  work: (concurrency) =>
    new Worker("bench", (job) => jobs[job.name](job.data.number), { connection: connection.duplicate(), concurrency }),
});
