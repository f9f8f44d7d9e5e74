"""A provider without a model, so that whole runs work offline. Its answers mean nothing and say "mock" if they can.

By default the answer is drawn from the request's JSON schema by a hash of the payload: the same request always gets
the same answer. A scorer's question is answered for its texts, so that the answer is aligned. Where there are tools each is
called once, with arguments from its schema, before anything is answered. The vector of a
text is the sum of hashes of its words, so that texts with the same words are near. Tests give a script
instead: a function from the request to the answer's text, or to a whole `Reply`; it may raise `CallFailed`,
`RequestFailed`'s cause, to play a failing server.
"""

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from autointerp.errors import UserError
from autointerp.hashing import stable_hash
from autointerp.llm.embeddings import packed
from autointerp.llm.identity import canonical_json
from autointerp.llm.provider import Capabilities, Provider, ProviderOptions, Reply, providers
from autointerp.llm.types import Message, Request, TokenLogprobs, ToolCall, Usage, prompt_text
from autointerp.running_text import readings

Script = Callable[[Request], str | Reply]

NAME = "mock"
"""What the provider is called, and how the name of a model begins that it takes."""

_WHOLE = {
    "active": 2,
    "marks": 2,
    "rating": 3,
    "fit": 4,
}  # questions about whole texts, with the number of their answers
_FREE_LENGTH = 3  # items of an array whose schema gives no length
_FREE_RANGE = 11  # integers 0 .. 10 where the schema gives no bounds: the scale of simulated activations
_CHARACTERS_PER_TOKEN = 4
_DIMENSIONS = 32
_WORD = re.compile(r"\w+")
_WRITE_TEN = "the number ten in digits"  # what models are told to see how their tokenizers write 10
_TOKEN = re.compile(r"\d+|[^\W\d]+|\s|.", re.DOTALL)  # what the mock takes for a token of its own
TEXTS_ASKED_FOR = ("texts_for_generation", "texts_for_sensitivity")  # names of schemas
_FENCED = re.compile(r"<data (\w+)>\n(.*?)\n</data \1>", re.DOTALL)


