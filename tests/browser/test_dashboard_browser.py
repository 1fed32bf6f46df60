"""The dashboard as its users have it: numbers that move, buttons that work, what it says when the server is gone."""

import json
import re
import shutil

import pytest
from browser_parts import picture
from playwright.sync_api import expect
from running import running
from simple_models import write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # drives a browser

MODEL = "/dashboard/models/linear"

NONE = "\N{EN DASH}"


def send(server, count, rows=2, **body):
    for _ in range(count):
        server.post("/", {"model_name": "linear", "data": [[1, 2, 3]] * rows, **body})


def number(text):
    """``1,234`` or ``0.42 ms`` as a number."""
    return float(re.sub(r"[^\d.]", "", text))


def test_the_overviews_numbers_move_and_agree_with_metrics(server, open_page):
    page = open_page(server.url)
    expect(page.locator("#connection")).to_have_text("Live")
    row = page.locator('#model-rows tr[data-model="linear"]')
    expect(row.locator('[data-key="requests"]')).not_to_have_text("")
    send(server, 40)
    send(server, 1, data=[[1, 2]])
    told = server.metric("stfs_requests_total", model="linear")
    assert told >= 41
    expect(row.locator('[data-key="requests"]')).to_have_text(f"{told:,.0f}")
    assert number(page.locator('[data-number="rate"]').inner_text()) > 0
    assert number(row.locator('[data-key="p95"]').inner_text()) > 0
    assert number(page.locator('[data-number="memory"]').inner_text()) > 20
    expect(page.locator("#chart-rate canvas")).to_be_visible()
    assert number(page.locator("#chart-rate .legend b").first.inner_text()) >= 0
    # A version that does not load is told with its reason, as text.
    partly = page.locator('#model-rows tr[data-model="partly"]')
    expect(partly.locator(".badge.bad")).to_have_text("2 END")
    expect(partly.locator(".note")).to_contain_text("2: ")


def test_a_models_page_draws_what_its_batches_did(server, open_page):
    page = open_page(server.url + MODEL)
    expect(page.locator("#connection")).to_have_text("Live")
    send(server, 12, rows=7)
    sizes = page.locator("#bars-sizes li", has=page.locator(".name", has_text=re.compile(r"^5 to 8 *$")))
    expect(sizes.locator(".count")).to_contain_text("12 ·")
    expect(page.locator("#bars-reasons li", has_text="idle").locator(".count")).to_contain_text("%")
    expect(page.locator("#bars-outcomes li", has_text="ok")).to_be_visible()
    for chart in ("rate", "latency", "waits", "rows", "queue", "padding"):
        expect(page.locator(f"#chart-{chart} canvas")).to_be_visible()
    expect(page.locator("#chart-rows .legend b")).to_have_text("7")
    page.locator("#range button", has_text="1 hour").press("Enter")
    expect(page.locator("#range button", has_text="1 hour")).to_have_attribute("aria-pressed", "true")
    page.locator("#chart-rate .plot").hover()  # the legend then tells of the moment under the pointer
    expect(page.locator("#chart-rate .legend b").first).to_be_visible()


def test_versions_are_loaded_labelled_and_unloaded_by_buttons(server, open_page, folder):
    page = open_page(server.url + MODEL)
    rows = page.locator("#version-rows tr")

    def state(version):
        return rows.filter(has=page.locator("th", has_text=re.compile(f"^{version}$"))).locator(".badge").first

    def confirm(label=None):
        if label is not None:
            page.locator("#ask-input").fill(label)
        page.locator("#ask-yes").click()

    expect(state(1)).to_have_text("on disk")
    page.get_by_role("button", name="Load version 1").click()
    confirm()
    expect(state(1)).to_have_text("AVAILABLE")
    expect(state(2)).to_have_text("AVAILABLE")
    page.get_by_role("button", name="Label version 1").click()
    confirm("old <b>one</b>")
    expect(page.get_by_role("button", name="Take the label old <b>one</b> away")).to_have_count(0)
    expect(page.locator("#control-told .banner")).to_contain_text("stands in addresses")
    page.get_by_role("button", name="Label version 1").click()
    confirm("old")
    expect(page.get_by_role("button", name="Take the label old away from version 1")).to_be_visible()
    by_label = server.post("/v1/models/linear/labels/old:predict", {"instances": [[1, 2, 3]]})
    assert by_label.json["predictions"] == [[1, 2, 3]]
    page.get_by_role("button", name="Unload version 1").click()
    page.get_by_role("button", name="Cancel").click()
    expect(state(1)).to_have_text("AVAILABLE")
    page.get_by_role("button", name="Unload version 1").click()
    confirm()
    expect(state(1)).not_to_have_text("AVAILABLE")
    assert server.get("/v1/models/linear").json["model_version_list"] == [2]
    # As it was configured it serves the latest version, and swaps to a new one by itself: the page shows it.
    page.get_by_role("button", name="Load as configured").click()
    expect(page.locator("#control-told")).to_contain_text("done")
    write_linear(folder / "linear" / ".new", scale=3.0)
    (folder / "linear" / ".new").rename(folder / "linear" / "3")
    expect(state(3)).to_have_text("AVAILABLE")
    expect(state(2)).not_to_have_text("AVAILABLE")
    shutil.rmtree(folder / "linear" / "3")
    expect(state(2)).to_have_text("AVAILABLE")


