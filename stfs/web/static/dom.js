// Small tools that every page uses. Text from models, files and answers becomes text nodes only, never markup.

// By its origin: a page that was opened by an address with a password in it may not fetch a relative one.
export const origin = window.location.origin;

export const page = JSON.parse(document.getElementById("page").textContent);

export const byId = (id) => document.getElementById(id);

// element("td", { class: "n", "data-label": "p50" }, "12 ms", anotherElement)
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Writes only what changes: a screen reader hears less, and nothing is laid out again for nothing.
export function setText(target, text) {
  if (target && target.textContent !== text) target.textContent = text;
}

export function modelAddress(name) {
  return "/dashboard/models/" + encodeURIComponent(name);
}

export const badgeTone = (version) =>
  version.error ? "bad" : ({ AVAILABLE: "good", LOADING: "wait", UNLOADING: "wait", START: "wait" })[version.state] || "";

// The text of an answer that is an error, as every dialect here has it, or what else there is to say.
export async function errorOf(response) {
  const text = await response.text();
  try {
    const told = JSON.parse(text);
    if (typeof told.error === "string") return told.error;
  } catch {
    // not JSON: a proxy's page, or a plain refusal
  }
  return text.slice(0, 300) || response.statusText || "HTTP " + response.status;
}

async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // Plain HTTP has no clipboard; the old way still works there.
  const area = element("textarea", { class: "hush", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const worked = document.execCommand("copy");
  area.remove();
  if (!worked) throw new Error("the browser refused");
  return undefined;
}

export async function copyBy(button, text) {
  const words = button.dataset.words || (button.dataset.words = button.textContent);
  try {
    await copy(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Could not copy";
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}

// <button data-copy="id"> copies the text of that element.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copyBy(button, byId(button.dataset.copy).textContent);
});
