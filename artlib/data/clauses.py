"""Texts clause by clause: what the synopses of watched titles tell, and how much more often a member watched it than
others.

A text as a whole says what most of it is about; who stars in it, and in which tone it is told, is lost in the mean.
Clause by clause it is not. T titles, L clauses, n impressions.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import scipy.sparse

from artlib.data.contract import one_line
from artlib.data.history import PSEUDO_TITLES, History

MOST_CLAUSES = 512  # of the titles that were watched most often
PARTS = re.compile(r"[.;:,!?]+(?:\s+|$)")  # what stands between the clauses of a text


def clauses(text: str) -> list[str]:
    """What stands between the marks of a text, each once."""
    return list(dict.fromkeys(part for part in PARTS.split(one_line(text)) if part))


def told_most(titles: pa.Table, history: History) -> list[str]:
    """The clauses of the synopses of the titles that were watched most often, `MOST_CLAUSES` at most."""
    synopses = titles["synopsis"].to_pylist()
    often = np.bincount(history.title, minlength=len(synopses))
    found: dict[str, None] = {}
    for title in np.argsort(-often, kind="stable")[: np.count_nonzero(often)]:
        own = clauses(synopses[title])
        if len(found) + len(own) <= MOST_CLAUSES:
            found.update(dict.fromkeys(own))
    return list(found)


def told_by(titles: pa.Table, known: Sequence[str]) -> scipy.sparse.csr_matrix:
    """(T, L) 1 where a title's synopsis has a clause."""
    place = {clause: at for at, clause in enumerate(known)}
    own = [sorted(place[c] for c in clauses(text) if c in place) for text in titles["synopsis"].to_pylist()]
    indptr = np.cumsum([0, *map(len, own)])
    columns = np.concatenate([[], *own]).astype(int)
    return scipy.sparse.csr_matrix((np.ones(indptr[-1]), columns, indptr), (len(own), len(known)))


def shares(history: History, told: scipy.sparse.csr_matrix, impressions: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(n, L) the share of what a member watched before an impression that tells each clause; (n,) how many titles
    these were.

    Args:
        told: of `told_by`.
    """
    start, stop = history.spans(impressions)
    n, first = stop - start, np.cumsum([0, *(stop - start)])
    rows = np.arange(first[-1]) - np.repeat(first[:-1] - start, n)
    watched = scipy.sparse.csr_matrix((np.ones(len(rows)), history.title[rows], first), (len(n), told.shape[0]))
    return (watched @ told).toarray() / np.maximum(n, 1)[:, None], n


def excess(share: np.ndarray, n: np.ndarray, average: np.ndarray) -> np.ndarray:
    """(..., L) a member's shares less the average member's; a short history says little, as in `history.affinities`.

    Args:
        share, n: (..., L) and (...), of `shares`.
        average: (L,) the average member's shares.
    """
    return (n / (n + PSEUDO_TITLES))[..., None] * (share - average)
