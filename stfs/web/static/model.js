// The page of one model: its numbers and charts, its versions, and what may be done with them.

import { drawBars, LineChart, onceAFrame, rangeSwitch } from "./charts.js";
import "./forms.js";
import { badgeTone, byId, element, errorOf, origin, page, setText } from "./dom.js";
import { count, duration, seconds, share } from "./format.js";
import { follow, Store } from "./live.js";
import { showNumbers } from "./numbers.js";

const store = new Store();
let range = "fine", last = null;

const charts = [
  new LineChart("rate", { format: count, least: 1, series: [
    { column: "rate", words: "all", colour: "s1", fill: true }, { column: "errors", words: "errors", colour: "s-error" },
  ] }),
  new LineChart("latency", { format: seconds, log: true, nothing: "No requests in this time", series: [
    { column: "p50", words: "p50", colour: "s1" }, { column: "p95", words: "p95", colour: "s2" }, { column: "p99", words: "p99", colour: "s3" },
  ] }),
  new LineChart("waits", { format: seconds, series: [
    { column: "queue_wait", words: "wait", colour: "s2" }, { column: "run", words: "run", colour: "s4" },
  ] }),
  new LineChart("rows", { format: count, least: 2, series: [{ column: "rows", words: "mean", colour: "s1" }] }),
  new LineChart("queue", { format: count, least: 2, series: [
    { column: "queued", words: "queued", colour: "s2", fill: true }, { column: "in_flight", words: "in flight", colour: "s4" },
  ] }),
  new LineChart("padding", { format: share, least: 0.1, series: [{ column: "padding", words: "of rows run", colour: "s3", fill: true }] }),
];

const REASONS = {
  idle: "model was free", full: "no room left", timeout: "waited enough", deferral: "waited for more",
  retry: "after a failure", drain: "model closing", other: "",
};

const of = (value, total) => (total ? `${count(value)} · ${share(value / total)}` : count(value));

function drawSums() {
  const sizes = store.columns.filter((name) => name.startsWith("rows_le_"));
  const runs = sizes.map((name) => store.sum(range, name)), all = runs.reduce((a, b) => a + b, 0);
  // What lies beyond the largest batch seen is left out: it would only be empty.
  const upTo = Math.max(runs.reduce((most, value, index) => (value ? index : most), 0), Math.min(7, sizes.length - 1));
  drawBars(byId("bars-sizes").querySelector(".bars"), sizes.slice(0, upTo + 1).map((name, index) => {
    const bound = name.slice(8), lower = index ? Number(sizes[index - 1].slice(8)) + 1 : 1;
    const words = bound === "inf" ? `over ${lower - 1}` : Number(bound) === lower ? bound : `${lower} to ${bound}`;
    return { words, value: runs[index], told: of(runs[index], all) };
  }));
  const reasons = Object.keys(REASONS).map((reason) => [reason, store.sum(range, "reason_" + reason)]);
  const total = reasons.reduce((sum, [, value]) => sum + value, 0);
  drawBars(byId("bars-reasons").querySelector(".bars"), reasons.filter(([reason, value]) => reason !== "other" || value).map(([reason, value]) => (
    { words: reason, about: REASONS[reason], value, told: of(value, total) }
  )));
}

const draw = onceAFrame(() => {
  charts.forEach((chart) => chart.update(store, range));
  drawSums();
});

rangeSwitch((chosen) => { range = chosen; draw(); });
byId("bars-reasons").querySelector(".bars").classList.add("wide");

// --- versions ---

const told = byId("control-told"), dialog = byId("ask");

function ask(title, text, yes, field = false) {
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  byId("ask-field").hidden = !field;
  byId("ask-input").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? (field ? byId("ask-input").value.trim() : true) : null), { once: true });
  });
}

