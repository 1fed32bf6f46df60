// The overview page.

import { LineChart, onceAFrame, rangeSwitch } from "./charts.js";
import { badgeTone, byId, element, modelAddress, setText } from "./dom.js";
import { count, seconds, share } from "./format.js";
import { follow, Store } from "./live.js";
import { showNumbers, showServer } from "./numbers.js";

const store = new Store();
let range = "fine", cores = 1;
const charts = [
  new LineChart("rate", { format: count, least: 1, series: [
    { column: "rate", words: "all", colour: "s1", fill: true }, { column: "errors", words: "errors", colour: "s-error" },
  ] }),
  new LineChart("latency", { format: seconds, log: true, nothing: "No requests in this time", series: [
    { column: "p50", words: "p50", colour: "s1" }, { column: "p95", words: "p95", colour: "s2" }, { column: "p99", words: "p99", colour: "s3" },
  ] }),
  new LineChart("cpu", { format: (used) => share(used == null ? null : used / cores), least: 0.1, series: [{ column: "cpu", words: "of all cores", colour: "s4", fill: true }] }),
];

const draw = onceAFrame(() => charts.forEach((chart) => chart.update(store, range)));

rangeSwitch((chosen) => { range = chosen; draw(); });

const NUMBERS = [
  ["rate", "Requests/s", count], ["error_rate", "Errors/s", count], ["p50", "p50", seconds], ["p95", "p95", seconds], ["p99", "p99", seconds],
  ["queued", "Queued", count], ["in_flight", "In flight", count], ["requests", "Requests", count],
];

// A version that has ended as it was meant to is told on its model's page only.
const toldHere = (version) => version.state !== "END" || version.error;

// Rows are kept from tick to tick: focus and selection stay where they are.
const rows = new Map();

function makeRow(model) {
  const row = element("tr", { "data-model": model.name },
    element("th", { scope: "row" }, element("a", { href: modelAddress(model.name) }, model.name)));
  const versions = element("td", { "data-label": "Versions" }), platform = element("td", { "data-label": "Platform" });
  const first = document.querySelector(`#model-rows tr[data-model="${CSS.escape(model.name)}"] td[data-label="Platform"]`);
  setText(platform, first ? first.textContent : "–");
  const numbers = NUMBERS.map(([key, words]) => element("td", { class: "n live-cell", "data-label": words, "data-key": key }));
  row.append(versions, platform, ...numbers);
  return { row, versions, numbers, shown: "" };
}

function showModels(models) {
  const body = byId("model-rows");
  const names = models.map((model) => model.name);
  const made = models.map((model) => {
    const kept = rows.get(model.name) || makeRow(model);
    rows.set(model.name, kept);
    return kept;
  });
  for (const name of rows.keys()) if (!names.includes(name)) rows.delete(name);
  const wanted = made.map((each) => each.row);
  if (wanted.length !== body.children.length || wanted.some((row, index) => body.children[index] !== row)) {
    if (wanted.length) body.replaceChildren(...wanted);
    else body.replaceChildren(element("tr", {}, element("td", { colspan: "11", class: "soft" }, "No model is being served.")));
  }
  models.forEach((model, index) => {
    const { versions, numbers } = made[index];
    const shown = JSON.stringify([model.problem, model.versions.map((v) => [v.version, v.state, v.error])]);
    if (made[index].shown !== shown) {
      made[index].shown = shown;
      const badges = element("span", { class: "badges" }, ...model.versions.filter(toldHere).map((v) => element("span", { class: "badge " + badgeTone(v) }, `${v.version} ${v.state}`)));
      const notes = model.versions.filter((v) => v.error).map((v) => element("span", { class: "note" }, `${v.version}: ${v.error}`));
      if (model.problem) notes.unshift(element("span", { class: "note" }, model.problem));
      versions.replaceChildren(badges, ...notes);
    }
    NUMBERS.forEach(([key, , format], place) => setText(numbers[place], format(model[key])));
  });
}

follow({
  onHello: (hello) => { store.fill(hello); draw(); },
  onTick: (tick) => {
    cores = tick.server.cores;
    store.add(tick);
    showNumbers(tick.total);
    showServer(tick.server);
    showModels(tick.models);
    draw();
  },
});
