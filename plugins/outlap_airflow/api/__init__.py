"""The publish API at /outlap of Airflow's API server. Only that process imports what is below."""
