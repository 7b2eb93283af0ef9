"""Policies: for every impression, a probability for each of its candidates.

baselines.py, text.py, llm.py the policies · answers.py all of them asked about the test split, and what they said.
"""
