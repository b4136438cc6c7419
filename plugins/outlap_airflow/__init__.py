"""How Airflow speaks Outlap: assets, mappers, operators, triggers, forms and the publish API.

Nothing here opens a store or a connection on import: DAG files import it each time they are parsed.
"""
