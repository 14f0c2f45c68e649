"""From a state to scores, for every kind of head."""

import math

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from infoprompt.config import ConfigError
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.model.heads.label_tokens import label_token_ids
from infoprompt.model.heads.label_words import LabelWordsHead
from infoprompt.model.heads.linear import LinearHead, first_token_states, num_outputs
from infoprompt.model.heads.text import TextHead

IDS = [[1, 3], [5]]
VECTORS = torch.arange(6.0).reshape(2, 3)


def test_a_label_of_two_tokens_scores_their_mean():
    head = LabelWordsHead(IDS, VECTORS)
    scores = torch.tensor([[1.0, 3.0, 7.0], [0.0, 0.0, -1.0]])
    assert head.flat_ids == [1, 3, 5]
    assert head.gather(scores).tolist() == [[2.0, 7.0], [0.0, -1.0]]


@pytest.mark.parametrize("kind", [LabelWordsHead, TextHead])
def test_class_vectors_of_label_words_are_given_and_nothing_is_trained(kind):
    head = kind(IDS, VECTORS)
    assert torch.equal(head.class_vectors(), VECTORS)
    assert not list(head.parameters())
    assert not head.state_dict()  # made anew from the backbone, never kept


def test_a_class_of_several_words_has_the_mean_of_their_probabilities():
    head = LabelWordsHead([[1], [2, 3], [4]], VECTORS, words=[2, 1])
    log_probabilities = torch.tensor([[0.1, 0.3, 0.5, 0.2]]).log()
    expected = [0.5 * (0.1 + math.sqrt(0.3 * 0.5)), 0.2]  # over a word's tokens the mean is of the logarithms
    assert head.gather(log_probabilities).exp().tolist()[0] == pytest.approx(expected)


def test_a_bias_is_trained_and_added_to_the_scores():
    head = LabelWordsHead(IDS, VECTORS, bias=True)
    scores = torch.tensor([[1.0, 3.0, 7.0]])
    assert head.gather(scores).tolist() == [[2.0, 7.0]]
    head.bias_C.data = torch.tensor([1.0, -1.0])
    assert head.gather(scores).tolist() == [[3.0, 6.0]]
    assert [name for name, _ in head.named_parameters()] == ["bias_C"]


def test_length_normalization_divides_by_the_number_of_tokens():
    class Backbone:
        def score_texts(self, inputs, batch, ids, deep):
            return torch.tensor([[-4.0, -3.0]]), None

    given = (Backbone(), None, None, None)
    assert TextHead(IDS, VECTORS).score_pass(*given)[0].tolist() == [[-4.0, -3.0]]
    assert TextHead(IDS, VECTORS, length_normalization=True).score_pass(*given)[0].tolist() == [[-2.0, -3.0]]


def test_a_label_that_begins_a_line_has_no_blank_before_it():
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["a good a bad\ngood\nbad"] * 3, vocab_size=280, min_frequency=1, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    assert [tokenizer.decode(ids) for ids in label_token_ids(tokenizer, ["good", "bad"], alone=True)] == ["good", "bad"]


def test_a_linear_head_scores_words_one_by_one():
    torch.manual_seed(0)
    head = LinearHead(4, 3)
    states_BLD = torch.randn(2, 5, 4)
    word_BS = torch.tensor([[0, 2, 4], [1, 3, -1]])
    scores_BSC = head.linear(first_token_states(states_BLD, word_BS))
    assert scores_BSC.shape == (2, 3, 3)
    torch.testing.assert_close(scores_BSC[1, 1], head.linear(states_BLD[1, 3]))


@pytest.mark.parametrize(("name", "outputs"), [("sst2", 2), ("wnut17", 13), ("copa", 1), ("stsb", 1), ("wsc", 2)])
def test_choices_and_values_take_one_score(name, outputs):
    assert num_outputs(TASKS[name]) == outputs


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def test_label_words_have_the_tokens_they_have_behind_other_words(tiny_backbones, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[family])
    ids = label_token_ids(tokenizer, ["good", "bad film"])
    sentence = tokenizer("it was bad film", add_special_tokens=False)["input_ids"]
    assert sentence[-len(ids[1]) :] == ids[1]
    assert tokenizer.decode(ids[0]).strip() == "good"


def test_the_blank_before_a_label_word_is_part_of_its_token():
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["a good a bad"] * 3, vocab_size=280, min_frequency=1, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    assert [tokenizer.decode(ids) for ids in label_token_ids(tokenizer, ["good", "bad"])] == [" good", " bad"]


def test_whole_texts_end_with_the_end_token_where_there_is_one(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["t5"])
    assert [ids[-1] for ids in label_token_ids(tokenizer, ["good", "bad"], end=True)] == [tokenizer.eos_token_id] * 2
    without = AutoTokenizer.from_pretrained(tiny_backbones["bert"])
    assert label_token_ids(without, ["good", "bad"], end=True) == label_token_ids(without, ["good", "bad"])


def test_labels_with_the_same_tokens_are_refused(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    with pytest.raises(ConfigError, match=r"The labels 'good' and 'Good' have the same tokens.*data\.label_texts"):
        label_token_ids(tokenizer, ["good", "bad", "Good"])
    with pytest.raises(ConfigError, match="' ' have no tokens"):
        label_token_ids(tokenizer, ["good", " "])


def test_a_known_task_has_label_words_of_their_own(tiny_bert):
    # Needed by the heads of label words; every class is told from every other.
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for task in TASKS.values():
        ids = label_token_ids(tokenizer, task.label_texts) if isinstance(task, Task) and task.labels else []
        assert len({tuple(part) for part in ids}) == task.num_classes
