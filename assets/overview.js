// The four steps with their live state, what is running, what is where, and the buttons that start things.

import { html, useState } from "./vendor/preact-htm.js";
import { post } from "./api.js";
import { bytes, count, seconds, took } from "./format.js";
import { Badge, Bar, Exports, Loaded, Question, Time, stateKind, useGet } from "./parts.js";

const STEPS = [
  ["pull", "Pull", "source to lake"],
  ["transform", "Run", "SQL phases"],
  ["validate", "Validate", "checks"],
  ["push", "Push", "lake to target"],
];

export function Overview({ app }) {
  const { live, status, pipeline, runs } = app;
  return html`<h1>Overview</h1>
    <${Steps} live=${live} runs=${runs.data ?? []} />
    <${Actions} app=${app} />
    <${Works} live=${live} runs=${runs.data ?? []} />
    <${Loaded} state=${status}>${(s) => html`<${Places} status=${s} pipeline=${pipeline.data} />`}<//>`;
}

function lastStep(runs, step) {
  for (const run of runs) {
    const found = run.steps.find((s) => s.step === step);
    if (found) return { run, ...found };
  }
  return null;
}

// The step at which the run that ended last came to its end, when that was no good one.
function brokenStep({ running, works, last }) {
  if (running || !last || last.state === "done") return null;
  return works.filter(Boolean).at(-1)?.step ?? null;
}

function Steps({ live, runs }) {
  const broken = brokenStep(live);
  return html`<ol class="steps" aria-label="Steps of a rebuild">${STEPS.map(([step, name, what]) => {
    const works = live.works.filter((work) => work?.step === step);
    const open = works.filter((work) => work.state === "running");
    const before = lastStep(runs, step);
    const state = open.length ? "running" : broken === step || works.some((w) => w.state === "stopped") ? "stopped" : works.length ? "done" : "idle";
    const sum = (list, key) => list.reduce((total, work) => total + (work[key] ?? 0), 0);
    const expected = sum(works, "rows_expected");
    return html`<li class=${`step ${state}`} data-testid=${`step-${step}`} aria-current=${open.length ? "step" : null}>
      <strong>${name} ${broken === step ? html`<${Badge} kind="bad">${live.last.state}<//>` : null}</strong> <span class="muted">${what}</span>
      ${works.length
        ? html`<span>${count(sum(works, "rows"))} rows</span>
            ${open.length && expected ? html`<${Bar} progress part=${sum(works, "rows") / expected} label=${`${name} progress`} />` : null}`
        : html`<span class="muted">${before ? html`${count(before.rows)} rows in ${seconds(before.seconds)}, <${Time} at=${before.run.started} />` : "not yet"}</span>`}
    </li>`;
  })}</ol>`;
}

