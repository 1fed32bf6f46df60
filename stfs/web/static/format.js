// Numbers as people read them. "–" stands for what was not there to be measured.

export const NONE = "–";

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

const digits = (value, most) => value.toLocaleString("en-US", { maximumFractionDigits: most });

export function count(value) {
  if (missing(value)) return NONE;
  if (value >= 1e7) return digits(value / 1e6, 1) + " M";
  return digits(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function seconds(value) {
  if (missing(value)) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1) return digits(value * 1e3, value < 0.01 ? 2 : value < 0.1 ? 1 : 0) + " ms";
  return digits(value, value < 10 ? 2 : 1) + " s";
}

export function bytes(value) {
  if (missing(value)) return NONE;
  for (const [size, unit] of [[2 ** 30, "GB"], [2 ** 20, "MB"], [2 ** 10, "kB"]]) {
    if (value >= size) return digits(value / size, value / size < 10 ? 1 : 0) + " " + unit;
  }
  return value + " B";
}

export const share = (value) => (missing(value) ? NONE : digits(value * 100, value < 0.1 ? 1 : 0) + " %");

export function duration(value) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (value >= 2 * size) return Math.round(value / size) + " " + unit;
  }
  return Math.round(value) + " s";
}

export const clock = (at) => new Date(at * 1e3).toLocaleTimeString([], { hour12: false });
