"""The control service of one IDC: nodes, desired residency, jobs and tokens. `python -m cacheengine.control` runs it."""
