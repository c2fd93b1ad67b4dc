"""From a laptop to a cluster: the demo, images, charts, dashboards."""
