"""Outlap's pages in Airflow's navigation, at /outlap/ui: what each reads, thin routes, and plain files that no build makes.

One module for each page (datasets, version, way, jobs, nodes, residency, synclag, quarantine): plain functions over `Sources`, which
tests call directly. `routes` puts them behind the host's authorisation, `app` serves them and the files of `static/`.
"""
