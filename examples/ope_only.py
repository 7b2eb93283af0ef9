"""Off-policy evaluation alone, from a pandas frame to an estimate with its interval and verdict.

python examples/ope_only.py
"""

import numpy as np
import pandas as pd

from artlib import ope


def main(n: int = 5000, seed: int = 0) -> pd.DataFrame:
    """Log a uniform policy over three artworks, of which the third is the best, and judge one that prefers it."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 3, n)
    log = pd.DataFrame(
        {
            "user": rng.integers(0, n // 5, n),
            "action": shown,
            "propensity": 1 / 3,
            "reward": (rng.random(n) < np.array([0.1, 0.1, 0.2])[shown]).astype(float),
            "production": [[1 / 3] * 3] * n,
            "mine": [[0.1, 0.1, 0.8]] * n,
        }
    )
    policies = {name: ope.Feedback.from_frame(log, target=name, cluster="user") for name in ("production", "mine")}
    print(ope.estimate(policies["mine"], "snips"))
    return ope.compare(policies, baseline="production", estimator=["ips", "snips"])


if __name__ == "__main__":
    print(main().round(4).to_string())
