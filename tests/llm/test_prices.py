"""Prices: sums worked by hand, which price is a model's, what is wrong with a file, what people read."""

import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import DataError, UserError
from autointerp.llm.price import ALLOWANCE, LongPrompts, Price, money_text
from autointerp.llm.prices import find_price, price_lines, require_price, unknown_price_note
from autointerp.llm.types import Usage
from autointerp.resources import packaged

PRICE = Price(input=2.0, output=10.0, cached_input=0.5, cache_write=2.5, batch=0.5)
LONG = Price(1.0, 4.0, 0.25, 1.25, long=LongPrompts(above=1000, input=2.0, output=1.5))


@pytest.fixture(autouse=True)
def no_base_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("price", "usage", "micros"),
    [
        (PRICE, Usage(input=1000, output=100), 2000 + 1000),
        (PRICE, Usage(input=1000, output=100, cached=600), 400 * 2 + 600 * 0.5 + 1000),
        (PRICE, Usage(input=1000, output=0, cached=600, written=300), 100 * 2 + 600 * 0.5 + 300 * 2.5),
        (PRICE, Usage(input=100, output=0, cached=500, written=7), 100 * 0.5),  # a server that counts wrongly
        (LONG, Usage(input=1000, output=10), 1000 + 40),
        (LONG, Usage(input=1001, output=10, cached=1), (1000 + 0.25) * 2 + 40 * 1.5),
        (PRICE, Usage(), 0),
    ],
)
def test_cost_by_hand(price: Price, usage: Usage, micros: float) -> None:
    assert price.cost(usage) == pytest.approx(micros / 1e6, rel=1e-12)
    assert price.cost(usage, 0.5) == pytest.approx(micros / 2e6, rel=1e-12)


def test_most_by_hand() -> None:
    assert PRICE.most(5000, 2048) == pytest.approx(((5000 + ALLOWANCE) * 2.5 + 2048 * 10) / 1e6)
    assert LONG.most(5000, 100, 0.5) == pytest.approx(((5000 + ALLOWANCE) * 1.25 * 2 + 100 * 4 * 1.5) / 2e6)


amounts = st.floats(0, 100)
prices = st.builds(
    Price, amounts, amounts, amounts, amounts,
    long=st.none() | st.builds(LongPrompts, st.integers(1, 3000), st.floats(1, 5), st.floats(1, 5)),
)  # fmt: skip


