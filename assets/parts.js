// What pages are made of: loading, tables, bars, states, the question before a dangerous action.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get } from "./api.js";
import { absolute, ago } from "./format.js";

// A GET whose answer is kept until one of `reasons` changes.
export function useGet(path, reasons = []) {
  const [state, set] = useState({ loading: true });
  useEffect(() => {
    let wanted = true;
    if (path === null) return undefined;
    set((old) => ({ ...old, loading: true }));
    get(path).then(
      (data) => wanted && set({ data, loading: false }),
      (error) => wanted && set({ error, loading: false }),
    );
    return () => (wanted = false);
  }, [path, ...reasons]);
  return state;
}

// The answer's view, or why there is none yet.
export function Loaded({ state, children }) {
  if (state.data) return children(state.data);
  if (state.error) return html`<p class="note bad" role="alert">${state.error.message}</p>`;
  return html`<p class="muted" role="status">Loading …</p>`;
}

export const Time = ({ at }) => (at ? html`<time datetime=${at} title=${absolute(at)}>${ago(at)}</time>` : "–");

export const Badge = ({ kind, children }) => html`<span class=${`badge ${kind}`}>${children}</span>`;

export const stateKind = (state) =>
  ({ done: "good", running: "busy", pass: "good", warn: "warn", blocked: "warn", interrupted: "warn" })[state] ?? "bad";

// A share as a bar. Of work under way it is its progress, which may be unknown.
export function Bar({ part, label, progress }) {
  const known = part !== null && part !== undefined && Number.isFinite(part);
  const percent = Math.round(Math.max(0, Math.min(1, known ? part : 0)) * 100);
  const role = progress ? { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": known ? percent : null } : { role: "img" };
  return html`<span class="bar" ...${role} aria-label=${label}><span style=${{ width: `${percent}%` }}></span></span>`;
}

// A table that scrolls inside its own box on a narrow screen.
export function Table({ caption, head, rows, ...rest }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
    <table ...${rest}>
      <caption class="hidden">${caption}</caption>
      <thead><tr>${head.map((h) => html`<th scope="col" class=${h.startsWith("#") ? "num" : ""}>${h.replace(/^#/, "")}</th>`)}</tr></thead>
      <tbody>${rows}</tbody>
    </table>
  </div>`;
}

const FORMATS = { parquet: "Parquet", csv: "CSV", arrow: "Arrow" };

// Downloads of a lake table: links that look like buttons, so that the browser streams them into a file.
export function Exports({ table, children }) {
  return html`<span class="row exports" role="group" aria-label=${`Export ${table}`}>${children}${Object.entries(FORMATS).map(([format, name]) => html`<a
    class="button" download href=${`/api/export/${encodeURIComponent(table)}?format=${format}`} aria-label=${`Export ${table} as ${name}`}>${name}</a>`)}</span>`;
}

export const Num = ({ children, ...rest }) => html`<td class="num" ...${rest}>${children}</td>`;

// Asks before `run`, which happens only when the table's name was typed.
export function Question({ title, table, facts, label, onConfirm, onClose }) {
  const dialog = useRef(null);
  const [typed, type] = useState("");
  useEffect(() => dialog.current.showModal(), []);
  const confirm = (event) => {
    event.preventDefault();
    if (typed === table) onConfirm();
  };
  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="question">
    <form onSubmit=${confirm}>
      <h2 id="question">${title}</h2>
      <dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
      <label for="confirm-input">Type <code>${table}</code> to go on</label>
      <input id="confirm-input" autocomplete="off" spellcheck="false" value=${typed} onInput=${(e) => type(e.target.value)} />
      <p class="row">
        <button id="confirm-ok" class="danger" disabled=${typed !== table}>${label}</button>
        <button id="confirm-cancel" type="button" onClick=${onClose}>Not now</button>
      </p>
    </form>
  </dialog>`;
}
