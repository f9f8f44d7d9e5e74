"""Vectors of texts: lists on the wire, one answer and one line of the journal for each text, and what may go wrong."""

import asyncio
import base64
import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from autointerp.config import ModelAccess
from autointerp.errors import UserError
from autointerp.llm import (
    Answer,
    Broker,
    Deferred,
    FailureKind,
    Journal,
    Message,
    Request,
    RequestFailed,
    open_provider,
)
from autointerp.llm import embeddings as module
from autointerp.llm.bundles import MOST_BYTES, Bundles
from autointerp.llm.embeddings import packed, read_embedding, read_embeddings, unpacked, vector_request
from autointerp.llm.provider import CallFailed, Reply, check_request
from autointerp.llm.providers.mock import mock_vector
from autointerp.llm.session import Wanted, open_sessions
from autointerp.llm.types import Usage
from tests.llm.server import LlmServer, hang, rate_limited, status

LIVE = ["openai", "http"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


async def asked(broker: Broker, texts: Sequence[str], **options: int) -> list[Answer | RequestFailed]:
    async def one(text: str) -> Answer | RequestFailed:
        try:
            return await broker.ask(vector_request(text, purpose="embed", **options))
        except RequestFailed as failure:
            return failure

    return list(await asyncio.gather(*map(one, texts)))


def vectors(answers: Sequence[Answer | RequestFailed]) -> list[list[float]]:
    return [unpacked(answer.text).tolist() for answer in answers if isinstance(answer, Answer)]


def a_broker(server: LlmServer, name: str, journal: Journal, **options: float) -> Broker:
    return Broker(
        open_provider(name, base_url=server.openai_url), "e", journal, concurrency=256, backoff=0.01, **options
    )


class TestVector:
    def test_worked_by_hand(self) -> None:
        assert packed([1.0, -2.5]) == base64.b64encode(struct.pack("<2f", 1.0, -2.5)).decode()
        assert unpacked(packed([1.0, -2.5])).tolist() == [1.0, -2.5]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("no base64!", "not base64"),
            ("", "0 bytes are no float32"),
            ("AAA=", "2 bytes are no float32"),
            (packed([1.0, math.nan, math.inf]), "2 of the vector's 3 numbers are not finite"),
            (packed([1e300]), "1 of the vector's 1 numbers are not finite"),
        ],
    )
    def test_what_is_no_vector_says_why(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            unpacked(text)
        check = vector_request("x", purpose="embed").check
        assert check is not None and not check(text) and check(packed([0.0]))

    def test_a_body_is_read_by_index_and_its_tokens_are_shared_out(self) -> None:
        data = [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": packed([2.0])}]
        body = {"data": data, "model": "dated", "usage": {"prompt_tokens": 10}}
        first, second = read_embeddings(body, ["abc", "ab"])
        assert isinstance(first, Reply) and isinstance(second, Reply)
        assert (unpacked(first.text).tolist(), unpacked(second.text).tolist()) == ([2.0], [3.0])
        assert (first.usage, second.usage) == (Usage(6), Usage(4)) and first.model == "dated"

    def test_parts_of_a_body_fail_by_themselves(self) -> None:
        data = [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [None, 1.0]}, {"index": 3, "embedding": "?"},
                {"index": 4, "embedding": ["x"]}]  # fmt: skip
        found = read_embeddings({"data": data}, ["a", "b", "c", "d", "e"])
        assert isinstance(found[0], Reply)
        failures = [one for one in found[1:] if isinstance(one, CallFailed)]
        assert [one.retryable for one in failures] == [True, False, False, True]
        assert "left out" in failures[0].reason and "not finite" in failures[1].reason

    @pytest.mark.parametrize(
        "data",
        [
            None,
            "x",
            [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}],
            [{"index": 7, "embedding": [1.0]}],
            [3],
            [{"index": True, "embedding": [1.0]}],
        ],
    )
    def test_what_cannot_be_told_apart_fails_as_a_whole(self, data: object) -> None:
        with pytest.raises(CallFailed) as failed:
            read_embeddings({"data": data}, ["a", "b"])
        assert failed.value.retryable
        assert isinstance(read_embedding({"data": 3}), CallFailed)


