// The server's log: the last lines, new ones as they come.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { get } from "./api.js";
import { absolute } from "./format.js";

const POLL = 2000;
const LINES_MAX = 2000;

export function Logs() {
  const [lines, set] = useState([]);
  const [level, setLevel] = useState("info");
  const [wanted, want] = useState("");
  const [follow, setFollow] = useState(true);
  const [error, fail] = useState(null);
  const list = useRef(null);
  useEffect(() => {
    let [after, wait, stopped] = [null, null, false];
    set([]);
    const more = async () => {
      try {
        const page = await get(`/api/logs?limit=1000&level=${level}${after === null ? "" : `&after=${after}`}`);
        after = page.next;
        fail(null);
        if (page.lines.length && !stopped) set((old) => [...old, ...page.lines].slice(-LINES_MAX));
      } catch (e) {
        fail(e);
      }
      if (!stopped) wait = setTimeout(more, POLL);
    };
    more();
    return () => { stopped = true; clearTimeout(wait); };
  }, [level]);
  const shown = lines.filter((line) => line.message.toLowerCase().includes(wanted.toLowerCase()));
  useEffect(() => { if (follow && list.current) list.current.scrollTop = list.current.scrollHeight; }, [shown.length, follow]);
  return html`<h1>Log</h1><div class="row">
      <label for="log-level">From</label> <select id="log-level" value=${level} onChange=${(e) => setLevel(e.target.value)}>${["info", "warn", "error"].map((l) => html`<option value=${l}>${l}</option>`)}</select>
      <label for="log-filter">with</label> <input id="log-filter" type="search" value=${wanted} onInput=${(e) => want(e.target.value)} />
      <label><input type="checkbox" checked=${follow} onChange=${(e) => setFollow(e.target.checked)} /> follow</label></div>
    ${error ? html`<p class="note bad" role="alert">${error.message}</p>` : null}
    <ol ref=${list} class="log" tabindex="0" aria-label="Log lines">${shown.map((line) => html`<li key=${line.number} class=${line.level} data-testid="log-line">
      <time datetime=${line.time} title=${absolute(line.time)}>${line.time.slice(11, 19)}</time> <span>${line.level}</span> ${line.message}</li>`)}</ol>
    ${shown.length ? null : html`<p class="muted">No lines.</p>`}`;
}
