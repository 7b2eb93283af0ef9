"""Personalised artwork selection with post-trained language models, judged off-policy.

    data      the Log: what was shown to whom with which probability, and what came of it
    worlds    where logs come from
    ope       off-policy evaluation; knows nothing of artworks or language models
    lm        a language model as a scorer of candidates
    captions  words for artworks of which a log has the pictures
    posttrain from a log to an adapter
    policies  probabilities over candidates
    analysis  what came out
    running   how notebooks are run

Each may import those above it. `data`, `worlds` and `ope` need no torch. `load_policy` puts a post-trained model into
service.
"""


class ArtlibError(Exception):
    """What its user can mend; the message says how.

    Attributes:
        exit_code: of the command line: 1 the work failed, 2 the request is wrong.
    """

    exit_code = 1


def load_policy(
    adapter,
    exploration: str = "none",
    epsilon: float = 0.05,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "",
):
    """A post-trained model in service, a `policies.chooser.Chooser`: `choose(history, title, candidates)` for one
    decision, `choose_many` for a table of requests.

    Args:
        adapter: runs/NAME/adapters/METHOD.
        exploration, epsilon, temperature, seed: how choices are drawn, see `policies.chooser.Exploration`.
        dtype: of the weights, see `lm.model.load`; "" for the adapter's own setting.
    """
    from artlib.policies.chooser import Chooser, Exploration

    return Chooser(adapter, Exploration(exploration, epsilon, temperature, seed), dtype)
