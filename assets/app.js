// The frame: navigation, what all pages share, and which page is shown.

import { html, render, useCallback, useEffect, useState } from "./vendor/preact-htm.js";
import { get } from "./api.js";
import { connect, live, subscribe } from "./live.js";
import { useGet } from "./parts.js";
import { Overview } from "./overview.js";
import { Lake } from "./lake.js";
import { Features } from "./features.js";
import { Validation } from "./validation.js";
import { Preview } from "./preview.js";
import { Runs } from "./runs.js";
import { Logs } from "./logs.js";
import { Sql } from "./sql.js";

const PAGES = {
  overview: ["Overview", Overview], lake: ["Lake", Lake], features: ["Features", Features], validation: ["Validation", Validation],
  preview: ["Preview", Preview], runs: ["Runs", Runs], logs: ["Log", Logs], sql: ["SQL", Sql],
};
const LOOK_EVERY = 5000;
const THEMES = { "": "as the system", light: "light", dark: "dark" };

const place = () => {
  const [page, argument] = location.hash.replace(/^#\//, "").split("/");
  return { page: PAGES[page] ? page : "overview", argument: argument && decodeURIComponent(argument) };
};

function useTheme() {
  const [theme, set] = useState(localStorage.getItem("theme") ?? "");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
  }, [theme]);
  const names = Object.keys(THEMES);
  return [theme, () => set(names[(names.indexOf(theme) + 1) % names.length])];
}

const stateOf = (run) => (run.state === "done" ? `${run.command} done` : `${run.command} ${run.state}: ${run.error ?? ""}`);

// The line of state: what runs here or elsewhere, else how the newest run ended, whoever started it.
function runState({ running, last }, newest) {
  if (running) return [`running ${running.command}`, "busy"];
  const run = newest && (!last || newest.started > last.started) ? newest : last;
  if (!run) return ["idle", ""];
  if (run.state === "running") return [`running ${run.command} in another process`, "busy"];
  return [stateOf(run), run.state === "done" ? "" : "bad"];
}

// Runs that a terminal started tell nobody; so the newest record is looked at now and then.
function useNewestRun(known, changed) {
  useEffect(() => {
    if (known === undefined) return undefined;
    const look = async () => {
      const [newest] = await get("/api/runs?limit=1").catch(() => []);
      if (newest && (newest.id !== known?.id || newest.state !== known.state)) changed();
    };
    const timer = setInterval(() => document.hidden || look(), LOOK_EVERY);
    return () => clearInterval(timer);
  }, [known?.id, known?.state]);
}

function App() {
  const [where, go] = useState(place());
  const [, redraw] = useState(0);
  // Counts ends of jobs and new connections: what was asked before may be otherwise now.
  const [epoch, age] = useState(0);
  const [refusal, refuse] = useState(null);
  const [theme, nextTheme] = useTheme();
  useEffect(() => {
    const moved = () => go(place());
    addEventListener("hashchange", moved);
    const left = subscribe((kind) => {
      if (["snapshot", "run_ended"].includes(kind)) age((n) => n + 1);
      if (kind === "run_started") refuse(null);
      redraw((n) => n + 1);
    });
    connect();
    return () => { removeEventListener("hashchange", moved); left(); };
  }, []);
  const act = useCallback((work) => { refuse(null); work().catch(refuse); }, []);
  const app = {
    live, act,
    session: useGet("/api/session"),
    pipeline: useGet("/api/pipeline"),
    status: useGet("/api/status", [epoch]),
    runs: useGet("/api/runs?limit=200", [epoch]),
    validation: useGet("/api/validate?cached=true", [epoch]),
    preview: useGet("/api/preview?cached=true", [epoch]),
  };
  const [title, Page] = PAGES[where.page];
  useEffect(() => {
    document.title = `RaceAlpha: ${title}`;
    document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "center" });
  }, [title]);
  const newest = app.runs.data ? (app.runs.data[0] ?? null) : undefined;
  useNewestRun(newest, () => age((n) => n + 1));
  app.elsewhere = !live.running && newest?.state === "running" && newest.id !== live.last?.id ? newest : null;
  const [state, kind] = runState(live, newest);
  const session = app.session.data;
  return html`
    <header>
      <a class="brand" href="#/"><img src="/assets/icon.svg" alt="" width="28" height="28" /> RaceAlpha</a>
      <nav aria-label="Pages">${Object.entries(PAGES).map(([name, [label]]) => html`<a id=${`nav-${name}`} href=${`#/${name}`}
        aria-current=${name === where.page ? "page" : null}>${label}</a>`)}</nav>
      <div class="row tools">
        <span id="role" class="muted">${session?.role ?? ""}</span>
        <button id="theme-toggle" class="quiet" onClick=${nextTheme} aria-label=${`colours: ${THEMES[theme]}; press to change`}>◐ <span class="label">${THEMES[theme]}</span></button>
        ${session?.login_required ? html`<form method="post" action="/logout"><button class="quiet">Log out</button></form>` : null}
      </div>
    </header>
    <p class=${`state ${kind}`}>
      <span id="run-state" role="status" aria-live="polite">${state}</span>
      ${live.connected ? null : html`<span class="bad" role="alert"> – reconnecting …</span>`}</p>
    <main id="main" tabindex="-1">
      ${refusal ? html`<p class="note bad" role="alert" id="refusal">${refusal.message} <button class="quiet" onClick=${() => refuse(null)}>dismiss</button></p>` : null}
      <${Page} app=${app} argument=${where.argument} />
    </main>`;
}

// A jump within the page would count as another page.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
