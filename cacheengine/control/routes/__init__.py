"""HTTP routes of the control service, one module per topic: thin skins over desired, jobs and tokens."""
