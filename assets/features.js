// What every column of the dataset means, by group.

import { html, useState } from "./vendor/preact-htm.js";
import { Badge, Loaded, Table, useGet } from "./parts.js";

export function Features() {
  const state = useGet("/api/features");
  const [wanted, want] = useState("");
  const matches = (c) => `${c.name} ${c.group} ${c.description}`.toLowerCase().includes(wanted.toLowerCase());
  return html`<h1>Features</h1>
    <label for="feature-filter">Find</label> <input id="feature-filter" type="search" value=${wanted} onInput=${(e) => want(e.target.value)} />
    <${Loaded} state=${state}>${({ columns }) => {
      const found = columns.filter((c) => c.role !== "dropped" && matches(c));
      const groups = [...new Set(found.map((c) => c.group))];
      return html`<p class="muted" role="status">${found.length} columns in ${groups.length} groups</p>
        ${groups.map((group) => {
          const members = found.filter((c) => c.group === group);
          return html`<details key=${group} open=${wanted !== ""} class="card"><summary><strong>${group}</strong> <span class="muted">${members.length}</span></summary>
            <${Table} caption=${group} head=${["column", "type", "definition", "over", "null means"]} rows=${members.map((c) => html`<tr key=${c.name}>
              <th scope="row">${c.name} ${c.role === "feature" ? null : html`<${Badge} kind="warn">${c.role}<//>`}</th>
              <td class="muted">${c.pg_type}</td><td>${c.description}</td><td class="muted">${c.key}</td><td class="muted">${c.null_meaning}</td></tr>`)} />
          </details>`;
        })}`;
    }}<//>`;
}
