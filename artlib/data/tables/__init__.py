"""A log of somebody's own tables: what the contract asks for and they lack is derived, or said to be missing.

importing.py a folder of CSV or Parquet · kept.py what of a log stays when it is imported again · frames.py tables of
any library · logged.py impressions · propensities.py estimated ones · derive.py ids, times, lists, splits · sources.py
tables as Arrow, and the report.
"""
