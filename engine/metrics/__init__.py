"""Metrics: what each process counts, added up for the node, in the formats of Prometheus and OpenMetrics."""
