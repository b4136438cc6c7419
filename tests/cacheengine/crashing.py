"""Runs steps of a node in children that die at a point: `python -m tests.cacheengine.crashing FOLDER STORE DATA…`.

One process that imports all and then forks for each line `<operation> <point> <folder>` of its input; it answers with the signal that
ended the child (0: it was not reached).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from cacheengine import crashpoints
from cacheengine.agent import letgo, room
from cacheengine.packs import have as haves
from cacheengine.packs import packcache
from lake.config import StoreConfig
from tests.cacheengine.faulty import again, desire, make_node
from tests.cacheengine.nodes import Dataset


def operate(operation: str, point: str, folder: Path, store: StoreConfig, data: Dataset) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    node = make_node(folder, store)
    room.tidy(node)
    if operation == "warm":
        desire(node, data)
        os.environ["OUTLAP_CRASH_AT"] = point
        importlib.reload(crashpoints)
        again(node)
        return
    desire(node, data)
    again(node)
    os.environ["OUTLAP_CRASH_AT"] = point
    importlib.reload(crashpoints)
    if operation == "trim":
        for pack in packcache.packs_on_disk(node.cache.dirs[0]):
            known = packcache.load_have(node.cache, pack)
            half = haves.Have(known.offset[::2], known.size[::2], known.head[::2])
            packcache.keep_only(node.cache.dirs[0], pack, half)
    else:
        desire(node)
        for key in list(node.statuses):
            letgo.release(node, key)


def main() -> None:
    store = StoreConfig(name="lake", idc="a", url=sys.argv[1])
    data = Dataset("frames", sys.argv[2], sys.argv[3], {}, ())
    for line in sys.stdin:
        operation, point, folder = line.split()
        child = os.fork()
        if child == 0:
            operate(operation, point, Path(folder), store, data)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)


if __name__ == "__main__":
    main()
