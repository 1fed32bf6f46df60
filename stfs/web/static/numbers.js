// The tiles: numbers of now.

import { setText } from "./dom.js";
import { bytes, count, seconds, share } from "./format.js";

const FORMATS = { p50: seconds, p95: seconds, p99: seconds, memory: bytes };

function put(key, text, sub) {
  setText(document.querySelector(`[data-number="${key}"]`), text);
  if (sub !== undefined) setText(document.querySelector(`[data-sub="${key}"]`), sub);
}

export function showNumbers(numbers) {
  for (const key of ["rate", "error_rate", "p50", "p95", "p99", "queued", "in_flight", "requests"]) {
    if (key in numbers) put(key, (FORMATS[key] || count)(numbers[key]));
  }
  const errors = document.querySelector('[data-number="error_rate"]');
  errors.classList.toggle("alarm", numbers.error_rate > 0);
}

export function showServer(server) {
  put("cpu", share(server.cpu / server.cores), `${count(server.cpu)} of ${server.cores} cores`);
  put("memory", bytes(server.memory), server.memory_limit ? "of " + bytes(server.memory_limit) : "\u00a0");
  const tile = document.getElementById("gpu");
  tile.hidden = !server.gpus.length;
  if (server.gpus.length) {
    const busy = Math.max(...server.gpus.map((gpu) => gpu.busy));
    const used = server.gpus.reduce((sum, gpu) => sum + gpu.memory, 0), all = server.gpus.reduce((sum, gpu) => sum + gpu.memory_total, 0);
    put("gpu", share(busy), `${bytes(used)} of ${bytes(all)}${server.gpus.length > 1 ? `, ${server.gpus.length} GPUs` : ""}`);
    tile.title = server.gpus.map((gpu) => `${gpu.name}: ${share(gpu.busy)}, ${bytes(gpu.memory)} of ${bytes(gpu.memory_total)}`).join("\n");
  }
}
