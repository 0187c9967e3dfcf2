// Past runs: how long they took over time, and one of them in detail.

import { html, useEffect, useRef } from "./vendor/preact-htm.js";
import { bytes, count, seconds, took } from "./format.js";
import { Badge, Loaded, Num, Table, Time, stateKind, useGet } from "./parts.js";

const COLOURS = ["#0d9488", "#7c3aed", "#d97706", "#2563eb", "#db2777", "#65a30d"];

export function Runs({ app: { runs }, argument }) {
  if (argument) return html`<${OneRun} id=${argument} runs=${runs.data ?? []} />`;
  return html`<h1>Runs</h1><${Loaded} state=${runs}>${(list) =>
    list.length === 0
      ? html`<p class="note">Nothing ran yet.</p>`
      : html`<${Durations} runs=${list} />
          <${Table} caption="Runs, newest first" head=${["run", "state", "begun", "#took", "#rows", "lake", "error"]} rows=${list.map((run) => html`<tr key=${run.id}>
            <th scope="row"><a href=${`#/runs/${run.id}`}>${run.command}</a></th>
            <td><${Badge} kind=${stateKind(run.state)}>${run.state}<//></td><td><${Time} at=${run.started} /></td><${Num}>${seconds(took(run))}<//>
            <${Num}>${count(run.steps.reduce((sum, s) => sum + s.rows, 0))}<//>
            <td>${run.version_after === run.version_before ? "" : `version ${run.version_after}`}</td><td class="bad">${run.error ?? ""}</td></tr>`)} />`}<//>`;
}

function Durations({ runs }) {
  const box = useRef(null);
  const done = runs.filter((run) => run.state === "done" && took(run) !== null).reverse();
  const commands = [...new Set(done.map((run) => run.command))];
  useEffect(() => {
    if (done.length < 2) return undefined;
    const ink = getComputedStyle(document.body).color;
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884" } };
    const series = commands.map((command, i) => ({
      label: command, stroke: COLOURS[i % COLOURS.length], width: 2, spanGaps: true, points: { show: true, size: 7 },
      value: (_, v) => (v === null ? "" : seconds(v)),
    }));
    const chart = new uPlot(
      { width: box.current.clientWidth, height: 220, series: [{}, ...series], axes: [axis, { ...axis, label: "seconds" }] },
      [done.map((run) => new Date(run.started) / 1000), ...commands.map((c) => done.map((run) => (run.command === c ? took(run) : null)))],
      box.current,
    );
    const fit = new ResizeObserver(() => chart.setSize({ width: box.current.clientWidth, height: 220 }));
    fit.observe(box.current);
    return () => { fit.disconnect(); chart.destroy(); };
  }, [runs]);
  return done.length < 2 ? null : html`<figure class="card" aria-label="How long runs took"><div ref=${box}></div></figure>`;
}

function OneRun({ id, runs }) {
  const run = useGet(`/api/runs/${encodeURIComponent(id)}`);
  const before = runs.find((r) => r.command === run.data?.command && r.state === "done" && r.started < run.data.started);
  const previous = useGet(before ? `/api/runs/${encodeURIComponent(before.id)}` : null).data;
  const secondsBefore = (list, is) => seconds(list?.find(is)?.seconds);
  return html`<h1><a href="#/runs">Runs</a> / ${id}</h1><${Loaded} state=${run}>${(r) => html`
    <section class="card"><dl class="facts">
      <div><dt>Command</dt><dd>${r.command} <${Badge} kind=${stateKind(r.state)}>${r.state}<//></dd></div>
      <div><dt>Begun</dt><dd><${Time} at=${r.started} /></dd></div><div><dt>Took</dt><dd>${seconds(took(r))}${before ? `, the one before ${seconds(took(before))}` : ""}</dd></div>
      <div><dt>Lake</dt><dd>version ${r.version_before ?? "none"} before, ${r.version_after ?? "none"} after</dd></div>
      ${r.error ? html`<div><dt>Why it ended</dt><dd class="bad">${r.error}</dd></div>` : null}</dl></section>
    <${Table} caption="Steps" head=${["step", "#seconds", "#the time before", "#rows", "#bytes"]} rows=${r.steps.map((s) => html`<tr><th scope="row">${s.step}</th>
      <${Num}>${seconds(s.seconds)}<//><${Num}>${secondsBefore(previous?.steps, (p) => p.step === s.step)}<//><${Num}>${count(s.rows)}<//><${Num}>${bytes(s.bytes)}<//></tr>`)} />
    ${r.works.length ? html`<${Table} caption="Tables, phases and checks" head=${["step", "piece", "#seconds", "#the time before", "#rows"]} rows=${r.works.map((w) => html`<tr data-testid="piece">
      <td>${w.step}</td><th scope="row">${w.name}</th><${Num}>${seconds(w.seconds)}<//><${Num}>${secondsBefore(previous?.works, (p) => p.step === w.step && p.name === w.name)}<//><${Num}>${count(w.rows)}<//></tr>`)} />` : null}`}<//>`;
}
