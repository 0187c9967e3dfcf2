// The lake's tables, and of one table the columns with their nulls and how their values lie.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get } from "./api.js";
import { bytes, count, number, percent } from "./format.js";
import { Badge, Exports, Loaded, Num, Table, Time, useGet } from "./parts.js";

// Looks at columns that the server works on at once.
const LOOKS_MAX = 2;
let looking = 0;
const waiting = [];

async function look(path) {
  if (looking >= LOOKS_MAX) await new Promise((go) => waiting.push(go));
  looking += 1;
  try {
    return await get(path);
  } finally {
    looking -= 1;
    waiting.shift()?.();
  }
}

export function Lake({ app, argument }) {
  if (argument) return html`<${OneTable} name=${argument} version=${app.status.data?.version} />`;
  return html`<h1>Lake</h1><${Loaded} state=${app.status}>${(status) =>
    status.tables.length === 0
      ? html`<p class="note">The lake is empty. <a href="#/">Pull</a> fills it.</p>`
      : html`<${Table} caption="Lake tables" head=${["table", "#rows", "#columns", "#size", "#files", "#version", "age", "from", "export"]}
          rows=${status.tables.map((t) => html`<tr key=${t.name}>
            <th scope="row"><a href=${`#/lake/${encodeURIComponent(t.name)}`}>${t.name}</a></th>
            <${Num}>${count(t.rows)}<//><${Num}>${t.columns}<//><${Num}>${bytes(t.bytes)}<//><${Num}>${t.files}<//><${Num}>${t.version}<//>
            <td><${Time} at=${t.created} /></td><td class="name">${t.origin}</td>
            <td><${Exports} table=${t.name} /></td>
          </tr>`)} />`}<//>`;
}

function OneTable({ name, version }) {
  const path = `/api/tables/${encodeURIComponent(name)}`;
  const table = useGet(path, [version]);
  const [wanted, want] = useState("");
  return html`<h1><a href="#/lake">Lake</a> / ${name}</h1><${Loaded} state=${table}>${(t) => html`
    <p class="muted">${count(t.rows)} rows, ${bytes(t.bytes)} in ${t.files} files, version ${t.version}, <${Time} at=${t.created} /></p>
    <p><${Exports} table=${name}>Export as<//></p>
    <label for="column-filter">Columns with</label> <input id="column-filter" type="search" value=${wanted} onInput=${(e) => want(e.target.value)} />
    <${Table} caption=${`Columns of ${name}`} head=${["column", "type", "#nulls", "#distinct", "values", "meaning"]}
      rows=${t.columns.filter((c) => c.name.includes(wanted.toLowerCase())).map((c) => html`<${Column} key=${`${version}/${c.name}`} column=${c} path=${path} />`)} />`}<//>`;
}

function Column({ column, path }) {
  const row = useRef(null);
  const [state, set] = useState({});
  useEffect(() => {
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      look(`${path}/columns/${encodeURIComponent(column.name)}`).then((data) => set({ data }), (error) => set({ error }));
    });
    seen.observe(row.current);
    return () => seen.disconnect();
  }, []);
  const { data, error } = state;
  return html`<tr ref=${row} data-testid="column">
    <th scope="row">${column.name} ${column.is_label ? html`<${Badge} kind="warn">label<//>` : null}</th>
    <td class="muted">${column.type}</td>
    <${Num}>${data ? percent(data.rows ? data.nulls / data.rows : 0) : ""}<//><${Num}>${data ? `≈ ${count(data.distinct)}` : ""}<//>
    <td>${data ? html`<${Histogram} look=${data} />` : error ? html`<span class="bad">${error.message}</span>` : html`<span class="muted">…</span>`}</td>
    <td class="muted">${column.definition ?? ""}</td></tr>`;
}

function Histogram({ look: { histogram, min, max, mean, name } }) {
  if (!histogram.length) return html`<span class="muted">${min === null ? "no values" : min === max ? min : `${min} – ${max}`}</span>`;
  const top = Math.max(...histogram.map((bar) => bar.rows));
  const title = histogram.map((bar) => `${bar.label}: ${count(bar.rows)}`).join("\n");
  return html`<figure class="histogram" title=${title}>
    <svg viewBox=${`0 0 ${histogram.length * 6} 24`} preserveAspectRatio="none" role="img" aria-label=${`values of ${name} from ${min} to ${max}`}>
      ${histogram.map((bar, i) => html`<rect x=${i * 6} width="5" y=${24 - (24 * bar.rows) / top} height=${(24 * bar.rows) / top} />`)}
    </svg>
    <figcaption>${min} – ${max}${mean === null ? "" : `, mean ${number(mean)}`}</figcaption></figure>`;
}
