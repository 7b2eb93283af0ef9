"""The Log: the one thing through which everything else meets.

log.py the log in memory and on disk · contract.py, oddities.py what may be wrong or odd about it · history.py what
members watched · columns.py Arrow columns as arrays · sampling.py which impressions to learn from ·
leakage.py what of a split that judges was known before.
"""

from artlib.data.columns import pad, unpad
from artlib.data.contract import LogError
from artlib.data.history import History, genre_matrix, genre_names
from artlib.data.leakage import leakage
from artlib.data.log import SCHEMAS, Arrays, Log, LogWarning, table
from artlib.data.sampling import impressions, plays, shuffled_plays

__all__ = [
    "SCHEMAS",
    "Arrays",
    "History",
    "Log",
    "LogError",
    "LogWarning",
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
