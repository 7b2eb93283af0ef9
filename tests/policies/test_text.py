"""The policy `text`: which reader validation chooses, and from which it is post-trained."""

import numpy as np
import pytest
import torch

from artlib import data
from artlib.policies import encoder, text
from artlib.policies.readings import Reading
from artlib.policies.text import Readers


class Known(Reading):
    """Scores every artwork by a number of its own, whoever asks."""

    def __init__(self, log):
        self.log, self.labels = log, ["a number"]

    def similarities(self, embed, labels, artworks):
        raise NotImplementedError

    def logits(self, table, part):
        arrays = part.arrays()
        found = table[torch.from_numpy(np.maximum(arrays.candidates, 0)), 0]
        return found.masked_fill(~torch.tensor(arrays.mask), -1e9)


@pytest.fixture
def readers(small_log) -> Readers:
    """With two readings: which artworks members play, and the opposite."""
    arrays = small_log.arrays()
    found = Readers(small_log, np.unique(arrays.candidates[arrays.mask]), "tiny")
    value = np.zeros((len(small_log.artworks), 1))
    np.maximum.at(value[:, 0], arrays.candidates[arrays.mask], small_log.expected_reward()[arrays.mask])
    found.readings = {"wrong": (Known(small_log), -9 * value), "right": (Known(small_log), 9 * value)}
    return found


def test_the_better_reading_is_the_zero_shot_one_and_the_one_that_is_post_trained(small_log, readers, monkeypatch):
    plays, validation = (data.plays(small_log, split, None, 0) for split in ("train", "validation"))
    begun = []

    def recorded(reading, table, *others):
        begun.append((table, others[-1]))
        return lambda part: 2 * reading.scores(table, part)

    monkeypatch.setattr(text, "finetuned", recorded)
    right, table = readers.readings["right"]
    np.testing.assert_array_equal(readers.zero_shot(validation)(plays), right.scores(table, plays))
    choice = readers.strongest(plays, validation, seed=3)
    assert len(begun) == 1 and begun[0][0] is table and begun[0][1] == 3
    assert choice.losses[choice.name] == min(choice.losses.values())
    assert choice.losses["encoder, right"] < choice.losses["encoder, wrong"]
    assert {"encoder, right, post-trained", "encoder, fusion", "encoder, history"} <= choice.losses.keys()
    assert encoder.loss(choice.scores(validation), validation) == pytest.approx(choice.losses[choice.name])


def test_without_a_reading_others_are_still_chosen_from(small_log, readers):
    readers.readings = {}
    plays, validation = (data.plays(small_log, split, None, 0) for split in ("train", "validation"))
    choice = readers.strongest(plays, validation)
    assert "encoder, history, learnt" in choice.losses and not any("post-trained" in name for name in choice.losses)
