"""Captions from pictures: what of an artwork a member sees, in words that every policy can read.

schema.py what is asked, what is accepted, how it becomes one caption · remote.py, local.py who is asked · answers.py
asking about a picture, and what is kept of it · lengths.py are captions of a title alike? · record.py captions into a
log's files · fill.py all that a log lacks.
"""