async function change(words, path, body) {
  told.replaceChildren(element("p", { class: "soft" }, words + " …"));
  try {
    const response = await fetch(origin + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const trouble = response.ok ? "" : await errorOf(response);
    told.replaceChildren(trouble ? element("div", { class: "banner" }, `${words}: ${trouble}`) : element("p", { class: "soft" }, words + ": done."));
  } catch (error) {
    told.replaceChildren(element("div", { class: "banner" }, `${words}: ${error.message}`));
  }
}

const repository = (verb) => `/v2/repository/models/${encodeURIComponent(page.model)}/${verb}`;

const serveOnly = (words, versions) =>
  change(words, repository("load"), { parameters: { config: JSON.stringify({ version_policy: { specific: { versions } } }) } });

const setLabels = (words, labels) => change(words, `/dashboard/models/${encodeURIComponent(page.model)}/labels`, { labels });

const wanted = () => last.versions.filter((v) => ["START", "LOADING", "AVAILABLE"].includes(v.state)).map((v) => v.version);

const actions = {
  async load(version) {
    const text = `From then on the model serves versions ${[...wanted(), version].join(", ")} and no others, until it is loaded as configured.`;
    if (await ask(`Load version ${version}?`, text, "Load")) await serveOnly(`Load version ${version}`, [...wanted(), version]);
  },
  async unload(version) {
    const rest = wanted().filter((other) => other !== version);
    if (!rest.length) return unloadModel();
    const text = `Its requests are finished first. From then on the model serves ${rest.join(", ")} and no others, until it is loaded as configured.`;
    if (await ask(`Unload version ${version}?`, text, "Unload")) await serveOnly(`Unload version ${version}`, rest);
    return undefined;
  },
  async label(version) {
    const label = await ask(`Label version ${version}`, "Requests can name the version by this word. A label that another version has moves here. Labels given here last until the server ends.", "Give the label", true);
    if (label) await setLabels(`Label ${label} for version ${version}`, { ...last.labels, [label]: version });
  },
  async unlabel(version, label) {
    const { [label]: _, ...rest } = last.labels;
    if (await ask(`Take the label ${label} away?`, "Requests that name it will be refused.", "Take away")) await setLabels(`Take the label ${label} away`, rest);
  },
};

async function unloadModel() {
  const text = "Its requests are finished first; then it is not served until it is loaded again.";
  if (await ask(`Unload ${page.model}?`, text, "Unload")) await change("Unload the model", repository("unload"), {});
}

byId("unload-model").addEventListener("click", unloadModel);
byId("load-model").addEventListener("click", () => change("Load as configured", repository("load"), {}));
byId("version-rows").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button && last) actions[button.dataset.action](Number(button.dataset.version), button.dataset.label);
});

const button = (action, version, words, described, label) => element("button", {
  type: "button", class: "plain small", "data-action": action, "data-version": version, "data-label": label, disabled: !page.explicit,
  "aria-label": described, "aria-describedby": page.explicit ? null : "no-control",
}, words);

let shownVersions = "";

function showVersions(model) {
  const body = byId("version-rows");
  const others = model.on_disk.filter((number) => !model.versions.some((v) => v.version === number));
  const shown = JSON.stringify([model.problem, model.versions.map((v) => [v.version, v.state, v.error]), model.labels, others, model.workers]);
  if (shown !== shownVersions) {
    shownVersions = shown;
    const rows = model.versions.map((v) => {
      const labels = Object.entries(model.labels).filter(([, version]) => version === v.version).map(([label]) => label);
      const worker = model.workers[v.version];
      const state = element("td", { "data-label": "State" }, element("span", { class: "badge " + badgeTone(v) }, v.state),
        worker ? element("span", { class: "soft" }, ` worker ${worker.state}${worker.restarts ? `, restarted ${worker.restarts} times` : ""}`) : null,
        v.error ? element("span", { class: "note" }, v.error) : null);
      const chips = element("td", { "data-label": "Labels" }, element("span", { class: "chips" }, ...(labels.length ? labels.map((label) => (
        page.explicit ? button("unlabel", v.version, label + " ×", `Take the label ${label} away from version ${v.version}`, label) : element("span", { class: "badge" }, label)
      )) : ["–"])));
      const serves = ["START", "LOADING", "AVAILABLE"].includes(v.state);
      const buttons = element("td", { "data-label": "Actions" }, element("span", { class: "chips" },
        serves ? button("unload", v.version, "Unload", `Unload version ${v.version}`) : button("load", v.version, "Load", `Load version ${v.version}`),
        v.state === "AVAILABLE" ? button("label", v.version, "Label", `Label version ${v.version}`) : null));
      return element("tr", {}, element("th", { scope: "row" }, String(v.version)), state, element("td", { "data-label": "For", class: "live-cell" }), chips, buttons);
    });
    for (const number of others) {
      rows.push(element("tr", {}, element("th", { scope: "row" }, String(number)), element("td", { "data-label": "State" }, element("span", { class: "badge" }, "on disk")),
        element("td", { "data-label": "For" }, "–"), element("td", { "data-label": "Labels" }, "–"), element("td", { "data-label": "Actions" }, button("load", number, "Load", `Load version ${number}`))));
    }
    if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: "5", class: "soft" }, model.problem || "No version was found.")));
    body.replaceChildren(...rows);
  }
  model.versions.forEach((v, index) => setText(body.children[index].children[2], duration(v.since)));
}

follow({
  model: page.model,
  onHello: (hello) => { store.fill(hello); draw(); },
  onTick: (tick) => {
    store.add(tick);
    [last] = tick.models;
    if (!last) { // it has been unloaded; its last numbers are not of now
      last = null;
      showNumbers({ rate: null, error_rate: null, p50: null, p95: null, p99: null, queued: null, in_flight: null });
      showVersions({ versions: [], on_disk: [], labels: {}, workers: {}, problem: "The model is not served." });
    } else {
      showNumbers(last);
      showVersions(last);
      const outcomes = Object.entries(last.outcomes).sort((a, b) => b[1] - a[1]);
      const all = outcomes.reduce((sum, [, value]) => sum + value, 0);
      drawBars(byId("bars-outcomes").querySelector(".bars"), outcomes.map(([words, value]) => ({ words: words.replaceAll("_", " "), value, told: of(value, all) })));
    }
    draw();
  },
});
byId("bars-outcomes").querySelector(".bars").classList.add("wide");
