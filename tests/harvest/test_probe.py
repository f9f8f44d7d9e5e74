"""Probing a text: equal to what a harvest of that text stores, and to a forward pass by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.harvest.probe import Peak, TokenFirings, peaks, probe
from autointerp.harvest.stage import sample
from autointerp.harvest.tokens import token_bytes
from autointerp.sae import load_sae
from autointerp.sae.canonical import SAE
from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.model import Subject, load_subject
from autointerp.vocabulary import Vocabulary

torch.set_num_threads(1)
OUT = Hookpoint("model.layers.1", "out")
WINDOW = 23


@pytest.fixture(scope="module")
def subject(tiny_model: Path) -> Subject:
    return load_subject(str(tiny_model), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reader(subject: Subject, tiny_sae: Path) -> Reader:
    return Reader(subject, load_sae(tiny_sae), OUT, prepend_bos=True)


def axes() -> SAE:
    """Features 0 to 15 are the positive sides of the hidden state's coordinates, 16 to 31 the negative ones."""
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    return SAE(activation="relu", encoder=both, b_enc=torch.zeros(32), decoder=both, b_dec=torch.zeros(16))


def test_equals_what_a_harvest_stores(
    tmp_path: Path, reader: Reader, tiny_settings: dict[str, object], tiny_corpus: Path
) -> None:
    import jsonlines

    with jsonlines.open(tiny_corpus) as lines:
        texts = {f"{tiny_corpus.name}:{number}": item["text"] for number, item in enumerate(lines, 1)}
    sample(load_config(None, tiny_settings), tmp_path)
    with Catalog.open(tmp_path / "catalog.duckdb") as catalog:
        stored = catalog.rows(
            "SELECT doc_id, start, feature_id, tokens, positions, activations FROM contexts JOIN windows w USING (window_id) "
            "JOIN documents USING (doc)"
        )
    probed: dict[str, list[TokenFirings]] = {}
    for doc, start, feature, tokens, positions, activations in stored:
        rows = probed.setdefault(doc, probe(reader, texts[doc], window=WINDOW) if doc not in probed else [])
        inside = [row for row in rows if row.window == start // WINDOW]
        assert [row.token for row in inside] == tokens
        fires = [
            (row.position, float(row.activation[row.feature == feature][0])) for row in inside if feature in row.feature
        ]
        assert [position for position, _ in fires] == positions
        assert [value for _, value in fires] == pytest.approx(activations, rel=1e-5)
    assert len(stored) > 300 and len(probed) > 20


@pytest.mark.parametrize("bos", [True, False])
def test_golden_hidden_states_by_hand(subject: Subject, bos: bool) -> None:
    """A long text in windows, each a forward pass of its own with BOS before it; what fires are its hidden states."""
    text = "the red cat sat on a mat because it was late and the dog ran home\n" * 2
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = probe(Reader(subject, axes(), OUT, prepend_bos=bos), text, window=10, batch_windows=2)
    assert [row.token for row in found] == ids and [row.index for row in found] == list(range(len(ids)))
    assert len(ids) > 25 and found[-1].window == (len(ids) - 1) // 10
    for start in range(0, len(ids), 10):
        given = torch.tensor([[0] * bos + ids[start : start + 10]])
        with torch.inference_mode():
            states = subject.model(given, output_hidden_states=True).hidden_states[2][0, int(bos) :]
        for position, state in enumerate(torch.cat([states, -states], 1).numpy()):
            row = found[start + position]
            assert (row.window, row.position) == (start // 10, position)
            order = [feature for feature in np.argsort(-state) if state[feature] > 0]
            assert row.feature.tolist() == order
            assert row.activation == pytest.approx(state[order], rel=1e-4, abs=1e-5)


def test_special_tokens_are_never_shown_and_their_names_are_text(reader: Reader) -> None:
    found = probe(reader, "<s>the cat<s>", window=WINDOW)
    special = reader.subject.tokenizer.bos_token_id
    assert special not in [row.token for row in found]
    raw = Vocabulary(*token_bytes(reader.subject.tokenizer, 300))
    assert raw.join(row.token for row in found) == "<s>the cat<s>"


def test_split_characters(reader: Reader) -> None:
    """Every byte of what the tokenizer cannot hold in one piece is a token with firings of its own."""
    text = "é→𝛑 cat"
    found = probe(reader, text, window=WINDOW)
    vocabulary = Vocabulary(*token_bytes(reader.subject.tokenizer, 300))
    shown = [vocabulary.text(row.token) for row in found]
    assert shown[:9] == ["<0xC3>", "<0xA9>", "<0xE2>", "<0x86>", "<0x92>", "<0xF0>", "<0x9D>", "<0x9B>", "<0x91>"]
    assert vocabulary.join(row.token for row in found) == text
    assert all(len(row.feature) for row in found)


def test_only_some_features(reader: Reader) -> None:
    whole = probe(reader, "the cat sat on a mat", window=WINDOW)
    wanted = np.array([1, 5, 8], np.int64)
    for all_of_it, some in zip(
        whole, probe(reader, "the cat sat on a mat", window=WINDOW, features=wanted), strict=True
    ):
        keep = np.isin(all_of_it.feature, wanted)
        assert some.feature.tolist() == all_of_it.feature[keep].tolist()
        assert some.activation == pytest.approx(all_of_it.activation[keep], rel=1e-6)
    assert any(len(row.feature) for row in whole)


@pytest.mark.parametrize("text", ["", None])
def test_without_a_token(reader: Reader, text: str | None) -> None:
    with pytest.raises(UserError, match="empty" if text == "" else "window of 0"):
        probe(reader, text or "", window=WINDOW if text == "" else 0)


def test_peaks_by_hand() -> None:
    def row(index: int, **fires: float) -> TokenFirings:
        features = np.array([int(name[1:]) for name in fires], np.int32)
        return TokenFirings(index, 0, index, 9, features, np.array(list(fires.values()), np.float32))

    rows = [row(0, f4=2.0, f1=1.0), row(1), row(2, f7=3.0, f4=2.0, f1=0.5), row(3, f1=2.0)]
    assert peaks(rows) == [Peak(7, 3.0, 2, 1), Peak(1, 2.0, 3, 3), Peak(4, 2.0, 0, 2)]
    assert peaks([]) == []
