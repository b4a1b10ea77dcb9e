/* Every call of OpenAI's JavaScript client for fine-tuning, made against a running server; prints which, as JSON.

It runs in the folder where npm put the client. Argument: the folder with train.jsonl and valid.jsonl. OPENAI_BASE_URL
and OPENAI_API_KEY say where, OPENAI_ADMIN_KEY is sent where the client wants an administrator's; OTHER_API_KEY and
OTHER_PROJECT_ID name a second project of the same organisation. */

const assert = require("node:assert/strict");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const { createRequire } = require("node:module");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");

const installed = createRequire(path.join(process.cwd(), "client.cjs"));
const openai = installed("openai");
const { VERSION } = installed("openai/version");
const { APIResource } = installed("openai/core/resource");

const OURS = ["files", "uploads", "fineTuning", "models", "webhooks"];
const STRING_CHECK = {
  type: "string_check",
  name: "same",
  input: "{{ sample.output_text }}",
  reference: "{{item.answer}}",
  operation: "eq",
};

/** A client that remembers which calls were answered. */
function recorded(target, answered, at = []) {
  return new Proxy(target, {
    get(_, name) {
      const found = target[name];
      if (found instanceof APIResource) return recorded(found, answered, [...at, name]);
      if (typeof found !== "function") return found;
      return async (...given) => {
        const result = await found.apply(target, given);
        answered.add([...at, name].join("."));
        return result;
      };
    },
  });
}

/** The names of all calls that a part of the client offers. */
function methods(resource, at) {
  const own = Object.getOwnPropertyNames(Object.getPrototypeOf(resource));
  const calls = own.filter((name) => name !== "constructor" && typeof resource[name] === "function");
  const parts = Object.entries(resource).filter(([, part]) => part instanceof APIResource);
  return [...calls.map((name) => `${at}.${name}`), ...parts.flatMap(([name, part]) => methods(part, `${at}.${name}`))];
}

/** `fetch`, with a look at what every reply carries. */
async function checkedFetch(...given) {
  const reply = await fetch(...given);
  assert.match(reply.headers.get("x-request-id"), /^req_[0-9a-f]{32}$/);
  assert.equal(reply.headers.get("openai-version"), "2020-10-01");
  assert.match(reply.headers.get("openai-organization"), /^org-/);
  assert.match(reply.headers.get("openai-processing-ms"), /^\d+$/);
  return reply;
}

async function every(page) {
  const items = [];
  for await (const item of page) items.push(item);
  return items;
}

const ids = async (page) => (await every(page)).map((item) => item.id);

async function files(c, file) {
  const content = fs.readFileSync(file);
  const lives = { anchor: "created_at", seconds: 3600 };
  const made = await c.files.create({ file: fs.createReadStream(file), purpose: "fine-tune", expires_after: lives });
  assert.deepEqual([made.filename, made.status, made.bytes], ["train.jsonl", "processed", content.length]);
  assert.equal(made.expires_at, made.created_at + 3600);
  const spare = await c.files.create({ file: await openai.toFile(content, "spare"), purpose: "user_data" });
  assert.deepEqual(await c.files.retrieve(made.id), made);
  const newest = await ids(await c.files.list({ limit: 3 }));
  assert.deepEqual((await ids(await c.files.list({ limit: 2, order: "asc" }))).reverse(), newest);
  assert(newest.indexOf(spare.id) < newest.indexOf(made.id));
  assert(!(await ids(await c.files.list({ purpose: "fine-tune" }))).includes(spare.id));
  assert.deepEqual(Buffer.from(await (await c.files.content(made.id)).arrayBuffer()), content);
  assert.equal((await c.files.waitForProcessing(made.id)).id, made.id);
  assert((await c.files.delete(spare.id)).deleted);
  await assert.rejects(c.files.retrieve(spare.id), { status: 404, param: "id", code: null });
  return made.id;
}

async function uploads(c, file) {
  const content = fs.readFileSync(file);
  const about = { bytes: content.length, filename: "parts.jsonl", mime_type: "text/jsonl", purpose: "fine-tune" };
  const half = Math.floor(content.length / 2);
  const upload = await c.uploads.create(about);
  const send = async (data) => (await c.uploads.parts.create(upload.id, { data: await openai.toFile(data, "x") })).id;
  const [last, first] = await Promise.all([send(content.subarray(half)), send(content.subarray(0, half))]);
  const md5 = createHash("md5").update(content).digest("hex");
  const done = await c.uploads.complete(upload.id, { part_ids: [first, last], md5 });
  assert.deepEqual([done.status, done.file.bytes], ["completed", content.length]);
  assert.equal((await c.uploads.cancel((await c.uploads.create(about)).id)).status, "cancelled");
  return done.file.id;
}

async function newJob(c, training, validation, n_epochs, batch_size) {
  return c.fineTuning.jobs.create({
    model: "tiny-chat",
    training_file: training,
    validation_file: validation,
    suffix: "Every Call",
    seed: 7,
    integrations: null,
    metadata: { by: training },
    hyperparameters: { n_epochs: "auto" },
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs, batch_size } } },
  });
}

/** A job as soon as it has this status. */
async function reach(c, job, status) {
  for (const deadline = Date.now() + 120_000; ; await sleep(50)) {
    const seen = await c.fineTuning.jobs.retrieve(job);
    if (seen.status === status) return seen;
    assert(Date.now() < deadline && !["succeeded", "failed", "cancelled"].includes(seen.status), JSON.stringify(seen));
  }
}

