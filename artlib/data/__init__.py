"""The Log: the one thing through which everything else meets.

log.py the log in memory · storage.py its files and their columns · contract.py, oddities.py what may be wrong or odd
about it · pictures.py artworks as images · history.py what members watched · clauses.py what synopses of it tell,
clause by clause · background.py what a model has to know of the log that it was trained on · columns.py Arrow columns
as arrays · sampling.py which impressions to learn from · splits.py what of a split that judges another knows ·
dataset_card.py what a stranger is told of one · tables/ a log of somebody's own tables.
"""

from artlib.data.background import Background
from artlib.data.columns import pad, unpad
from artlib.data.contract import LogError
from artlib.data.dataset_card import card
from artlib.data.history import History, genre_matrix, genre_names
from artlib.data.log import Arrays, Log, LogWarning
from artlib.data.sampling import impressions, plays, shuffled_plays
from artlib.data.splits import leakage
from artlib.data.storage import SCHEMAS, table
from artlib.data.tables.frames import from_frames
from artlib.data.tables.sources import Report

__all__ = [
    "SCHEMAS",
    "Arrays",
    "Background",
    "History",
    "Log",
    "LogError",
    "LogWarning",
    "Report",
    "card",
    "from_frames",
    "genre_matrix",
    "genre_names",
    "impressions",
    "leakage",
    "pad",
    "plays",
    "shuffled_plays",
    "table",
    "unpad",
]
