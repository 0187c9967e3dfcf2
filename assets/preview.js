// What a push would change, for a person to judge.

import { html, useState } from "./vendor/preact-htm.js";
import { bytes, count, number, seconds } from "./format.js";
import { Badge, Bar, Num, Table } from "./parts.js";

// From here on the numbers of a column are distributed otherwise.
const SHIFTED = 0.25;

export function Preview({ app: { preview } }) {
  const [all, showAll] = useState(false);
  const report = preview.data;
  if (!report) return html`<h1>Preview</h1><p class="note">There is no preview of the dataset as it is. <a href="#/">Preview</a> compares it with the live table.</p>`;
  const { plan } = report;
  const columns = report.columns.filter((c) => all || c.changed > 0 || c.nulls_before !== c.nulls_after || c.stability_index >= SHIFTED);
  const list = (title, items) => (items.length ? html`<div><dt>${title}</dt><dd>${items.join(", ")}</dd></div>` : null);
  const big = (name, n, kind) => html`<div class=${`big ${n ? kind : ""}`} data-testid=${`rows-${name}`}><strong>${count(n)}</strong> rows ${name}</div>`;
  return html`<h1>Preview of a push to ${plan.table}</h1>
    ${plan.blockers.map((b) => html`<p class="note bad" role="alert" data-testid="blocker"><strong>${b.object}</strong>: ${b.why}. ${b.alternative}</p>`)}
    <section class="bigs" aria-label="Rows">${big("added", report.added, "good")} ${big("removed", report.removed, "bad")} ${big("changed", report.changed, "warn")}</section>
    <section class="card" aria-label="Plan"><dl class="facts">
      <div><dt>Mode</dt><dd>${plan.mode}</dd></div>
      <div><dt>Rows</dt><dd>${count(report.live_rows)} live, ${count(report.dataset_rows)} in the dataset (version ${report.version})</dd></div>
      <div><dt>Who waits</dt><dd>${report.locks}</dd></div>
      <div><dt>Time</dt><dd>${report.push_seconds_estimated === null ? "unknown before the first push" : `about ${seconds(report.push_seconds_estimated)}`}</dd></div>
      <div><dt>Disk on the server</dt><dd>about ${bytes(plan.disk_bytes_needed)} for a while</dd></div>
      ${list("New columns", plan.columns.added.map(([name, type]) => `${name} ${type}`))} ${list("Left out", plan.columns.ignored)}
      ${list("Left null", plan.columns.left_null)} ${list("Kept as they are", plan.columns.kept)} ${list("Other types", plan.columns.converted.map((c) => `${c.column} from ${c.from} to ${c.to}`))} ${list("Values that do not fit", Object.entries(report.misfits).map(([name, n]) => `${count(n)} of ${name}`))} ${list("Filled by the server", plan.columns.filled_by_server)}
      ${list("Notes", plan.notes)}
    </dl>
    ${plan.carried.length ? html`<details><summary>${plan.carried.length} things attached to the table are carried over</summary><ul>${plan.carried.map((c) => html`<li>${c}</li>`)}</ul></details>` : null}
    </section>
    ${report.samples.length ? html`<h2>Some of the rows</h2><${Samples} rows=${report.samples} />` : null}
    <h2>Columns</h2>
    <label><input type="checkbox" checked=${all} onChange=${(e) => showAll(e.target.checked)} /> also those that stay the same</label>
    ${columns.length ? html`<${Table} caption="Changes by column" head=${["column", "#rows changed", "share", "#nulls before", "#nulls after", "#mean before", "#mean after", "shift"]}
      rows=${columns.map((c) => html`<tr key=${c.name}><th scope="row">${c.name}</th><${Num}>${count(c.changed)}<//>
        <td><${Bar} part=${c.changed / Math.max(1, report.live_rows)} label=${`${count(c.changed)} of ${count(report.live_rows)} rows`} /></td>
        <${Num}>${count(c.nulls_before)}<//><${Num}>${count(c.nulls_after)}<//><${Num}>${number(c.mean_before)}<//><${Num}>${number(c.mean_after)}<//>
        <td>${c.stability_index === null ? "" : html`<${Badge} kind=${c.stability_index >= SHIFTED ? "warn" : "good"}>${number(c.stability_index)}<//>`}</td></tr>`)} />`
      : html`<p class="muted">No value of any column changes.</p>`}`;
}

const KINDS = { added: "good", removed: "bad", changed: "warn" };

function Samples({ rows }) {
  const value = (v) => (v === null ? html`<span class="muted">null</span>` : v);
  return html`<${Table} caption="Some of the rows" head=${["change", ...Object.keys(rows[0].key), "what changes"]} rows=${rows.map((row) => html`<tr data-testid="sample-row">
    <td><${Badge} kind=${KINDS[row.change]}>${row.change}<//></td>${Object.keys(rows[0].key).map((name) => html`<td>${row.key[name]}</td>`)}
    <td>${row.columns.map((c) => html`<div class="change"><strong>${c.name}</strong> ${value(c.before)} → ${value(c.after)}</div>`)}</td></tr>`)} />`;
}
