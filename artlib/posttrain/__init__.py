"""Post-training: from a log to a LoRA adapter.

settings.py all settings, with their defaults and ranges · objectives.py what is minimised · examples.py what is learnt
from · teacher.py reasons · rewards.py predicted rewards · trainer.py, trl.py trainers · train.py one training, from the
log to the adapter · processes.py the same in several processes · adapters.py what is kept of it · progress.py the bar.
"""
