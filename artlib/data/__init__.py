"""The Log: the one thing through which everything else meets.

log.py the log in memory and on disk · contract.py, oddities.py what may be wrong or odd about it · pictures.py artworks
as images · history.py what members watched · columns.py Arrow columns as arrays · sampling.py which impressions to
learn from · splits.py what of a split that judges another knows.
"""

from artlib.data.columns import pad, unpad
from artlib.data.contract import LogError
from artlib.data.dataset_card import card
from artlib.data.frames import from_frames
from artlib.data.history import History, genre_matrix, genre_names
from artlib.data.log import SCHEMAS, Arrays, Log, LogWarning, table
from artlib.data.sampling import impressions, plays, shuffled_plays
from artlib.data.sources import Report
from artlib.data.splits import leakage

__all__ = [
    "SCHEMAS",
    "Arrays",
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
