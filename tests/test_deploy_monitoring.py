"""The alerts and the dashboard in ``deploy``, as far as can be told without a server; test_metrics_served has the rest.

Grafana itself is not asked. What its importer goes by is looked at here: that panels have a place, an id of their own
and a kind that is there, that queries name the data source by its variable, and that variables are defined.
"""

import itertools
import re

from deploy_files import ALERTS, alert_queries, dashboard, dashboard_queries, names_in
from exposition import check_queries, promtool, quoted, rows


def test_prometheus_takes_the_alerts_and_each_fires_when_it_should():
    assert f"{len(alert_queries())} rules found" in promtool("check", "rules", str(ALERTS))
    assert "SUCCESS" in promtool("test", "rules", str(ALERTS.with_name("alerts_test.yml")))


def test_every_alert_has_been_seen_to_fire_and_not_to():
    tests = ALERTS.with_name("alerts_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert len(alerts) == len(set(alerts)) == len(alert_queries()) >= 10
    for alert in alerts:
        assert f"alertname: {alert}, exp_alerts: []" in tests, alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels", tests), alert


def test_queries_go_by_documented_names():
    kinds = {quoted(row[0])[0]: row[1] for row in rows("name")}
    for query in [*dashboard_queries(), *alert_queries()]:
        for name in names_in(query) - {"up"}:
            base = re.sub("_(bucket|sum|count)$", "", name)
            assert name in kinds or kinds.get(base) == "histogram", name


def test_prometheus_reads_the_queries_of_the_dashboard(tmp_path):
    queries = [query for query in dashboard_queries() if not query.startswith("label_values")]
    assert len(queries) > 25
    check_queries([re.sub(r"\$__rate_interval", "1m", query) for query in queries], tmp_path)


def test_the_dashboard_is_what_grafana_imports():
    told = dashboard()
    assert told["id"] is None  # it gets one when it is imported
    assert {"title", "uid", "schemaVersion", "time", "templating", "panels"} <= set(told)
    ids = [panel["id"] for panel in told["panels"]]
    assert len(ids) == len(set(ids))
    variables = {one["name"] for one in told["templating"]["list"]} | {"__rate_interval"}
    for panel in told["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries")
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for query in dashboard_queries():
        assert set(re.findall(r"\$(\w+)", query)) <= variables, query


def test_panels_do_not_lie_on_one_another():
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
