"""Off-policy evaluation: what a policy would have earned, from a log of what another policy showed.

    feedback = ope.Feedback(reward, action, propensity, target, q_hat, mask, cluster)
    feedback = ope.Feedback.from_frame(frame)  # a pandas data frame, a row per impression
    ope.estimate(feedback, "snips")
    ope.compare({"production": production, "llm-sft": llm}, baseline="production")
    ope.compare(ope.read_sums("log", ["production", "llm-sft"], cluster="user"), baseline="production")  # past memory

feedback.py what is known · frames.py, validation.py how it is read and checked · estimators.py values ·
sums.py what is needed of rows · batches.py logs larger than memory ·
intervals.py, sequences.py their uncertainty · diagnostics.py when not to believe them ·
selection.py hyper-parameters · reward_model.py q(x, a) · result.py one policy · comparison.py many policies ·
sample_size.py how long a log must be.
It knows nothing of artworks or language models.
"""

from artlib.ope.batches import read_sums
from artlib.ope.comparison import compare, holm
from artlib.ope.diagnostics import Diagnostics, diagnose, verdict
from artlib.ope.estimators import ESTIMATORS, PARAMETER, Terms
from artlib.ope.feedback import Feedback
from artlib.ope.result import Estimate, EvaluationWarning, estimate
from artlib.ope.reward_model import cross_fit
from artlib.ope.sample_size import power
from artlib.ope.selection import Choice, select
from artlib.ope.sequences import bernstein_lower_bound, confidence_sequence
from artlib.ope.sums import Sums

__all__ = [
    "ESTIMATORS",
    "PARAMETER",
    "Choice",
    "Diagnostics",
    "Estimate",
    "EvaluationWarning",
    "Feedback",
    "Sums",
    "Terms",
    "bernstein_lower_bound",
    "compare",
    "confidence_sequence",
    "cross_fit",
    "diagnose",
    "estimate",
    "holm",
    "power",
    "read_sums",
    "select",
    "verdict",
]
