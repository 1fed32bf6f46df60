// The forms: a console for JSON, one for images, and the generated clients. Whichever of them are on the page.

import { drawBars } from "./charts.js";
import { byId, copyBy, element, errorOf, origin, page, setText } from "./dom.js";
import { bytes, count } from "./format.js";
import { pretty } from "./pretty.js";

const LONGEST_SHOWN = 50_000; // characters of an answer

const option = (value, words = value) => element("option", { value }, words);

// Fills the selects of model, version and signature; calls back when another is chosen.
function which(id, onChange) {
  const model = byId(id + "-model"), version = byId(id + "-version"), signature = byId(id + "-signature");
  const asked = new URLSearchParams(window.location.search).get("model");
  const fill = () => {
    const chosen = page.models.find((each) => each.name === model.value);
    version.replaceChildren(option("", "the latest"), ...(chosen ? chosen.versions.map((number) => option(String(number))) : []));
    signature.replaceChildren(...(chosen ? chosen.signatures.map((name) => option(name)) : []));
  };
  model.replaceChildren(...page.models.map((each) => option(each.name)));
  if (asked !== null && page.models.some((each) => each.name === asked)) model.value = asked;
  if (!page.models.length) model.replaceChildren(option("", "none is served"));
  fill();
  model.parentElement.hidden = "model" in page; // the page is of one model
  model.addEventListener("change", () => { fill(); onChange(); });
  version.addEventListener("change", onChange);
  signature.addEventListener("change", onChange);
  return { get model() { return model.value; }, get version() { return version.value; }, get signature() { return signature.value; } };
}

const STEPS = { decode: "reading", queue: "queue", run: "run", encode: "writing" };

function timings(header) {
  return (header || "").split(",").map((part) => /^\s*(\w+);dur=([\d.]+)/.exec(part)).filter((found) => found && found[1] in STEPS)
    .map(([, name, ms]) => ({ words: STEPS[name], value: Number(ms), told: count(Number(ms)) + " ms" }));
}