class TestOverTheWire:
    @pytest.mark.parametrize("name", LIVE)
    async def test_texts_go_in_lists_and_each_is_asked_once(
        self, llm_server: LlmServer, journal: Journal, name: str
    ) -> None:
        texts = [f"text {number}" + "!" * number for number in range(300)]
        async with a_broker(llm_server, name, journal) as broker:
            found = await asked(broker, [*texts, *texts[:50]])
            assert vectors(found) == [[float(len(text)), 1.0, -0.5] for text in [*texts, *texts[:50]]]
            assert broker.progress.input_tokens == sum(map(len, texts))
            again = await asked(broker, texts)
        assert all(isinstance(one, Answer) and one.from_journal for one in again)
        assert set(llm_server.texts.values()) == {1} and max(llm_server.lists) == 64
        assert (
            len(llm_server.lists) < 12 and sum(llm_server.lists) == 300
        )  # the limiter begins with 16 texts, and doubles
        assert {body["encoding_format"] for body in llm_server.bodies} == {"float"}

    async def test_another_model_or_size_or_sample_is_another_question(
        self, llm_server: LlmServer, journal: Journal
    ) -> None:
        async with a_broker(llm_server, "http", journal) as broker:
            whole, short = (await asked(broker, ["a"]))[0], (await asked(broker, ["a"], dimensions=2))[0]
            assert vectors([whole, short]) == [[1.0, 1.0, -0.5], [1.0, 1.0]]
            await asked(broker, ["a"], sample=1)
        assert llm_server.texts["a"] == 3
        async with Broker(open_provider("http", base_url=llm_server.openai_url), "other", journal) as broker:
            await asked(broker, ["a"])
        assert llm_server.texts["a"] == 4

    @pytest.mark.parametrize("name", LIVE)
    async def test_one_wrong_text_does_not_take_the_others_with_it(
        self, llm_server: LlmServer, journal: Journal, name: str
    ) -> None:
        llm_server.refuse = lambda text: len(text) > 1000
        texts = [
            *(f"short {number}" for number in range(30)),
            "long " * 300,
            *(f"more {number}" for number in range(30)),
        ]
        async with a_broker(llm_server, name, journal) as broker:
            found = await asked(broker, texts)
        failed = [one for one in found if isinstance(one, RequestFailed)]
        assert len(failed) == 1 and isinstance(found[30], RequestFailed)
        assert failed[0].kind == FailureKind.REJECTED and "maximum context length is 8192" in failed[0].reason
        assert len(llm_server.lists) < 30

    async def test_left_out_and_wrong_vectors_are_failures_of_their_own(
        self, llm_server: LlmServer, journal: Journal
    ) -> None:
        llm_server.embed = lambda text: {"gone": None, "nan": [math.nan, 1.0], "zero": [0.0, 0.0]}.get(text, [1.0, 2.0])
        async with a_broker(llm_server, "http", journal, retries=1) as broker:
            good, gone, nan, zero = await asked(broker, ["good", "gone", "nan", "zero"])
        assert vectors([good, zero]) == [
            [1.0, 2.0],
            [0.0, 0.0],
        ]  # zero is an answer; what it is good for the caller says
        assert isinstance(gone, RequestFailed) and gone.attempts == 2 and "left out" in gone.reason
        assert isinstance(nan, RequestFailed) and nan.attempts == 1 and "not finite" in nan.reason
        assert llm_server.texts == {"good": 1, "gone": 2, "nan": 1, "zero": 1}

    @pytest.mark.parametrize("name", LIVE)
    async def test_a_list_that_fails_counts_as_one_failure(
        self, llm_server: LlmServer, journal: Journal, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        llm_server.script(status(500), rate_limited(), status(502))
        async with a_broker(llm_server, name, journal) as broker:
            assert len(vectors(await asked(broker, [f"text {number}" for number in range(64)]))) == 64
        assert "does not answer" not in capsys.readouterr().err  # three attempts, not two hundred

    async def test_who_gives_up_gives_up_the_message(self, llm_server: LlmServer, journal: Journal) -> None:
        llm_server.usual = hang()
        async with a_broker(llm_server, "http", journal, timeout=0.1, retries=0) as broker:
            found = await asked(broker, ["a", "b"])
        assert [one.kind for one in found if isinstance(one, RequestFailed)] == [FailureKind.TIMEOUT] * 2

    async def test_a_wrong_key_ends_the_run(self, llm_server: LlmServer, journal: Journal) -> None:
        llm_server.usual = status(401)
        async with a_broker(llm_server, "openai", journal) as broker:
            with pytest.raises(UserError, match="refused the key"):
                await asked(broker, ["a", "b", "c"])

    def test_openai_itself_packs_the_vectors(self) -> None:
        body = module.wire_body({"model": "e", "dimensions": 2}, ["a"], "https://api.openai.com/v1")
        assert body == {"model": "e", "dimensions": 2, "input": ["a"], "encoding_format": "base64"}

    def test_who_makes_no_vectors_says_so(self) -> None:
        with pytest.raises(UserError, match=r"the embed request needs embeddings.*'anthropic' does not offer"):
            check_request(open_provider("anthropic"), vector_request("x", purpose="embed"))


class TestBundles:
    async def test_lists_are_no_longer_than_they_may_be(self) -> None:
        sent: list[list[str]] = []

        async def send(texts: Sequence[str]) -> list[Reply | CallFailed]:
            sent.append(list(texts))
            return [Reply(text) for text in texts]

        bundles = Bundles(send, most=10)
        texts = ["x" * (MOST_BYTES // 3)] * 4 + ["ä" * MOST_BYTES] + [str(number) for number in range(25)]
        found = await asyncio.gather(*(bundles.ask(text) for text in texts))
        assert [reply.text for reply in found] == texts
        assert [len(texts) for texts in sent] == [3, 1, 1, 10, 10, 5]

    async def test_a_fault_reaches_all_who_wait(self) -> None:
        async def send(texts: Sequence[str]) -> list[Reply | CallFailed]:
            raise UserError("no such model")

        bundles = Bundles(send)
        found = await asyncio.gather(*(bundles.ask(text) for text in "abc"), return_exceptions=True)
        assert [str(one) for one in found] == ["no such model"] * 3 and len(set(map(id, found))) == 3

    async def test_what_nobody_waits_for_is_not_sent_and_what_is_under_way_is_given_up(self) -> None:
        sent: list[list[str]] = []
        ended = asyncio.Event()

        async def send(texts: Sequence[str]) -> list[Reply | CallFailed]:
            sent.append(list(texts))
            try:
                await asyncio.sleep(10)
            finally:
                ended.set()
            return []

        bundles = Bundles(send)
        tasks = [asyncio.create_task(bundles.ask(text)) for text in "abc"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0.03)
        assert sent == [["b", "c"]]
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        assert not ended.is_set()
        tasks[2].cancel()
        await asyncio.wait_for(ended.wait(), 1)
        other = asyncio.create_task(bundles.ask("d"))
        await asyncio.sleep(0.03)
        await bundles.close()
        with pytest.raises(asyncio.CancelledError):
            await other


class TestMock:
    def test_texts_with_the_same_words_are_near(self) -> None:
        one, two, other = (unpacked(mock_vector(text)) for text in ("the red cat", "a red cat", "buy more bonds"))
        assert (
            one @ two / np.sqrt(one @ one * (two @ two)) > 0.5 > abs(one @ other) / np.sqrt(one @ one * (other @ other))
        )
        assert unpacked(mock_vector("?!")).any() and len(unpacked(mock_vector("x", 5))) == 5


class TestFiles:
    async def test_vectors_through_files(self, tmp_path: Path, journal: Journal) -> None:
        desk = tmp_path / "desk"

        async def round_of() -> list[Answer | BaseException]:
            async with Broker(open_provider(f"files:{desk}", folder=tmp_path / "state"), "e", journal) as broker:
                requests = [vector_request(text, purpose="embed") for text in ("a b", "c ``` d", "e")]
                await asyncio.gather(*(broker.ask(one) for one in requests), return_exceptions=True)
                await broker.collect()
                return list(await asyncio.gather(*(broker.ask(one) for one in requests), return_exceptions=True))

        with pytest.raises(UserError, match="3 requests wait"):
            await round_of()
        lines = [json.loads(line) for line in (desk / "requests.jsonl").read_text().splitlines()]
        assert [line["url"] for line in lines] == ["/v1/embeddings"] * 3
        assert lines[0]["body"] == {"model": "e", "input": "a b"}
        assert "The vector of this text is asked for:" in (desk / "requests.md").read_text()
        body = {"data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "e", "usage": {"prompt_tokens": 2}}
        replies = [
            {"custom_id": lines[0]["custom_id"], "response": {"status_code": 200, "body": body}},
            {"custom_id": lines[1]["custom_id"], "embedding": [3.0, 4.0]},
            {"custom_id": lines[2]["custom_id"], "text": packed([5.0, 6.0])},
        ]
        (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
        found = await round_of()
        assert vectors([one for one in found if isinstance(one, Answer)]) == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


class TestSessions:
    def access(self, provider: str, model: str, budget: float | None = None, prices: str | None = None,
               url: str = "", role: str = "ask") -> ModelAccess:  # fmt: skip
        return ModelAccess(provider, model, (url,) if url else (), None, 8, 5.0, budget, prices, role)  # type: ignore[arg-type]

    async def test_two_models_share_a_journal_and_a_purse(self, llm_server: LlmServer, tmp_path: Path) -> None:
        prices = tmp_path / "prices.toml"
        prices.write_text(
            'price = [{ model = "m", input = 1000.0, output = 0.0 }, { model = "e", input = 1000.0, output = 0.0 }]'
        )
        wanted = {
            "model": Wanted(self.access("http", "m", 8.0, str(prices), llm_server.openai_url), "scorer detection"),
            "embedder": Wanted(self.access("http", "e", 8.0, str(prices), llm_server.openai_url, "embed"), "scorer embedding"),
        }  # fmt: skip
        with pytest.raises(UserError, match=r"the budget of \$8.00 is used up"):
            async with open_sessions(wanted, tmp_path) as session:
                model, embedder = session.brokers["model"], session.brokers["embedder"]
                await embedder.ask(vector_request("x" * 2000, purpose="embed"))
                await model.ask(Request([Message("user", "y" * 2000)], max_tokens=1))
                assert "model: 1 answers" in session.note() and "embedder: 1 answers" in session.note()
                with pytest.raises(RequestFailed, match="the budget of"):  # 4 dollars are left, and it may cost 5
                    await embedder.ask(vector_request("z" * 4000, purpose="embed"))
                assert session.is_over_budget and not model.is_over_budget
        with Journal(tmp_path / "journal", read_only=True) as journal:
            assert Counter((one.purpose, one.model, one.usage.input) for one in journal.spend()) == Counter(
                [("", "m", 2000), ("embed", "e", 2000)]
            )

    async def test_a_model_that_answers_later_beside_one_that_answers_now(
        self, llm_server: LlmServer, tmp_path: Path
    ) -> None:
        wanted = {
            "model": Wanted(self.access(f"files:{tmp_path / 'desk'}", "m"), "scorer detection"),
            "embedder": Wanted(self.access("mock", "mock-e", role="embed"), "scorer embedding"),
        }
        async with open_sessions(wanted, tmp_path) as session:
            assert session.answers_later
            await session.brokers["embedder"].ask(vector_request("x", purpose="embed"))
            with pytest.raises(Deferred):
                await session.brokers["model"].ask(Request([Message("user", "y")]))
            with pytest.raises(UserError, match="1 requests wait"):
                await session.collect()

    async def test_two_models_do_not_write_into_one_folder(self, tmp_path: Path) -> None:
        wanted = {
            "model": Wanted(self.access(f"files:{tmp_path}", "m"), "scorer detection"),
            "embedder": Wanted(self.access(f"files:{tmp_path}", "e", role="embed"), "scorer embedding"),
        }
        with pytest.raises(UserError, match="--embed-provider files:OTHER"):
            async with open_sessions(wanted, tmp_path):
                pass

    async def test_an_embedder_must_be_named(self, tmp_path: Path) -> None:
        access = ModelAccess("mock", None, (), None, 8, 5.0, None, None, "embed")
        with pytest.raises(UserError, match=r"scorer embedding asks a model, and none is given; .*--embedder"):
            async with open_sessions({"embedder": Wanted(access, "scorer embedding")}, tmp_path):
                pass
