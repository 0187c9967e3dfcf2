// Numbers, sizes and times as people read them; a number and its unit stay on one line.

const integer = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export const count = (n) => (n === null || n === undefined ? "–" : integer.format(n));
export const number = (n) => (n === null || n === undefined ? "–" : short.format(n));
export const percent = (part) => (Number.isFinite(part) ? `${short.format(part * 100)} %` : "–");

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  return `${n >= 100 || at === 0 ? Math.round(n) : n.toPrecision(3)}\u00a0${units[at]}`;
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)}\u00a0s`;
  const minutes = Math.floor(s / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(s % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function ago(time, now = Date.now()) {
  const s = (now - new Date(time)) / 1000;
  if (s < 0) return `in ${age(-s)}`;
  return s < 5 ? "just now" : `${age(s)} ago`;
}

function age(s) {
  const steps = [[60, "second"], [60, "minute"], [24, "hour"], [365, "day"], [Infinity, "year"]];
  for (const [size, unit] of steps) {
    if (s < size) return `${Math.floor(s)} ${unit}${Math.floor(s) === 1 ? "" : "s"}`;
    s /= size;
  }
  return "long";
}

export const absolute = (time) => new Date(time).toLocaleString();
export const took = (run) => (run.finished ? (new Date(run.finished) - new Date(run.started)) / 1000 : null);
