"""The generator of the Grafana dashboards in `dashboards/grafana`.

Dashboards are code because their words, colours and names come from the program: a cause that is added to
`sidecar.drift.attribution` appears on the on-call page with its advice, and a test finds an expression that asks for a
metric or label that is no more. `python -m dashboards.generate` writes the files; what is in them is said in
docs/dashboards.md.

Modules: `promql` (expressions), `words` (names and colours of states), `blocks` (panels), `frame` (layout, variables,
annotations), one module for each dashboard, and `needs` (what may honestly be empty).
"""