def test_a_model_that_is_unloaded_is_shown_as_gone_and_comes_back(server, open_page):
    page = open_page(server.url + "/dashboard/models/many")
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator('[data-number="rate"]')).not_to_have_text(NONE)
    page.get_by_role("button", name="Unload the model").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#version-rows")).to_contain_text("not served")
    expect(page.locator('[data-number="rate"]')).to_have_text(NONE)
    page.get_by_role("button", name="Load as configured").click()
    expect(page.locator("#version-rows .badge")).to_have_text("AVAILABLE")


def test_json_is_sent_from_an_example_and_the_answer_tells_where_its_time_went(server, open_page):
    page = open_page(server.url + "/json_inference?model=linear")
    text = page.locator("#console-text")
    expect(text).to_have_value(re.compile(r'"x"'))
    assert json.loads(text.input_value())["model_name"] == "linear"
    text.press("Control+Enter")
    expect(page.locator("#console-status .badge")).to_have_text(re.compile("^200"))
    expect(page.locator("#console-timing li")).to_have_count(4)
    expect(page.locator("#console-timing li", has_text="run").locator(".count")).to_contain_text("ms")
    assert "y" in json.loads(page.locator("#console-body").inner_text())
    text.fill('{"model_name": "linear", "data": [[1, 2, "<b>"]]}')
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#console-status .badge")).to_have_text(re.compile("^400"))
    expect(page.locator("#console-body")).to_contain_text('input \\"x\\"')
    page.locator("#console-model").select_option("many")  # what was written is kept, and told for whom it is now
    assert json.loads(text.input_value())["model_name"] == "many"
    page.get_by_role("button", name="Example").click()
    expect(text).to_have_value(re.compile('"real"'))
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#console-status .badge")).to_have_text(re.compile("^200"))


def test_answers_are_shown_with_the_numbers_that_were_sent(server, open_page):
    page = open_page(server.url + "/json_inference?model=linear")
    expect(page.locator("#console-text")).to_have_value(re.compile(r'"x"'))
    page.locator("#console-text").fill('{"model_name": "linear", "data": [[0, 0, 0]]}')
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#console-status .badge")).to_have_text(re.compile("^200"))
    shown = page.locator("#console-body").inner_text()
    sent = server.post("/", {"model_name": "linear", "data": [[0, 0, 0]]}).body.decode()
    assert ".0" in shown
    assert "".join(shown.split()) == "".join(sent.split())
    made = page.evaluate(
        """async (text) => {
          const address = document.querySelector('script[src*="forms"]').src.replace("forms.js", "pretty.js");
          return (await import(address)).pretty(text);
        }""",
        '{"a":[[1.0,2e5],[12345678901234567890,-0.0]],"b":[],"c":{},'
        '"d":"[1, {\\"x\\": 2}","e":[{"f":null}],"g":[true, "],["]}',
    )
    assert made.splitlines() == [
        "{",
        '  "a": [',
        "    [1.0, 2e5],",
        "    [12345678901234567890, -0.0]",
        "  ],",
        '  "b": [],',
        '  "c": {},',
        '  "d": "[1, {\\"x\\": 2}",',
        '  "e": [',
        "    {",
        '      "f": null',
        "    }",
        "  ],",
        '  "g": [true, "],["]',
        "}",
    ]


@pytest.mark.parametrize("width", [1440, 1280, 1100, 800, 390])
def test_no_tile_is_alone_in_a_row(server, open_page, width):
    page = open_page(server.url + "/", viewport={"width": width, "height": 800})
    rows = page.evaluate(
        """(selector) => {
          const rows = {};
          for (const { offsetTop } of document.querySelectorAll(selector)) rows[offsetTop] = (rows[offsetTop] || 0) + 1;
          return Object.values(rows);
        }""",
        ".tiles > .tile:not([hidden])",
    )
    assert sum(rows) in (9, 10), "with a GPU there is one more"
    assert max(rows) - min(rows) <= 1, rows


