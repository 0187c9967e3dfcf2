// The findings, what was measured against what is allowed, and the rows that offend.

import { html } from "./vendor/preact-htm.js";
import { count, seconds } from "./format.js";
import { Badge, Table, stateKind } from "./parts.js";

const ORDER = { fail: 0, warn: 1, pass: 2 };

export function Validation({ app: { validation } }) {
  const report = validation.data;
  if (!report) return html`<h1>Validation</h1><p class="note">The lake was not validated as it is. <a href="#/">Validate</a> checks it.</p>`;
  const findings = [...report.findings].sort((a, b) => ORDER[a.verdict] - ORDER[b.verdict] || a.id.localeCompare(b.id));
  const bad = findings.filter((f) => f.verdict !== "pass").length;
  return html`<h1>Validation</h1>
    <p class=${`note ${report.blocked ? "bad" : "good"}`} data-testid="verdict" role="status">
      ${report.blocked ? "Validation blocks the push." : "Nothing blocks the push."} ${count(bad)} of ${findings.length} checks found something,
      in ${count(report.rows)} rows of version ${report.version}, in ${seconds(report.seconds)}.</p>
    <${Table} caption="Findings" head=${["check", "verdict", "severity", "observed", "limit"]} rows=${findings.map((f) => html`<tr key=${f.id} data-testid="finding">
      <th scope="row" class="wide">${f.id} <span class="plain">${f.check}</span>${f.sample.length ? html`<${Sample} rows=${f.sample} />` : null}</th>
      <td><${Badge} kind=${stateKind(f.verdict)}>${f.verdict}<//></td><td>${f.severity}</td><td>${f.observed}</td><td>${f.limit}</td></tr>`)} />`;
}

function Sample({ rows }) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return html`<details><summary>${rows.length} of the rows</summary><${Table} caption="Offending rows" head=${names}
    rows=${rows.map((row) => html`<tr>${names.map((name) => html`<td>${row[name] === undefined ? html`<span class="muted">null</span>` : String(row[name])}</td>`)}</tr>`)} /></details>`;
}
