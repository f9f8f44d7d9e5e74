"""Plans of corpora: every token of every document once, in order; conversations; a corpus that breaks half-way."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from autointerp.errors import DataError, UserError
from autointerp.harvest.plan import Plan, PlanSettings, finished_plan, make_plan
from autointerp.harvest.tokens import special_ids
from autointerp.subject.corpora import open_corpus
from autointerp.subject.documents import Document
from tests.harvest.tokenizers_offline import gpt2

SETTINGS = PlanSettings(window=8, max_tokens=None, pool=5, seed=3, part_windows=4)


def tokens_by_document(plan: Plan) -> dict[str, list[int]]:
    """What the plan holds, put together again from its windows."""
    names = pq.read_table(plan.folder / "documents.parquet").to_pydict()
    found: dict[str, list[int]] = {name: [] for name in names["doc_id"]}
    for index in range(plan.n_parts):
        part = plan.part(index)
        for doc, start, begin, end in zip(part.doc, part.start, part.offsets, part.offsets[1:], strict=False):
            tokens = found[names["doc_id"][doc]]
            assert start == len(tokens) and 0 < end - begin <= SETTINGS.window
            tokens += part.tokens[begin:end].tolist()
    assert [len(tokens) for tokens in found.values()] == names["n_tokens"]
    return found


def test_a_plan_holds_every_token_once(tmp_path: Path, tiny_model: Path, tiny_corpus: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    documents = list(open_corpus(str(tiny_corpus)))
    plan = make_plan(documents, tokenizer, tmp_path / "plan", SETTINGS, "x")
    expected = {d.doc_id: tokenizer(d.text, add_special_tokens=False)["input_ids"] for d in documents}
    assert tokens_by_document(plan) == expected
    assert plan.n_tokens == sum(map(len, expected.values())) and len(plan.pool()) == 5
    assert plan.n_windows == sum(plan.windows_per_split) == sum(-(-len(ids) // 8) for ids in expected.values())


def test_windows_of_conversations(tmp_path: Path) -> None:
    tokenizer = gpt2()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    turns = [{"role": "user", "content": "the cat <|im_start|>"}, {"role": "assistant", "content": "sat"}]
    lines = [{"messages": turns}, {"messages": None}, {"messages": turns[:1]}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = open_corpus(str(tmp_path / "c.jsonl"), "messages")
    found = tokens_by_document(make_plan(documents, tokenizer, tmp_path / "plan", SETTINGS, "x"))
    assert list(found) == ["c.jsonl:1", "c.jsonl:3"]
    text = "<|im_start|>user\nthe cat <|im_start|><|im_end|>\n<|im_start|>assistant\nsat<|im_end|>\n"
    assert tokenizer.decode(found["c.jsonl:1"]) == text
    special = special_ids(tokenizer)
    assert sum(token in special for token in found["c.jsonl:1"]) == 4  # two turns, each with its two marks


def test_a_limit_inside_a_document(tmp_path: Path, tiny_model: Path, tiny_corpus: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    limited = PlanSettings(window=8, max_tokens=100, pool=5, seed=3, part_windows=4)
    plan = make_plan(open_corpus(str(tiny_corpus)), tokenizer, tmp_path / "a", limited, "x")
    whole = make_plan(open_corpus(str(tiny_corpus)), tokenizer, tmp_path / "b", SETTINGS, "x")
    assert plan.n_tokens == 100
    cut, full = tokens_by_document(plan), tokens_by_document(whole)
    assert all(tokens == full[name][: len(tokens)] for name, tokens in cut.items())
    assert [name for name in cut if len(cut[name]) < len(full[name])] in ([], [list(cut)[-1]])


def test_a_corpus_that_breaks_half_way_leaves_no_plan(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    path = tmp_path / "c.jsonl"
    path.write_text('"the cat sat on the mat and the dog ran home"\n' * 200 + "{broken\n")
    with pytest.raises(DataError, match="line 201"):
        make_plan(open_corpus(str(path)), tokenizer, tmp_path / "plan", SETTINGS, "x")
    assert finished_plan(tmp_path / "plan", "x") is None
    path.write_text('"the cat"\n')
    plan = make_plan(open_corpus(str(path)), tokenizer, tmp_path / "plan", SETTINGS, "x")
    assert plan.n_documents == 1 and plan.n_parts == 1
    assert np.array_equal(plan.part(0).tokens, tokenizer("the cat", add_special_tokens=False)["input_ids"])


def test_documents_of_one_name_and_none_at_all(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(DataError, match="'a'"):
        make_plan([Document("a", "the"), Document("a", "cat")], tokenizer, tmp_path / "plan", SETTINGS, "x")
    with pytest.raises(UserError, match="no tokens"):
        make_plan([], tokenizer, tmp_path / "plan", SETTINGS, "x")
