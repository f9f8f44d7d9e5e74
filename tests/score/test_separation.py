"""AUROC of given values: worked by hand, kinds of negatives apart, failures counted; the scorers embedding and surprisal."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.llm.embeddings import packed
from autointerp.llm.types import Answer, Deferred, FailureKind, Request, RequestFailed, TokenLogprobs
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, scorers
from autointerp.score.embedding import Embedding, cosine
from autointerp.score.separation import Unusable, score_separation, valued
from autointerp.score.surprisal import GENERIC, Surprisal, gain
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = ["the", " cat", " sat", " on", " mat", "\n", " "]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("Cat", "the word 'cat'\nDescription: or  so", "token")


def some(found: Sequence[Context]) -> FeatureEvidence:
    return evidence(found, {0: 100, 1: 50, 2: 10})


def contexts(near: int = 0) -> list[Context]:
    found = [context(10 + i, 0, [0.0, 0.0], tokens=[0, 2 + i]) for i in range(3)]
    found += [context(100 * band + i, band, [0.0, band], tokens=[i, 1]) for band in (1, 2) for i in range(2)]
    return found + [context(500 + i, 0, [0.0, 0.0], kind="near", tokens=[3, 4]) for i in range(near)]


def rows(found: Sequence[Context], values: Sequence[float | None]) -> dict[str, ScoreRow]:
    judged = [valued(one, Unusable("timeout: no answer") if value is None else value)
              for one, value in zip(found, values, strict=True)]  # fmt: skip
    return {row.metric: row for row in score_separation("x", some(found), judged, resamples=200)}


class TestRows:
    def test_bands_weigh_alike_worked_by_hand(self) -> None:
        # Silent 0, 1, 4. Band 1: 5 above all three, 2 above two: 5/6. Band 2, one left: 1 above one and a tie: 1.5/3.
        found = contexts()
        got = rows(found, [0.0, 1.0, 4.0, 5.0, 2.0, 1.0, None])["auroc"]
        assert got.value == pytest.approx((5 / 6 + 1.5 / 3) / 2)
        assert (got.n_ok, got.n_failed, got.status) == (6, 1, "ok") and got.lo is not None

    def test_hard_negatives_stand_apart(self) -> None:
        got = rows(contexts(near=2), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
        assert (got["auroc"].value, got["auroc_near"].value) == (1.0, 0.25)
        assert got["auroc"].reason == "nothing varies within strata, so the interval has no width"
        assert got["auroc_near"].n_ok == 6 and set(got) == {"auroc", "auroc_near"}

    def test_what_is_missing_is_said(self) -> None:
        nothing = rows(contexts(), [None] * 7)["auroc"]
        assert (nothing.status, nothing.value, nothing.n_failed) == ("failed", None, 7)
        assert nothing.reason == "all 7 contexts failed, for instance: timeout: no answer"
        silent = rows(contexts(), [None] * 3 + [1.0] * 4)["auroc"]
        assert (silent.status, silent.reason) == ("undefined", "no silent context has a value")
        assert rows(contexts(), [1.0] * 3 + [None] * 4)["auroc"].reason == "no activating context has a value"
        assert rows([], [])["auroc"].status == "undefined"
        alone = rows(contexts()[2:], [0.0, 1.0, 1.0, 1.0, 1.0])["auroc"]
        assert alone.value == 1.0 and alone.lo is None and "too few" in str(alone.reason)
        with pytest.raises(ValueError, match="window 7 "):
            score_separation("x", some([]), [Judged(7, "band", True, None, "ok", value=1.0)])


class TestCosine:
    def test_worked_by_hand(self) -> None:
        def vector(*values: float) -> np.ndarray:
            return np.array(values, dtype=np.float32)

        assert cosine(vector(1, 0), vector(1, 1)) == pytest.approx(2**-0.5)
        assert cosine(vector(3e38, 0), vector(3e38, 3e38)) == pytest.approx(2**-0.5)
        assert cosine(vector(1e-40, 0), vector(-5, 0)) == -1.0
        with pytest.raises(ValueError, match="a vector is zero"):
            cosine(vector(0, 0), vector(1, 0))
        with pytest.raises(ValueError, match="vectors of 2 and 3 numbers"):
            cosine(vector(1, 0), vector(1, 0, 0))


async def no_answer(request: Request) -> Answer:
    raise Deferred


class TestEmbedding:
    def grade(
        self, vectors: dict[str, Sequence[float] | RequestFailed], settings: Settings | None = None
    ) -> tuple[Grade, list[str]]:
        asked: list[str] = []

        async def embed(request: Request) -> Answer:
            (message,) = request.messages
            assert request.embed and request.max_tokens == 0 and request.purpose == "embed"
            asked.append(message.content)
            found = vectors.get(message.content, [0.0, 1.0])
            if isinstance(found, RequestFailed):
                raise found
            return Answer("k", packed(found), "stop", "e")

        scorer = Embedding() if settings is None else Embedding().configured(settings)
        return asyncio.run(scorer(LABEL, some(contexts()), Means(VOCABULARY, embed=embed))), asked

    def test_near_texts_win_and_each_text_is_asked_once(self) -> None:
        near = {f"{word} cat": [2.0, 0.0] for word in ("the", " cat")}
        grade, asked = self.grade({LABEL.description: [1.0, 0.0], **near})
        assert grade.rows[0].value == 1.0
        assert [one.value for one in grade.judged] == [0.0] * 3 + [1.0] * 4
        assert {one.answer for one in grade.judged} == {None} and {one.status for one in grade.judged} == {"ok"}
        assert len(asked) == 1 + 7 and asked[0] == LABEL.description

    def test_instructions_stand_before_label_and_text(self) -> None:
        settings = Settings(embed_label_prefix="query: ", embed_text_prefix="passage: ", embed_dimensions=2)
        _, asked = self.grade({}, settings)
        assert asked[0] == f"query: {LABEL.description}" and all(text.startswith("passage: ") for text in asked[1:])
        assert Embedding().configured(settings).version != Embedding().version
        assert Embedding().configured(Settings(seed=3)).version == Embedding().version

    def test_what_has_no_cosine_is_failed_with_its_reason(self) -> None:
        vectors: dict[str, Sequence[float] | RequestFailed] = {
            LABEL.description: [1.0, 0.0],
            "the sat": [0.0, 0.0],
            "the on": [1.0, 0.0, 0.0],
            "the mat": RequestFailed(FailureKind.REJECTED, "too long"),
            "the cat": [math.nan, 1.0],
        }
        grade, _ = self.grade(vectors)
        reasons = [one.reason for one in grade.judged if one.status == "failed"]
        assert [str(reason).split(":")[0] for reason in reasons] == ["malformed", "malformed", "rejected"] + [
            "malformed"
        ] * 2
        assert "zero" in str(reasons[0]) and "of 2 and 3" in str(reasons[1]) and "not finite" in str(reasons[3])
        assert grade.rows[0].value is None and grade.rows[0].n_failed == 5
        whole, _ = self.grade({LABEL.description: RequestFailed(FailureKind.TIMEOUT, "no answer")})
        assert {one.reason for one in whole.judged} == {"timeout: no answer (the label's vector)"}

    def test_white_space_is_not_asked_about(self) -> None:
        blank = [context(10, 0, [0.0, 0.0], tokens=[5, 6])]
        grade = asyncio.run(Embedding()(LABEL, some(blank), Means(VOCABULARY, embed=_constant)))
        assert grade.judged[0].reason == "no_evidence: the text holds nothing but white space"

    def test_answers_that_come_later_pass_through(self) -> None:
        with pytest.raises(Deferred):
            asyncio.run(Embedding()(LABEL, some(contexts()), Means(VOCABULARY, embed=no_answer)))
        with pytest.raises(UserError, match="--embedder"):
            asyncio.run(Embedding()(LABEL, some(contexts()), Means(VOCABULARY)))
        assert scorers.get("embedding").wants == Wants(embedder=True, negatives=True)


async def _constant(request: Request) -> Answer:
    return Answer("k", packed([1.0, 0.0]), "stop", "e")


def tokens(*values: float, texts: str = "abc") -> list[TokenLogprobs]:
    return [TokenLogprobs(text, value, {}) for text, value in zip(texts, values, strict=False)]


class TestSurprisal:
    def test_the_gain_is_the_mean_difference_of_losses(self) -> None:
        # Losses 3, 2, 1 become 2, 2, 0.5: the mean falls from 2 to 1.5.
        assert gain(tokens(-3, -2, -1), tokens(-2, -2, -0.5)) == pytest.approx(0.5)
        assert gain(tokens(-1), tokens(-4)) == -3.0

    def test_what_cannot_be_compared_is_failed(self) -> None:
        failed = Unusable("timeout: no answer")
        assert gain(failed, tokens(-1)) == gain(tokens(-1), failed) == failed
        for one, other, reason in [
            (tokens(-1, -1), tokens(-1, -1, texts="xb"), "not the same tokens"),
            (tokens(-1, -1), tokens(-1), "not the same tokens"),
            ([], [], "no log-probability"),
            (tokens(-1), tokens(-math.inf), "probability of 0"),
            (tokens(-1e9), tokens(-1), "probability of 0"),
            (tokens(math.nan), tokens(-1), "no log-probability"),
        ]:
            found = gain(one, other)
            assert isinstance(found, Unusable) and reason in found.reason

    def test_every_text_is_asked_about_after_both_descriptions(self) -> None:
        asked: list[tuple[str, str]] = []

        async def ask(request: Request) -> Answer:
            system = request.messages[0].content
            text = str(request.continuation)
            assert request.logprobs == 0 and request.max_tokens == 1 and text == text.strip()
            assert request.check is not None and request.check(text)
            description = system.rsplit("Description: ", 1)[1]
            asked.append((description, text))
            likely = description != GENERIC and "cat" in text
            pieces = [TokenLogprobs(piece, -1.0 if likely else -2.0, {}) for piece in text.split(" ")]
            return Answer("k", text, "stop", "m", logprobs=pieces)

        grade = asyncio.run(Surprisal()(LABEL, some(contexts()), Means(VOCABULARY, ask)))
        assert grade.rows[0].metric == "auroc" and grade.rows[0].value == 1.0
        assert [one.value for one in grade.judged] == [0.0] * 3 + [1.0] * 4
        on_one_line = "the word 'cat' Description: or so"  # it begins no collection of its own
        assert {description for description, _ in asked} == {GENERIC, on_one_line.rsplit("Description: ")[1]}
        assert {text for _, text in asked} == {"the sat", "the on", "the mat", "the cat", "cat cat"}
        assert len(asked) == 2 * 7

    def test_failures_and_what_is_not_there(self) -> None:
        async def ask(request: Request) -> Answer:
            if request.continuation == "the cat":
                raise RequestFailed(FailureKind.REJECTED, "too long")
            return Answer("k", "", "stop", "m", logprobs=tokens(-1))

        grade = asyncio.run(
            Surprisal()(LABEL, some([*contexts(), context(9, 0, [0.0], tokens=[5])]), Means(VOCABULARY, ask))
        )
        reasons = [one.reason for one in grade.judged if one.status == "failed"]
        assert reasons == ["rejected: too long"] * 2 + ["no_evidence: the text holds nothing but white space"]
        assert grade.rows[0].n_failed == 3
        with pytest.raises(Deferred):
            asyncio.run(Surprisal()(LABEL, some(contexts()), Means(VOCABULARY, no_answer)))
        with pytest.raises(UserError, match="the scorer surprisal asks a model"):
            asyncio.run(Surprisal()(LABEL, some(contexts()), Means(VOCABULARY)))
        assert scorers.get("surprisal").wants.capabilities == ("prompt_logprobs",)
