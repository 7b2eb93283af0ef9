"""A language model as a scorer of candidates.

machine.py which number type is fast here · unsloth.py, embedded.py, model.py base models and adapters · prompts/ what
is read, one file a form · tree.py many continuations in one sequence · forward.py logits · calibration.py scores to
probabilities · generation.py written answers · encoder.py, embeddings.py texts as vectors · export.py a model for other
programs.
"""
