"""Dashboards and rules for a Prometheus that scrapes `lorikeet serve`, generated from code.

    python -m deploy.monitoring

writes `deploy/grafana/*.json` and `deploy/prometheus/lorikeet.rules.yml`. The metrics themselves
are declared in `serve.metrics`; a test holds the two together.
"""