def test_an_image_is_shown_sent_and_its_classes_told(server, open_page):
    page = open_page(server.url + "/image_inference?model=pixels")
    button = page.get_by_role("button", name="Send")
    expect(button).to_be_disabled()
    page.locator("#images-file").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": picture(200, 40, 16)}
    )
    expect(page.locator("#images-preview")).to_be_visible()
    expect(page.locator("#images-preview")).to_have_attribute("alt", "Preview of red.png")
    button.click()
    expect(page.locator("#images-status .badge")).to_have_text(re.compile("^200"))
    classes = page.locator("#images-classes li")
    expect(classes).to_have_count(3)
    expect(classes.first.locator(".name")).to_contain_text("class 0")
    expect(classes.first.locator(".count")).to_have_text("78.1 %")  # 200 of 256
    page.locator("#images-file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    button.click()
    expect(page.locator("#images-status .badge")).to_have_text(re.compile("^400"))
    expect(page.locator("#images-body")).to_contain_text("no.png")


def test_clients_are_shown_and_copied(server, open_page):
    page = open_page(server.url + "/generate_clients?model=linear", permissions=["clipboard-read", "clipboard-write"])
    code = page.locator("#clients-code")
    expect(page.locator("#clients-language")).to_have_value("python")
    expect(code).to_contain_text(server.url)
    languages = page.locator("#clients-language option").all_inner_texts()
    assert {"python", "bash", "javascript"} <= set(languages)
    page.get_by_role("button", name="Copy the client").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == code.text_content()
    compile(code.text_content(), "client.py", "exec")
    page.locator("#clients-language").select_option("bash")
    expect(code).to_contain_text("curl")


def test_a_restart_is_seen_told_and_recovered_from(tmp_path, open_page):
    """The page's requests are led to the server that runs now, as if all of them had the same port."""
    write_linear(tmp_path / "1")
    with running(str(tmp_path)) as first:
        port, now = first.port, [first.port]
        page = open_page("about:blank")
        page.route(
            f"http://127.0.0.1:{port}/**",
            lambda route: route.continue_(url=route.request.url.replace(f":{port}/", f":{now[0]}/", 1)),
        )
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#connection")).to_have_text("Live")
        first.post("/", {"data": [[1, 2, 3]]})
        requests = page.locator('#model-rows [data-key="requests"]')
        expect(requests).to_have_text("1")
        first.stop()
        expect(page.locator("#lost")).to_contain_text("Not live")
        expect(page.locator("#connection")).to_have_text("Reconnecting")
        expect(page.locator("body")).to_have_attribute("data-live", "stale")
        for shown in (requests, page.locator("#model-rows .badge"), page.locator("#chart-rate .legend")):
            assert float(shown.evaluate("shown => getComputedStyle(shown).opacity")) < 0.6
        with running(str(tmp_path)) as second:
            now[0] = second.port
            expect(page.locator("#told")).to_contain_text("The server was restarted")
            expect(page.locator("#connection")).to_have_text("Live")
            expect(page.locator("#lost")).to_be_hidden()
            expect(requests).to_have_text("0")
            expect(page.locator("body")).to_have_attribute("data-live", "live")


def test_a_page_that_nobody_looks_at_has_no_stream(server, open_page):
    page = open_page(server.url)
    expect(page.locator("#connection")).to_have_text("Live")
    hide = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{ get: () => window.away, configurable: true }});"
        f"window.away = true; {hide}"
    )
    expect(page.locator("#connection")).to_have_text("Paused")
    expect(page.locator("body")).to_have_attribute("data-live", "stale")
    page.evaluate(f"window.away = false; {hide}")
    expect(page.locator("#connection")).to_have_text("Live")


def test_credentials_are_asked_for_and_everything_works_with_them(tmp_path, open_page):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--enable_auth", "--auth_username=ana", "--auth_password=näive:pass") as server:
        page = open_page(server.url, http_credentials={"username": "ana", "password": "näive:pass"})
        expect(page.locator("#connection")).to_have_text("Live")
        page.goto(server.url + "/json_inference")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#console-status .badge")).to_have_text(re.compile("^200"))
        refused = open_page("about:blank", http_credentials={"username": "ana", "password": "wrong"})
        assert refused.goto(server.url).status == 401
        expect(refused.locator("main")).to_have_count(0)


def test_the_keyboard_alone_gets_everywhere(server, open_page):
    page = open_page(server.url + MODEL)
    expect(page.locator("#connection")).to_have_text("Live")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.get_by_role("button", name="Unload version 2").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ask")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.get_by_role("button", name="Unload version 2")).to_be_focused()  # a tick does not take it away
    wait_until(lambda: server.get("/v1/models/linear").json["model_version_list"] == [2])


def test_without_scripts_the_pages_tell_what_is_served(server, open_page):
    page = open_page(server.url, java_script_enabled=False)
    expect(page.locator('tr[data-model="linear"] .badge')).to_have_text("2 AVAILABLE")
    page.locator('tr[data-model="linear"] a').click()
    expect(page.locator("#version-rows .badge.good")).to_have_text("AVAILABLE")
    expect(page.locator("section", has=page.locator("#signature"))).to_contain_text("float32")
