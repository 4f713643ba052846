"""The engine: recipe, plan, fingerprint, artifact store, runner, services, command line.

It knows no stage by name and imports no machine-learning library. A stage uses four things from here:
`pipeline.strict` (typed configs), `pipeline.artifact` (inputs), `pipeline.stage` (resources, workspace)
and `pipeline.errors`.
"""