class MockProvider:
    """Answers from `script`, or from the request's JSON schema. `asked` holds the requests that reached it."""

    name = NAME
    capabilities = Capabilities(
        temperature=True, json_schema=True, tools=True, logprobs=True, prompt_logprobs=True, embeddings=True
    )

    def __init__(self, script: Script | None = None) -> None:
        self._script = script
        self.asked: list[Request] = []

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        payload = {
            "model": model,
            "messages": [_message(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "json_schema": request.json_schema,
            "schema_name": request.schema_name,
        }
        if request.embed:
            return {"model": model, "input": prompt_text(request), "dimensions": request.dimensions}
        if request.tools:
            tools = [[tool.name, tool.description, tool.parameters] for tool in request.tools]
            payload |= {"tools": tools, "may_call": request.may_call}
        if request.logprobs is not None:
            payload["logprobs"] = request.logprobs
        if request.continuation is not None:
            payload |= {"continuation": request.continuation, "slots": request.slots and list(request.slots)}
        return payload

    def connect(self) -> None:
        """Nothing to open, no key to read."""

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        self.asked.append(request)
        answer = self._default(request, payload) if self._script is None else self._script(request)
        if isinstance(answer, Reply):
            return answer
        return Reply(answer, model="mock", usage=_usage(request, answer))

    async def close(self) -> None:
        """Nothing to close."""

    def _default(self, request: Request, payload: Mapping[str, Any]) -> str | Reply:
        if request.continuation is not None and not (request.logprobs or request.among):
            logprobs = mock_logprobs(request.continuation, stable_hash(canonical_json(payload)))
            return Reply(request.continuation, model="mock", usage=_usage(request, ""), logprobs=logprobs)
        if request.embed:
            return Reply(mock_vector(prompt_text(request), request.dimensions), model="mock", usage=_usage(request, ""))
        if request.tools and request.may_call and not any(message.calls for message in request.messages):
            calls = mock_calls(request, stable_hash(canonical_json(payload), request.sample))
            return Reply("", model="mock", usage=_usage(request, str(calls)), calls=calls)
        if request.json_schema is None and (request.logprobs is not None or request.continuation is not None):
            return mock_numbers(request)
        about_texts = (
            mock_simulation(request.messages[-1].content) if request.schema_name in ("texts", "answers") else None
        )
        if about_texts is not None:
            return about_texts
        if request.schema_name in TEXTS_ASKED_FOR:
            return mock_texts(request, stable_hash(canonical_json(payload), request.sample))
        return default_answer(request.json_schema, stable_hash(canonical_json(payload), request.sample))


def default_answer(schema: Mapping[str, Any] | None, seed: int) -> str:
    """A text that fits `schema` (JSON), or a labelled line where there is none; a function of its arguments alone."""
    if schema is None:
        return f"mock answer {seed:016x}"
    return json.dumps(_Filler(schema.get("$defs", {})).fill(schema, str(seed), "answer"))


def mock_logprobs(text: str, seed: int) -> tuple[TokenLogprobs, ...]:
    """Made-up log-probabilities of a text's words and of what is between them, −4 to 0; a function of its arguments alone."""
    pieces = [piece for piece in re.split(r"(\W+)", text) if piece]
    return tuple(
        TokenLogprobs(piece, -(stable_hash(seed, number) % 4001) / 1000, {}) for number, piece in enumerate(pieces)
    )


def mock_vector(text: str, dimensions: int | None = None) -> str:
    """A packed vector for a text: a sum over its words, or the text itself where it has none; never zero."""
    words = sorted(_WORD.findall(text.lower())) or [text]
    return packed(
        [sum(parts) for parts in zip(*(_word_vector(word, dimensions or _DIMENSIONS) for word in words), strict=True)]
    )


@lru_cache(maxsize=10_000)
def _word_vector(word: str, dimensions: int) -> list[float]:
    draw = random.Random(stable_hash("vector", word))
    return [draw.gauss(0.0, 1.0) for _ in range(dimensions)]


def mock_numbers(request: Request) -> Reply:
    """Log-probabilities of the integers 0..10, made up from the messages and, in a continuation, from what its line begins with.

    One place in ten is likely not 0. What else a token could be is one word, of a tenth of the probability.
    """
    asked = "\n".join(message.content for message in request.messages)
    count = _FREE_RANGE + 1 if request.among else request.logprobs or 0
    if request.continuation is None:
        top = _numbers(asked, count)
        best = "10" if _WRITE_TEN in asked else max(top, key=lambda text: top[text], default="0")
        told = [TokenLogprobs(best, top.get(best, 0.0), top)]
        return Reply(best, model="mock", usage=_usage(request, best), logprobs=told)
    values, at = [], 0
    for token in _TOKEN.findall(request.continuation):
        line = request.continuation[:at].rpartition("\n")[2]
        at_slot = request.slots is None or at in request.slots
        top = _numbers(f"{asked}\n{line}", count) if at_slot else {}
        values.append(TokenLogprobs(token, top.get(token, -1.0), top))
        at += len(token)
    return Reply(request.continuation, model="mock", usage=_usage(request, ""), logprobs=values)


def _numbers(seed: str, count: int) -> dict[str, float]:
    draw = stable_hash("number", seed)
    likely = 1 + draw // 10 % 10 if draw % 10 == 0 else 0
    weights = {str(value): math.exp(-abs(value - likely)) for value in range(_FREE_RANGE)}
    total = sum(weights.values()) / 0.9
    found = {text: math.log(weight / total) for text, weight in weights.items()} | {"mock": math.log(0.1)}
    return dict(sorted(found.items(), key=lambda item: -item[1])[:count])


def mock_calls(request: Request, seed: int) -> tuple[ToolCall, ...]:
    """A call of each of the request's tools, with made-up arguments that fit; a function of its arguments alone."""
    return tuple(
        ToolCall(f"{seed:016x}-{number}", tool.name, default_answer(tool.parameters, stable_hash(seed, number)))
        for number, tool in enumerate(request.tools)
    )


def mock_simulation(question: str) -> str | None:
    """An aligned answer to a question about numbered texts, fenced as in `prompts_loader` and followed by the fenced question;
    else None.

    A token fires or not by a hash of explanation and token: one token in ten, everywhere alike. Whether a text is active is
    a hash's choice, too, of explanation and text: half of them are, whatever the tokens.
    """
    try:
        texts, asked = (data for _, data in _FENCED.findall(question))
        wanted = json.loads(asked)
        explanation, question = str(wanted["explanation"]), wanted["question"]
        if question.startswith("delphi24"):
            return json.dumps({"answers": [stable_hash(explanation, line) % 2 for line in texts.split("\n")]})
        if question != "activations" and question not in _WHOLE:
            return None
        numbered = [line.split("|", 1) for line in texts.split("\n")]
        lines = [(int(number), line) for number, line in numbered]
    except (KeyError, TypeError, ValueError):
        return None
    answers: list[list[Any]] = []
    for number, line in lines:
        if question in _WHOLE:
            answers.append([number, stable_hash(explanation, line) % _WHOLE[question]])
            continue
        draws = [(token, stable_hash(explanation, token)) for token in _tokens_in(line)]
        answers.append([number, *([token, 1 + draw // 10 % 10] for token, draw in draws if draw % 10 == 0)])
    return json.dumps({"texts": answers})


def mock_texts(request: Request, seed: int) -> str:
    """As many made-up texts as the prompts of the scorers generation and sensitivity ask for."""
    told = re.search(r"^Write (\d+) texts", request.messages[0].content, re.MULTILINE)
    count = int(told[1]) if told else request.messages[-1].content.count('{"text":')
    schema = request.json_schema or {}
    names = schema.get("properties", {})
    return json.dumps({
        name: [f"mock {name} {stable_hash(seed, name, number) % 10**6:06d}" for number in range(count)] for name in names
    })  # fmt: skip


@lru_cache(maxsize=4096)  # the same texts are asked about by each scorer, for a label and its controls
def _tokens_in(line: str) -> list[str]:
    """Those that are tokens of a written line whatever the tokenizer's habits, which the question does not say."""
    first, *others = readings(line)
    known = set(first).intersection(*others)
    return [token for token in dict.fromkeys(first) if token in known]


def _message(message: Message) -> dict[str, Any]:
    payload: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        payload["calls"] = [[call.id, call.name, call.arguments] for call in message.calls]
    return payload | ({"call_id": message.call_id} if message.call_id else {})


def _usage(request: Request, answer: str) -> Usage:
    """Tokens by rule of thumb."""
    read, written = len(prompt_text(request)), len(answer)
    return Usage(input=read // _CHARACTERS_PER_TOKEN, output=written // _CHARACTERS_PER_TOKEN)


class _Filler:
    """Fills a JSON schema: the part that structured output supports (no patterns, formats or conditions)."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def fill(self, schema: Mapping[str, Any], seed: str, name: str) -> Any:
        """A value for `schema`. `seed` says where we are in the answer, so that values differ from place to place."""
        draw = stable_hash(seed)
        if "$ref" in schema:
            return self.fill(self._definitions[schema["$ref"].removeprefix("#/$defs/")], seed, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][draw % len(schema["enum"])]
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.fill(schema[choice][0], seed, name)
        kind = schema.get("type", "object")
        kind = kind[0] if isinstance(kind, list) else kind
        return self._fill_kind(kind, schema, seed, name, draw)

    def _fill_kind(self, kind: str, schema: Mapping[str, Any], seed: str, name: str, draw: int) -> Any:
        if kind == "object":
            properties = schema.get("properties", {})
            return {key: self.fill(part, f"{seed}/{key}", key) for key, part in properties.items()}
        if kind == "array":
            length = schema.get("minItems", min(_FREE_LENGTH, schema.get("maxItems", _FREE_LENGTH)))
            return [self.fill(schema.get("items", {"type": "string"}), f"{seed}/{i}", name) for i in range(length)]
        if kind in ("integer", "number"):
            low = schema.get("minimum", 0)
            high = schema.get("maximum", low + _FREE_RANGE - 1)
            if kind == "number":
                return low + (high - low) * (draw % 1001) / 1000
            return low + draw % (high - low + 1)
        if kind == "boolean":
            return draw % 2 == 1
        return None if kind == "null" else f"mock {name} {draw % 10**6:06d}"


@providers.register(NAME)
def mock(options: ProviderOptions) -> Provider:
    """No model: made-up answers that fit the schema, for trying things out offline.

    Raises UserError for a model name that does not begin with "mock": no catalog is to call such answers a real model's.
    """
    if options.model is not None and not options.model.startswith(NAME):
        raise UserError(
            f"the provider mock makes up its answers and takes only model names that begin with {NAME!r}, not {options.model!r}; "
            f"give --label-model {NAME} (of an embedder: --embedder {NAME}), or name the provider that has this model, such as "
            "--provider openai"
        )
    return MockProvider()
