"""Damaged copies of every format: no crash, no hang (pytest's time limit), and nothing lost without a finding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transforms.corpus import FRAMES, OUTCOMES, Corpus, table, whole

QUICK, ALL = 100, 12_000
# what this corpus found: MP4s whose edit list hides a frame, an MCAP whose footer points beyond what a file can have, SQLite without
# row numbers and with a message that is no UTF-8, a bag that ends between two chunks
KNOWN = (2992, 3664, 5706, 26391, 29205, 30951)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("corpus")
    yield Corpus(folder, whole(folder))


def test_the_whole_ones_are_whole(corpus: Corpus) -> None:
    for name, files in corpus.drives.items():
        assert corpus.frames(files) == (FRAMES, []), name


@pytest.mark.parametrize("tenth", range(10))
def test_damaged_copies(corpus: Corpus, tenth: int) -> None:
    for number in (*range(tenth, QUICK, 10), *KNOWN[tenth : tenth + 1]):
        assert corpus.case(number) != OUTCOMES[-1], number


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_damaged_copies(corpus: Corpus, part: int) -> None:
    for number in range(QUICK + part, ALL, 20):
        assert corpus.case(number) != OUTCOMES[-1], number
    assert len(corpus.rules) > 5 and "| all |" in table(corpus)