// Sends, and shows all of what comes back: status, times, the answer as text. Gives the parsed answer, or null.
async function send(id, request) {
  const status = byId(id + "-status"), body = byId(id + "-body"), timing = byId(id + "-timing"), after = byId(id + "-after");
  const button = byId(id).querySelector("button[type=submit]");
  byId(id + "-classes").hidden = true;
  timing.hidden = true;
  button.disabled = true;
  status.replaceChildren(element("span", { class: "soft" }, "Waiting for the answer …"));
  const began = performance.now();
  try {
    const response = await fetch(origin + "/", { method: "POST", ...request, headers: { ...request.headers, "X-Server-Timing": "1" } });
    const text = await response.text();
    const took = performance.now() - began;
    let value = null;
    try { value = JSON.parse(text); } catch { /* shown as it is */ }
    const served = response.headers.get("X-Served-Model-Version");
    status.replaceChildren(
      element("span", { class: "badge " + (response.ok ? "good" : "bad") }, `${response.status} ${response.statusText}`),
      element("span", { class: "soft" }, `${count(took)} ms in the browser, ${bytes(text.length)}${served ? `, version ${served}` : ""}`));
    const spans = timings(response.headers.get("Server-Timing"));
    drawBars(timing, spans);
    timing.hidden = !spans.length;
    const shown = value === null || text.length > LONGEST_SHOWN ? text : pretty(text);
    setText(body, shown.length > LONGEST_SHOWN ? `${shown.slice(0, LONGEST_SHOWN)}\n… and ${count(shown.length - LONGEST_SHOWN)} characters more` : shown);
    body.hidden = after.hidden = false;
    return response.ok ? value : null;
  } catch (error) {
    status.replaceChildren(element("span", { class: "badge bad" }, "No answer"), element("span", { class: "soft" }, error.message));
    body.hidden = after.hidden = true;
    return null;
  } finally {
    button.disabled = false;
  }
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

const ofModel = (name, call, values) => `${origin}/v1/models/${encodeURIComponent(name)}/${call}?${query(values)}`;

// --- JSON ---

function startConsole(form) {
  const text = byId("console-text");
  let example = ""; // what was filled in; text that differs is the user's own

  async function fillIn() {
    if (!chosen.model) return;
    const response = await fetch(ofModel(chosen.model, "gen_json", { version: chosen.version, signature_name: chosen.signature }));
    if (!response.ok) {
      byId("console-status").replaceChildren(element("span", { class: "soft" }, "There is no example: " + await errorOf(response)));
      return;
    }
    const body = await response.json();
    if (!chosen.version) delete body.model_version; // the latest is what was chosen
    example = pretty(JSON.stringify(body));
    text.value = example;
  }

  function changed() {
    if (text.value === example || !text.value.trim()) return fillIn();
    try { // the user's own body is kept, and told for whom it is now
      const body = JSON.parse(text.value);
      body.model_name = chosen.model;
      if (chosen.version) body.model_version = Number(chosen.version); else delete body.model_version;
      body.signature_name = chosen.signature;
      text.value = pretty(JSON.stringify(body));
    } catch { /* not JSON yet: left alone */ }
    return undefined;
  }

  const chosen = which("console", changed);
  fillIn();
  byId("console-example").addEventListener("click", fillIn);
  byId("console-curl").addEventListener("click", (event) => {
    copyBy(event.target, `curl -H 'Content-Type: application/json' -d '${text.value.replaceAll("'", "'\\''")}' ${origin}/`);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send("console", { body: text.value, headers: { "Content-Type": "application/json" } });
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

// --- images ---

function startImages(form) {
  const file = byId("images-file"), drop = byId("images-drop"), preview = byId("images-preview"), button = form.querySelector("button[type=submit]");
  const chosen = which("images", () => {});
  let image = null;

  function take(found) {
    if (!found) return;
    if (preview.src) URL.revokeObjectURL(preview.src);
    image = found;
    preview.src = URL.createObjectURL(found);
    preview.alt = "Preview of " + found.name;
    preview.hidden = false;
    setText(byId("images-name"), `${found.name}, ${bytes(found.size)}`);
    button.disabled = false;
  }

  file.addEventListener("change", () => take(file.files[0]));
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!image) return;
    const body = new FormData();
    body.append("image", image, image.name);
    const rest = { model_name: chosen.model, model_version: chosen.version, signature_name: chosen.signature, channel_layout: byId("images-layout").value, shape: byId("images-shape").value.trim() };
    for (const [key, value] of Object.entries(rest)) if (value) body.append(key, value);
    const answer = await send("images", { body });
    if (answer) showClasses(answer);
  });
}

// The highest values of the longest row of numbers in the answer, which in a classifier are its classes.
function showClasses(answer) {
  let best = null;
  for (const [name, value] of Object.entries(answer)) {
    let row = value;
    while (Array.isArray(row) && Array.isArray(row[0])) row = row[0];
    if (Array.isArray(row) && row.length > 1 && row.every((each) => typeof each === "number") && (!best || row.length > best.row.length)) best = { name, row };
  }
  if (!best) return;
  const top = best.row.map((value, index) => ({ index, value })).sort((a, b) => b.value - a.value).slice(0, 5);
  const list = byId("images-classes"), least = Math.min(...best.row, 0);
  const sum = best.row.reduce((a, b) => a + b, 0), shares = least >= 0 && Math.abs(sum - 1) < 0.01;
  drawBars(list, top.map(({ index, value }) => ({ words: "class " + index, value: value - least, told: shares ? count(value * 100) + " %" : count(value) })));
  setText(byId("images-classes-words"), "Highest values of " + best.name);
  list.hidden = false;
}

// --- clients ---

function startClients(form) {
  const language = byId("clients-language"), status = byId("clients-status"), code = byId("clients-code"), raw = byId("clients-raw");
  const trouble = (text) => { status.replaceChildren(element("span", { class: "badge bad" }, "No client"), element("span", {}, text)); code.hidden = true; };

  async function show() {
    if (!chosen.model || !language.value) return;
    const address = ofModel(chosen.model, "gen_client", { language: language.value, version: chosen.version, signature_name: chosen.signature });
    raw.href = address;
    const response = await fetch(address);
    if (!response.ok) { trouble(await errorOf(response)); return; }
    status.replaceChildren();
    setText(code, await response.text());
    code.hidden = false;
  }

  async function start() {
    if (!chosen.model) return;
    const response = await fetch(ofModel(chosen.model, "gen_client", {}));
    if (!response.ok) { trouble(await errorOf(response)); return; }
    const told = await response.json();
    const languages = Array.isArray(told) ? told : told.languages;
    language.replaceChildren(...languages.map((each) => (typeof each === "string" ? option(each) : option(each.name || each.language, each.title || each.name || each.language))));
    if ([...language.options].some((each) => each.value === "python")) language.value = "python";
    show();
  }

  const chosen = which("clients", show);
  language.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  start();
}

for (const [id, begin] of [["console", startConsole], ["images", startImages], ["clients", startClients]]) {
  const form = byId(id);
  if (form) begin(form);
}
