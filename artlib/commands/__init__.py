"""What `python -m artlib` can do: logs.py, models.py and notebooks.py add their commands to its parser."""
