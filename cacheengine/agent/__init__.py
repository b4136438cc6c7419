"""The node agent: holds what is desired, mounts views, reports what is really there. `python -m cacheengine.agent` runs it."""
