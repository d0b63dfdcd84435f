"""What of the chart is generated: its table of values, their schema, its dashboards (`python -m helm.generate`, `--check`)."""
