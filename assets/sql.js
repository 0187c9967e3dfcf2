// Read-only SQL over the lake.

import { html, useState } from "./vendor/preact-htm.js";
import { download, post } from "./api.js";
import { count, seconds } from "./format.js";
import { Table } from "./parts.js";

const FIRST = "SELECT location, count(*) AS races\nFROM races\nGROUP BY ALL\nORDER BY 2 DESC";
const isNumber = (type) => /^(U?Int|Float|Decimal)/.test(type);
// What was typed last stays while the page is open.
let kept = { sql: FIRST, rows: 1000 };

export function Sql() {
  const [asked, ask] = useState(kept);
  const [state, set] = useState({});
  const change = (part) => ask((kept = { ...asked, ...part }));
  const attempt = async (work) => {
    set({ working: true });
    try {
      set({ result: await work() });
    } catch (error) {
      set({ error });
    }
  };
  const run = () => attempt(() => post("/api/query", { sql: asked.sql, rows_max: asked.rows }));
  const save = (format) => () => attempt(() => download("/api/query", { sql: asked.sql, format }, `query.${format}`));
  const { result, error, working } = state;
  return html`<h1>SQL</h1>
    <label for="sql-input">One statement over the lake's tables; Ctrl+Enter runs it</label>
    <textarea id="sql-input" rows="7" spellcheck="false" value=${asked.sql} onInput=${(e) => change({ sql: e.target.value })}
      onKeyDown=${(e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); run(); } }}></textarea>
    <div class="row"><button id="sql-run" class="primary" disabled=${working} onClick=${run}>Run</button>
      <label for="sql-rows">rows at most</label> <select id="sql-rows" value=${asked.rows} onChange=${(e) => change({ rows: Number(e.target.value) })}>${[100, 1000, 10000].map((n) => html`<option value=${n}>${count(n)}</option>`)}</select>
      <button disabled=${working} onClick=${save("csv")}>All as CSV</button> <button disabled=${working} onClick=${save("parquet")}>All as Parquet</button></div>
    ${working ? html`<p class="muted" role="status">Running …</p>` : null}
    ${error ? html`<pre class="note bad" role="alert" id="sql-error">${error.message}</pre>` : null}
    ${result ? html`<p class="muted" role="status">${count(result.rows.length)} rows${result.more ? ", and there are more" : ""} in ${seconds(result.seconds)}</p>
      <${Table} id="sql-result" caption="Result" head=${result.columns.map(({ name, type }) => (isNumber(type) ? `#${name}` : name))}
        rows=${result.rows.map((row) => html`<tr>${row.map((cell, i) => html`<td class=${isNumber(result.columns[i].type) ? "num" : ""}>${cell === null ? html`<span class="muted">null</span>` : String(cell)}</td>`)}</tr>`)} />` : null}`;
}