/** The first checkpoint of a job, after a look at all that a job leaves behind. */
async function finished(c, job) {
  const done = await reach(c, job.id, "succeeded");
  assert.match(done.fine_tuned_model, /^ft:tiny-chat:[^:]+:every-call:[a-z0-9]{8}$/);
  assert.deepEqual(await ids(await c.fineTuning.jobs.list({ metadata: job.metadata })), [job.id]);
  const events = await every(await c.fineTuning.jobs.listEvents(job.id, { limit: 3 }));
  assert.equal(events.at(-1).message, `Created fine-tuning job: ${job.id}`);
  assert.equal(events[0].message, "The job has successfully completed");
  const points = await every(await c.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 }));
  assert.deepEqual(points.map((point) => point.step_number), [4, 2]);
  assert.equal(points[0].fine_tuned_model_checkpoint, done.fine_tuned_model);
  const results = await (await c.files.content(done.result_files[0])).text();
  assert.equal(results.split("\n")[0], "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy");
  return points[1].fine_tuned_model_checkpoint;
}

async function stop(c, job) {
  await reach(c, job, "running");
  assert(["pausing", "paused"].includes((await c.fineTuning.jobs.pause(job)).status));
}

async function goOn(c, job) {
  await reach(c, job, "paused");
  assert.equal((await c.fineTuning.jobs.resume(job)).status, "queued");
  assert.equal((await c.fineTuning.jobs.cancel(job)).status, "cancelled");
  await assert.rejects(c.fineTuning.jobs.cancel(job), { status: 400, param: null, code: null });
}

async function permissions(c, checkpoint) {
  const shared = c.fineTuning.checkpoints.permissions;
  const other = new openai.OpenAI({ apiKey: process.env.OTHER_API_KEY, fetch: checkedFetch });
  const project = process.env.OTHER_PROJECT_ID;
  await assert.rejects(other.models.retrieve(checkpoint), { status: 404 });
  const [granted] = await every(await shared.create(checkpoint, { project_ids: [project] }));
  assert.equal(granted.project_id, project);
  assert.deepEqual(await ids(await shared.list(checkpoint, { order: "ascending", limit: 1 })), [granted.id]);
  const { data } = await shared.retrieve(checkpoint, { project_id: project });
  assert.deepEqual(data.map((row) => row.id), [granted.id]);
  assert.equal((await other.models.retrieve(checkpoint)).id, checkpoint);
  assert((await shared.delete(granted.id, { fine_tuned_model_checkpoint: checkpoint })).deleted);
  await assert.rejects(other.models.retrieve(checkpoint), { status: 404 });
}

async function graders(c) {
  const alpha = c.fineTuning.alpha.graders;
  assert.equal((await alpha.validate({ grader: STRING_CHECK })).grader.operation, "eq");
  const graded = await alpha.run({ grader: STRING_CHECK, model_sample: "yes", item: { answer: "yes" } });
  assert.deepEqual([graded.reward, graded.metadata.name], [1, "same"]);
}

async function models(c, model) {
  const names = await ids(await c.models.list());
  assert(names.includes("tiny-chat") && names.includes(model));
  assert.equal((await c.models.retrieve("tiny-chat")).owned_by, "system");
  assert((await c.models.delete(model)).deleted);
  await assert.rejects(c.models.retrieve(model), { status: 404, param: "model", code: "model_not_found" });
}

async function webhooks(c) {
  const arrived = [];
  const receiver = http.createServer((request, reply) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      arrived.push({ headers: request.headers, body: Buffer.concat(chunks).toString() });
      reply.end();
    });
  });
  await new Promise((listening) => receiver.listen(0, "127.0.0.1", listening));
  const url = `http://127.0.0.1:${receiver.address().port}/hook`;
  const wanted = { name: "every", url, event_types: ["fine_tuning.job.failed"] };
  const { id } = await c.webhooks.create(wanted);
  assert.equal((await c.webhooks.retrieve(id)).name, "every");
  assert.equal((await c.webhooks.update(id, { name: "all" })).name, "all");
  assert((await ids(await c.webhooks.list({ limit: 1 }))).includes(id));
  assert((await c.webhooks.eventTypes.list()).data.includes("fine_tuning.job.failed"));
  const { signing_secret: secret } = await c.webhooks.rotateSecret(id);
  const tested = await c.webhooks.test(id, { event_type: "fine_tuning.job.succeeded" });
  assert.deepEqual([tested.success, tested.status_code], [true, 200]);
  const { body, headers } = arrived.at(-1);
  await c.webhooks.verifySignature(body, headers, secret);
  assert.equal((await c.webhooks.unwrap(body, headers, secret)).type, "fine_tuning.job.succeeded");
  await assert.rejects(c.webhooks.unwrap(`${body} `, headers, secret), openai.InvalidWebhookSignatureError);
  assert((await c.webhooks.delete(id)).deleted);
  receiver.close();
}

async function main(data) {
  const answered = new Set();
  const client = new openai.OpenAI({ fetch: checkedFetch });
  const c = recorded(client, answered);
  const training = await files(c, path.join(data, "train.jsonl"));
  const validation = await uploads(c, path.join(data, "valid.jsonl"));
  const longJob = await newJob(c, training, validation, 50, 1);
  const job = await newJob(c, validation, validation, 2, 5);
  await graders(c);
  await webhooks(c);
  await stop(c, longJob.id);
  const checkpoint = await finished(c, job);
  await permissions(c, checkpoint);
  await goOn(c, longJob.id);
  await models(c, checkpoint);
  const offered = OURS.flatMap((part) => methods(client[part], part)).sort();
  return { version: VERSION, offered, answered: [...answered].sort() };
}

main(process.argv[2]).then((seen) => console.log(JSON.stringify(seen)));