@given(prices, st.text(max_size=300), st.data())
def test_nothing_costs_more_than_the_most(price: Price, prompt: str, data: st.DataObject) -> None:
    size = len(prompt.encode("utf-8", "surrogatepass"))
    sent = data.draw(st.integers(0, size + ALLOWANCE))
    cached = data.draw(st.integers(0, sent))
    written = data.draw(st.integers(0, sent - cached))
    usage = Usage(sent, data.draw(st.integers(0, 50)), cached, written)
    assert price.cost(usage) <= price.most(size, 50) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [
        ("openai", "gpt-5-mini", "gpt-5-mini"),
        ("openai", "gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("openai-batch", "gpt-5-2025-08-07", "gpt-5"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),  # its own, dearer price
        ("openai", "gpt-4o-2024-08-06", "gpt-4o"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("anthropic", "claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("anthropic-batch", "claude-opus-5", "claude-opus-5"),
        ("openai", "gpt-5-pro", None),
        ("openai", "gpt-5-mini-", None),
        ("openai", "gpt-5-mini-7", None),
        ("openai", "gpt-51", None),
        ("openai", "my-gpt-5", None),
        ("anthropic", "claude-opus-4", None),  # must not take the price of claude-opus-4-5, nor the other way round
        ("anthropic", "gpt-5", None),
        ("files:answers", "gpt-5", None),
        ("http", "gpt-5", None),
        ("somebody-elses-plugin", "gpt-5", None),
    ],
)
def test_which_price_is_a_models(provider: str, model: str, name: str | None) -> None:
    found = find_price(provider, model)
    assert (found.model if found else None) == name


@pytest.mark.parametrize("provider", ["mock", "transformers", "transformers:/models/x"])
def test_what_runs_here_costs_nothing(provider: str) -> None:
    price = find_price(provider, "gpt-5")
    assert price is not None and price.cost(Usage(10**6, 10**6)) == 0 and price.most(10**6, 10**6) == 0


def test_a_price_belongs_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_price("openai", "gpt-5", ("http://127.0.0.1:8000/v1",)) is None
    assert find_price("openai", "gpt-5", ("https://api.openai.com/v1",)) == find_price("openai", "gpt-5") is not None
    together = ("https://api.together.xyz/v1",)
    assert find_price("openai", "openai/gpt-oss-20b") is None
    for provider in ("openai", "http"):
        found = find_price(provider, "openai/gpt-oss-20b", together)
        assert found is not None and (found.input, found.output) == (0.05, 0.2)
    assert find_price("http", "openai/gpt-oss-20b", (*together, "http://10.0.0.1/v1")) is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")  # where the client would send it
    assert find_price("openai", "gpt-5") is None
    assert find_price("anthropic", "claude-opus-5") is not None


def test_the_users_file_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        '[[price]]\nmodel = "gpt-5"\ninput = 3\noutput = 4.5\n'
        '[[price]]\nmodel = "gpt-5"\nhost = "gpu7"\ninput = 7\noutput = 7\n'
        '[[price]]\nmodel = "Qwen/Qwen3-8B"\ninput = 0.1\noutput = 0.2\ncached_input = 0.05\nbatch = 0.4\n'
    )
    own = find_price("openai", "gpt-5-2025-08-07", (), file)
    assert own is not None and (own.input, own.output, own.cached_input, own.cache_write) == (3, 4.5, 3, 3)
    assert own.source == str(file)
    there = find_price("http", "gpt-5", ("http://gpu7:8000/v1", "http://gpu7:8001/v1"), file)
    assert there is not None and there.input == 7
    qwen = find_price("transformers", "Qwen/Qwen3-8B", (), str(file))
    assert qwen is not None and qwen.cached_input == 0.05 and qwen.factor_of("openai-batch") == 0.4
    other = find_price("openai", "gpt-5-mini", (), file)
    assert other is not None and other.source == "data/prices.toml" and other.factor_of("openai") == 1
    assert find_price("http", "unheard-of", (), file) is None


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[[price]\n", ["not valid TOML"]),
        ("price = 3", ["price is 3", "tables [[price]]"]),
        ("price = [3]", ["price[0] is 3", "a table"]),
        ('[[prices]]\nmodel = "a"', ["unknown key prices", "expected: price"]),
        ('[[price]]\nmodel = "a"\ninput = 1', ["price[0].output ('a') is missing", "model, input and output"]),
        ('[[price]]\nmodel = "a"\ninput = -1\noutput = 2', ["price[0].input ('a') is -1", "greater than or equal to 0"]),
        ('[[price]]\nmodel = "a"\ninput = nan\noutput = 2', ["price[0].input ('a') is nan", "finite"]),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = inf', ["price[0].output ('a') is inf", "finite"]),
        ('[[price]]\nmodel = "a"\ninput = "1"\noutput = 2', ["price[0].input ('a') is '1'", "number"]),
        ('[[price]]\nmodel = "a"\ninput = true\noutput = 2', ["price[0].input ('a') is True", "number"]),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = 2\nbatch = 2', ["price[0].batch ('a') is 2", "less than or equal to 1"]),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = 2\ninptu = 3', ["unknown key price[0].inptu ('a')", "cached_input"]),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = 2\nlong = { above = 3 }', ["long.input ('a') is missing", "above, input"]),
        ('[[price]]\nmodel = ""\ninput = 1\noutput = 2', ["price[0].model", "at least 1"]),
        ('[[price]]\nmodel = "a"\ninput = 1\noutput = 2\n' * 2, ["two prices of the model 'a'"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_key_and_expectation(tmp_path: Path, toml: str, words: list[str]) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(toml)
    with pytest.raises(DataError) as caught:
        find_price("openai", "gpt-5", (), file)
    message = str(caught.value)
    assert message.startswith(str(file)) and "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(UserError, match="--prices names a TOML file"):
            find_price("mock", "m", (), path)


def test_a_budget_asks_for_an_unknown_price_and_the_line_it_shows_works(tmp_path: Path) -> None:
    price = find_price("openai", "gpt-5")
    assert price is not None and require_price(price, "gpt-5") is price
    with pytest.raises(UserError, match="--budget needs the price") as caught:
        require_price(None, 'org/m"1')
    message = str(caught.value)
    assert "\n" not in message and "--prices prices.toml" in message
    line = message[message.index("price = [") : message.index("}]") + 2]
    for number, text in enumerate((line, price_lines('org/m"1'))):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        found = find_price("http", 'org/m"1', (), file)
        assert found is not None and (found.input, found.output) == (1.0, 4.0)
    assert len(price_lines("m").splitlines()) == 4
    assert "tokens are counted" in unknown_price_note("m")


def test_every_packaged_price_says_where_it_is_from() -> None:
    table = tomllib.loads((packaged("data") / "prices.toml").read_text(encoding="utf-8"))["price"]
    assert len(table) > 20
    for entry in table:
        assert entry["host"] and entry["read"].isoformat() >= "2026-11-23" and entry["sources"], entry
        assert all(urlsplit(source).scheme == "https" for source in entry["sources"]), entry
        assert 0 < entry.get("cached_input", entry["input"]) <= entry["input"], entry
        assert entry["output"] == 0 if "embedding" in entry["model"] else entry["input"] <= entry["output"], entry
        if "cache_write" in entry:
            assert entry["cache_write"] == pytest.approx(1.25 * entry["input"])
        provider = "anthropic" if "anthropic" in entry["host"] else "openai"
        found = find_price(provider, entry["model"], (f"https://{entry['host']}/v1",))
        assert found is not None and found.model == entry["model"] and found.read == entry["read"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"), (0.0042, "$0.0042"), (12.3, "$12.30"), (0.5, "$0.50"), (1234.567, "$1,234.57"), (0.00000123, "$0.0000012"),
        (0.034, "$0.034"), (1, "$1.00"), (None, "unknown"),
    ],
)  # fmt: skip
def test_money_for_people(value: float | None, text: str) -> None:
    assert money_text(value) == text
