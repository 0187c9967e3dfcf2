// The running job, as the server tells it over the WebSocket; everybody who subscribes hears of each change.

import { get } from "./api.js";

const RETRY_MIN = 500;
const RETRY_MAX = 15_000;

export const live = { connected: false, running: null, works: [], warnings: [], last: null };
const listeners = new Set();
let retry = RETRY_MIN;

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(kind) {
  for (const listener of listeners) listener(kind);
}

const handlers = {
  snapshot: ({ running, works, warnings, last }) => Object.assign(live, { running, works, warnings, last }),
  run_started: ({ run_id, command, started }) =>
    Object.assign(live, { running: { run_id, command, started }, works: [], warnings: [] }),
  work: ({ work }) => (live.works[work.id] = work),
  counters: ({ works }) => works.forEach((work) => Object.assign(live.works[work.id] ?? {}, work)),
  warning: ({ step, message }) => live.warnings.push({ step, message }),
  run_ended: ({ run }) => Object.assign(live, { running: null, last: run }),
};

export function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/progress`);
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    live.connected = true;
    retry = RETRY_MIN;
    handlers[message.kind]?.(message);
    tell(message.kind);
  };
  socket.onclose = () => {
    live.connected = false;
    tell("closed");
    // Without a session this opens the login page.
    get("/api/session").catch(() => {});
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, RETRY_MAX);
  };
}
