// The stream of numbers, kept connected; see stfs/web/live.py for what is in it. Owns the signs of being connected or not:
// nothing may look live that is not. Not here: what the numbers are shown as.

import { byId, errorOf, origin, page, setText } from "./dom.js";
import { clock } from "./format.js";

const SILENT_MS = 4000; // a stream that says nothing for so long is taken for dead
const LONGEST_WAIT_S = 10;
const FINE = 300, COARSE = 360; // as many points as the server keeps

// The points of one stream: bounded, however long the page stays open.
export class Store {
  constructor() { this.clear(); }

  clear() {
    this.columns = [];
    this.fine = [];
    this.coarse = [];
  }

  fill(hello) {
    this.clear();
    this.columns = hello.columns || [];
    for (const name of ["fine", "coarse"]) {
      const had = hello[name];
      if (had) this[name] = had.times.map((at, index) => [at, had.points[index]]);
    }
  }

  add(tick) {
    for (const [name, limit] of [["fine", FINE], ["coarse", COARSE]]) {
      if (!tick[name]) continue;
      this[name].push(tick[name]);
      if (this[name].length > limit) this[name].shift();
    }
  }

  // [[times], [column], ...] for a chart; null where there is nothing.
  table(range, names) {
    const points = this[range];
    const places = names.map((name) => this.columns.indexOf(name));
    return [points.map((each) => each[0]), ...places.map((place) => points.map((each) => (place < 0 ? null : each[1][place])))];
  }

  sum(range, name) {
    const place = this.columns.indexOf(name);
    return place < 0 ? 0 : this[range].reduce((total, each) => total + (each[1][place] || 0), 0);
  }
}

// Calls back with each tick, and with the hello that begins each stream. One a page.
export function follow({ model = null, onHello = () => {}, onTick }) {
  const address = origin + "/live" + (model === null ? "" : "?model=" + encodeURIComponent(model));
  const pill = byId("connection"), lost = byId("lost"), told = byId("told");
  let controller = null, watchdog = 0, timer = 0, tries = 0, server = null, version = null, lastAt = null;

  function show(state, words, trouble = "") {
    pill.dataset.state = state;
    setText(pill, words);
    document.body.dataset.live = state === "live" ? "live" : "stale";
    setText(lost, trouble);
    lost.hidden = !trouble;
  }

  const since = () => (lastAt === null ? "" : " The numbers below are of " + clock(lastAt) + ".");

  function heard() {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => again("the server has stopped sending"), SILENT_MS);
  }

  function close() {
    clearTimeout(watchdog);
    clearTimeout(timer);
    if (controller) controller.abort();
    controller = null;
  }

  function again(why, state = "lost") {
    close();
    const wait = Math.min(2 ** tries, LONGEST_WAIT_S);
    tries += 1;
    show(state, state === "refused" ? "Refused" : "Reconnecting", `Not live: ${why}.${since()} Trying again every few seconds.`);
    timer = setTimeout(open, wait * 1000);
  }

  function handle(event, data) {
    heard();
    if (event === "hello") {
      tries = 0;
      if (server !== null && server !== data.server) {
        const other = version !== data.version ? ` It is now stfs ${data.version}: reload this page to have what belongs to it.` : "";
        setText(told, `The server was restarted; connected again at ${clock(data.at)}. Its counters began anew.${other}`);
        told.hidden = false;
      }
      server = data.server;
      version = data.version;
      onHello(data);
    } else if (event === "tick") {
      lastAt = data.at;
      show("live", data.ready ? "Live" : "Live, not ready");
      onTick(data);
    } else if (event === "bye") {
      tries = 0;
      again("the server is stopping");
    }
  }

  async function open() {
    close();
    const mine = controller = new AbortController();
    heard();
    try {
      // Not EventSource: it does not tell why it was refused, nor gives it up when a stream falls silent.
      const response = await fetch(address, { signal: mine.signal, cache: "no-store", credentials: "same-origin" });
      if (!response.ok) {
        const why = await errorOf(response);
        if (controller === mine) again(`${why} (HTTP ${response.status})`, "refused");
        return;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (controller !== mine) return;
        if (done) break;
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const message = /^event: (\w+)\ndata: (.*)$/.exec(text.slice(0, end));
          text = text.slice(end + 2);
          if (message) handle(message[1], JSON.parse(message[2]));
          if (controller !== mine) return;
        }
      }
      again("the connection ended");
    } catch (error) {
      if (controller === mine) again(error instanceof TypeError ? "the server cannot be reached" : String(error.message || error));
    }
  }

  // A page that nobody looks at costs the server nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      show("connecting", "Paused");
    } else {
      tries = 0;
      show("connecting", "Connecting");
      open();
    }
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  show("connecting", "Connecting");
  if (!document.hidden) open();
  if (!page.live) throw new Error("this page has no live numbers");
}