function Actions({ app }) {
  const { live, session, pipeline, status, validation, preview, act, elsewhere } = app;
  const [question, ask] = useState(null);
  const [from, setFrom] = useState("");
  const viewer = session.data?.role === "viewer";
  const busy = viewer ? "this token may only look" : live.running ? `${live.running.command} is running`
    : elsewhere ? `${elsewhere.command} is running in another process` : null;
  const target = pipeline.data?.target;
  const version = status.data?.tables.find((t) => t.name === pipeline.data?.dataset.name)?.version;
  const noPush =
    busy ??
    (!version ? "there is no dataset yet: run the phases" : null) ??
    (validation.data?.blocked ? "validation blocks it: see the findings" : null) ??
    (preview.data?.version !== version ? "look at a preview of this dataset first" : null) ??
    (preview.data.plan.blockers.length ? "something stands in the way: see the preview" : null);
  const noRollback = busy ?? (status.data?.backup ? null : "there is no backup to put back");
  // What is off and why, by reason: seen without a pointer, and told to who cannot see.
  const off = new Map();
  const button = (id, label, why, run, kind = "") => {
    if (why) off.set(why, [...(off.get(why) ?? []), label.replace(" …", "")]);
    return html`<button id=${`btn-${id}`} class=${kind} disabled=${why !== null} aria-describedby=${why ? "reasons" : null} onClick=${run}>${label}</button>`;
  };
  const start = (path, body) => () => act(() => post(path, body));
  const dangerous = (title, label, path, body, facts) => () =>
    ask({ title, label, facts: [["table", target.table], ["server", target.server ?? "–"], ...facts],
      run: () => act(() => post(path, { ...body, confirm: target.table })) });
  const liveRows = ["live rows now", `about ${count(status.data?.live?.rows_estimated)}`];
  const pushFacts = () => [
    ["rows of the dataset", count(preview.data.dataset_rows)], ["rows added", count(preview.data.added)],
    ["rows removed", count(preview.data.removed)], ["rows changed", count(preview.data.changed)], ["who waits", preview.data.locks]];
  return html`<section class="card" aria-label="Actions">
    <div class="row">
      ${button("pull", "Pull", busy, start("/api/pull"))}
      ${button("pull-incremental", "Pull what changed", busy, start("/api/pull", { incremental: true }))}
      <span class="joined">
        ${button("run", "Run phases", busy, start("/api/transform", { from: from || null }))}
        <label class="hidden" for="run-from">from phase</label>
        <select id="run-from" value=${from} onChange=${(e) => setFrom(e.target.value)}>
          <option value="">from the first</option>
          ${(pipeline.data?.phases ?? []).filter((p) => p.engine === "duckdb").map((p) => html`<option value=${p.number}>from ${p.name}</option>`)}
        </select>
      </span>
      ${button("validate", "Validate", busy, start("/api/validate"))}
      ${button("audit", "Audit", busy, start("/api/validate", { audit: true }))}
      ${button("preview", "Preview", busy, start("/api/preview"))}
      ${button("push", "Push …", noPush, () => dangerous("Push the dataset", "Push", "/api/push", { version }, pushFacts())(), "danger")}
      ${button("rollback", "Roll back …", noRollback, dangerous("Put the backup back", "Roll back", "/api/rollback", {}, [liveRows,
        ["backup rows", `about ${count(status.data?.backup?.rows_estimated)}`]]), "danger")}
      ${button("rebuild", "Rebuild …", busy, dangerous("Pull, run, validate and push", "Rebuild", "/api/rebuild", {}, [liveRows]), "danger")}
      ${live.running && !viewer ? button("cancel", "Cancel", null, start("/api/cancel", { run_id: live.running.run_id })) : null}
    </div>
    ${version ? html`<p><${Exports} table=${pipeline.data.dataset.name}>Export the dataset as<//></p>` : null}
    <${Reasons} off=${off} push=${noPush} findings=${validation.data?.blocked} />
    ${question ? html`<${Question} ...${question} table=${target.table} onClose=${() => ask(null)}
      onConfirm=${() => { ask(null); question.run(); }} />` : null}
  </section>`;
}

function Reasons({ off, push, findings }) {
  const link = findings ? html` <a href="#/validation">Findings</a>` : html` <a href="#/preview">Preview</a>`;
  const list = (labels) => (labels.length > 1 ? `${labels.slice(0, -1).join(", ")} and ${labels.at(-1)} are` : `${labels[0]} is`);
  return html`<ul id="reasons" class="reasons muted">${[...off].map(([why, labels]) => html`<li key=${why} data-testid=${why === push ? "push-reason" : null}>
    ${list(labels)} off: ${why}.${why === push && labels.length === 1 ? link : null}</li>`)}</ul>`;
}

function Works({ live, runs }) {
  const works = live.works.filter(Boolean);
  const [command, id] = live.running ? [live.running.command, live.running.run_id] : [live.last?.command, live.last?.id];
  const before = runs.find((run) => run.command === command && run.id !== id && run.state === "done" && took(run) !== null);
  const pieces = useGet(before ? `/api/runs/${encodeURIComponent(before.id)}` : null).data?.works ?? [];
  const secondsBefore = (work) => pieces.find((piece) => piece.step === work.step && piece.name === work.name)?.seconds;
  if (!works.length && !live.warnings.length) return null;
  return html`<section class="card" aria-label="Work">
    <h2>${live.running ? html`${live.running.command}, begun <${Time} at=${live.running.started} />` : "The last run"}
      ${before ? html` <span class="muted">the last one took ${seconds(took(before))}</span>` : null}</h2>
    ${live.warnings.map((w) => html`<p class="note warn">${w.step}: ${w.message}</p>`)}
    <ul class="works">${works.map((work) => {
      const rate = work.seconds > 0 ? work.bytes / work.seconds : 0;
      const part = work.rows_expected ? work.rows / work.rows_expected : null;
      const left = part > 0.01 && part < 1 ? (work.seconds * (1 - part)) / part : null;
      return html`<li key=${work.id} data-testid="work" class=${work.state}>
        <span class="name">${work.step === "transform" ? "run" : work.step} <strong>${work.name}</strong></span>
        <${Bar} progress part=${work.state === "done" ? 1 : part} label=${`${work.name}: ${work.state}`} />
        <span class="num">${count(work.rows)} rows</span><span class="num">${work.bytes ? bytes(work.bytes) : ""}</span>
        <span class="num">${work.bytes ? `${bytes(rate)}/s` : ""}</span>
        <span class="num">${seconds(work.seconds)}${work.state === "running" && left ? `, ${seconds(left)} left` : ""}</span>
        <span class="num muted" data-testid="seconds-before">${secondsBefore(work) === undefined ? "" : `last time ${seconds(secondsBefore(work))}`}</span>
        <${Badge} kind=${work.state === "running" ? "busy" : work.state === "done" ? "good" : "bad"}>${work.state}<//>
      </li>`;
    })}</ul>
  </section>`;
}

function Places({ status, pipeline }) {
  const server = (name, s) => html`<div><dt>${name}</dt><dd><${Badge} kind=${s.reachable ? "good" : "bad"}>${s.reachable ? "reachable" : "not reachable"}<//>
    ${" "}${s.server ?? ""} <span class="muted">${s.detail}</span></dd></div>`;
  const table = (name, t) => html`<div><dt>${name}</dt><dd>${t
    ? html`${t.table}, about ${count(t.rows_estimated)} rows, ${bytes(t.bytes)}${t.since ? html`, since <${Time} at=${t.since} />` : null}` : "none"}</dd></div>`;
  const run = status.last_run;
  const schedule = pipeline?.schedule;
  return html`<section class="card" aria-label="State"><h2>What is where</h2><dl class="facts">
    ${server("Source", status.source)} ${server("Target", status.target)}
    ${table("Live table", status.live)} ${table("Backup", status.backup)}
    <div><dt>Lake</dt><dd>${status.lake}, ${status.version ? `version ${status.version}, ${status.tables.length} tables, ${bytes(status.tables.reduce((sum, t) => sum + t.bytes, 0))}` : "empty"}</dd></div>
    <div><dt>Last run</dt><dd>${run ? html`<a href=${`#/runs/${run.id}`}>${run.command}</a> <${Badge} kind=${stateKind(run.state)}>${run.state}<//> <${Time} at=${run.started} />
      ${run.error ? html`<span class="bad"> ${run.error}</span>` : null}` : "none"}</dd></div>
    <div><dt>Schedule</dt><dd>${schedule ? html`<code>${schedule.cron}</code> ${schedule.zone}, next <${Time} at=${schedule.next} />
      ${schedule.missed ? html`<p class="note warn">The rebuild of <${Time} at=${schedule.missed} /> was missed.</p>` : null}` : "none; serve --schedule sets one"}</dd></div>
    ${status.leftovers.length ? html`<div><dt>Left by dead pushes</dt><dd>${status.leftovers.length}; racealpha gc removes them</dd></div>` : null}
  </dl></section>`;
}
