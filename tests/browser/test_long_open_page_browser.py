"""A page that has been told for hours what the server does: it holds no more than after the first thousand messages.

The stream is made in the page, of a real one's messages, as fast as the page reads; what it holds is counted by
Chromium (Chrome DevTools Protocol, Performance and HeapProfiler). ``STFS_TEST_LONG=1`` is ten thousand messages, on
both pages.
"""

import json
import os

import pytest
from waiting import wait_until

pytestmark = pytest.mark.slow  # drives a browser

LONG = pytest.mark.skipif("STFS_TEST_LONG" not in os.environ, reason="STFS_TEST_LONG=1 tries the page of a model, too")

SETTLED, MESSAGES = 1_100, 10_500 if "STFS_TEST_LONG" in os.environ else 3_000
"""After the first, all rings of the page are full and turn over."""

LIMIT_S = 120

STREAM = """
window.told = 0; window.wanted = 0;
// Drawing is Chromium's own affair, and without a graphics card it takes most of the time.
for (const name of ["fill", "stroke", "fillText", "strokeText", "fillRect", "strokeRect", "clearRect", "clip"])
  CanvasRenderingContext2D.prototype[name] = () => {};
const real = window.fetch;
window.fetch = (address, options) => {
  if (!String(address).includes("/live")) return real(address, options);
  const encoder = new TextEncoder(), hello = HELLO, tick = TICK, message = (event, data) =>
    encoder.encode(`event: ${event}\\ndata: ${JSON.stringify(data)}\\n\\n`);
  const next = () => {
    const number = ++window.told, at = tick.at + number;
    const point = [at, hello.columns.map((_, place) => (number * (1 + place)) % 97 / 7)];
    // Ten seconds' points come with every third message, so that this ring is full and turns over as well.
    return message("tick", { ...tick, at, fine: point, ...(number % 3 ? {} : { coarse: point }),
      total: { ...tick.total, requests: number, rate: number % 50 / 3 },
      models: tick.models.map((model) => ({ ...model, requests: number, queued: number % 5, p95: number % 9 / 1e4,
        ...("outcomes" in model ? { outcomes: { ok: number, overloaded: number % 7 } } : {}) })) });
  };
  const body = new ReadableStream({
    start(controller) { controller.enqueue(message("hello", hello)); },
    async pull(controller) {
      // When all that is wanted has been told, one a second keeps the page from taking the stream for dead.
      await new Promise((resolve) => setTimeout(resolve, window.told < window.wanted ? 0 : 1000));
      controller.enqueue(next());
      for (let burst = 1; burst < 25 && window.told < window.wanted; burst++) controller.enqueue(next());
    },
  });
  return Promise.resolve(new Response(body));
};
"""


def first_messages(server, path):
    """The data of the first two events of a real stream."""
    connection = server.connect()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        found = []
        while len(found) < 2:
            line = response.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
        return found
    finally:
        connection.close()


def held(session):
    """What is alive after a collection: bytes of the heap, nodes of documents, listeners."""
    session.send("HeapProfiler.collectGarbage")
    told = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return told["JSHeapUsedSize"], told["Nodes"], told["JSEventListeners"]


@pytest.mark.parametrize("path", ["/", pytest.param("/dashboard/models/linear", marks=LONG)])
def test_a_page_that_stays_open_does_not_grow(server, open_page, path):
    hello, tick = first_messages(server, "/live" if path == "/" else "/live?model=linear")
    page = open_page("about:blank")
    page.add_init_script(STREAM.replace("HELLO", json.dumps(hello)).replace("TICK", json.dumps(tick)))
    page.goto(server.url + path)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def hear(count):
        page.evaluate(f"window.wanted = {count}")
        wait_until(lambda: page.evaluate("window.told") >= count, limit_s=LIMIT_S)

    hear(SETTLED)
    heap, nodes, listeners = held(session)
    hear(MESSAGES)
    more_heap, more_nodes, more_listeners = held(session)
    assert more_heap - heap < 300_000, (heap, more_heap)
    assert more_nodes - nodes < 50, (nodes, more_nodes)
    assert more_listeners == listeners
    assert page.locator("#connection").inner_text() == "Live"
    assert page.locator("#chart-rate canvas").count() == 1
