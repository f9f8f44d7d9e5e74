"""When two requests are one: everything that can change the answer counts, nothing else does."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from autointerp.llm import Message, Provider, Request, open_provider, request_key
from autointerp.llm.identity import canonical_json, identify, payload_hash

REQUEST = Request([Message("system", "be brief"), Message("user", "why?")], json_schema={"type": "object"})


def key(provider: Provider, request: Request, model: str = "m") -> str:
    return request_key(provider.name, model, provider.payload(model, request), request.sample)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": [1, {"d": 2, "c": "é"}], "a": None}) == r'{"a":null,"b":[1,{"c":"\u00e9","d":2}]}'
    assert payload_hash({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": float("nan")})


def test_key_and_hash_at_once() -> None:
    payload = {"messages": [{"role": "user", "content": "\ud800 why?"}], "model": "m"}
    both = identify("openai", "m", payload, 3)
    assert (both.key, both.payload_hash) == (request_key("openai", "m", payload, 3), payload_hash(payload))
    assert both.size == len(canonical_json(payload))
    # computed by hand from the definition: a journal must be found again by every later version
    assert request_key("openai", "m", {"a": 1}, 0) == "0a04969cf1b4b26af30054900052a87b"


def test_a_lone_surrogate_can_be_hashed() -> None:
    assert canonical_json("\ud800") == r'"\ud800"'


@pytest.mark.parametrize("name", ["openai", "http", "anthropic", "mock"])
@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, messages=[Message("system", "be brief"), Message("user", "why not?")]),
        lambda r: replace(r, messages=[Message("user", "be brief"), Message("user", "why?")]),
        lambda r: replace(r, messages=[*r.messages, Message("assistant", "because")]),
        lambda r: replace(r, max_tokens=17),
        lambda r: replace(r, json_schema={"type": "array"}),
        lambda r: replace(r, json_schema=None),
        lambda r: replace(r, sample=1),
    ],
)
def test_what_can_change_the_answer_changes_the_key(name: str, change: Callable[[Request], Request]) -> None:
    provider = open_provider(name)
    assert key(provider, change(REQUEST)) != key(provider, REQUEST)
    assert key(provider, REQUEST, "other-model") != key(provider, REQUEST)


@pytest.mark.parametrize("name", ["openai", "http", "mock"])
def test_temperature_is_part_of_the_key_where_it_is_sent(name: str) -> None:
    provider = open_provider(name)
    assert key(provider, replace(REQUEST, temperature=0.0)) != key(provider, REQUEST)


@pytest.mark.parametrize("name", ["openai", "http", "anthropic", "mock"])
def test_purpose_template_and_address_do_not_change_the_key(name: str) -> None:
    provider, elsewhere = open_provider(name), open_provider(name, base_url="http://127.0.0.1:9/v1")
    other = replace(REQUEST, purpose="explain", template_hash="abc")
    assert key(provider, other) == key(provider, REQUEST) == key(elsewhere, REQUEST)


def test_the_same_request_to_two_providers_is_two_requests() -> None:
    assert len({key(open_provider(name), REQUEST) for name in ("openai", "http", "anthropic", "mock")}) == 4


def test_keys_are_the_same_on_every_machine() -> None:
    # Pinned: a change here would make every existing journal worthless.
    provider = open_provider("openai")
    assert key(provider, Request([Message("user", "hello")])) == "2d2d3dcb8d6a3d6cb5d295785c9542ab"
