"""What the provider `transformers` gains over asking a local model one request after another.

    python benchmarks/local_model.py                       a random model of 100 M parameters, made on the spot
    python benchmarks/local_model.py --model PATH          a model of yours
    python benchmarks/local_model.py --threads 2 --requests 64 --batch 32

The requests begin with the system prompt of an explainer and go on with texts of their own; the answers are greedy and as long
as allowed. *generate*: `model.generate`, one request after another, with its own key-value cache. The provider: with batches
of one or of many, with shared beginnings run once or not. Then the log-probabilities of a given continuation: one forward pass
against feeding it token by token, with a key-value cache and, as the definition has it, without.

On a CPU, seconds are the process's own, so that other programs do not count; with one thread they are those of an idle machine.
"""

import asyncio
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autointerp.llm import Message, Reply, Request
from autointerp.llm.local import engine
from autointerp.llm.local.loaded import Loaded, load
from autointerp.llm.provider import ProviderOptions
from autointerp.llm.providers.transformers import TransformersProvider

PROMPT = Path(__file__).resolve().parents[1] / "prompts" / "token_activation.j2"


def make_model(folder: Path) -> Path:
    """A random Llama of 100 M parameters and a byte-level BPE of 8,000 tokens, trained on Python's standard library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    source = [str(path) for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]
    tokenizer.train(source, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=4096, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_requests(count: int, written: int, **fields: object) -> list[Request]:
    """Questions with the system prompt of the explainer and about 100 to 200 tokens of their own."""
    system = PROMPT.read_text().partition("{% block system %}")[2].partition("{% endblock %}")[0].strip()
    words, draw = system.split(), random.Random(0)
    texts = [" ".join(draw.choices(words, k=draw.randint(60, 120))) for _ in range(count)]
    return [Request([Message("system", system), Message("user", text)], max_tokens=written, **fields) for text in texts]


def clock() -> float:
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def seconds(run: Callable[[], object]) -> float:
    started = clock()
    run()
    return clock() - started


def one_by_one(loaded: Loaded, requests: Sequence[Request]) -> None:
    for request in requests:
        prompt = torch.tensor([loaded.prompts.encode(request.messages)], device=loaded.device)
        with torch.inference_mode():
            loaded.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=request.max_tokens,
                max_new_tokens=request.max_tokens, pad_token_id=0,
            )  # fmt: skip


def through_provider(
    model: str, requests: Sequence[Request], argument: str, *, share: bool
) -> tuple[float, list[Reply]]:
    """Seconds, without loading the model, and the replies."""
    engine._PREFIX_SHARE = 0.1 if share else 0.0

    async def ask() -> tuple[float, list[Reply]]:
        provider = TransformersProvider(ProviderOptions(argument=argument, model=model, concurrency=len(requests)))
        provider.connect()
        started = clock()
        payloads = [provider.payload(model, request) for request in requests]
        replies = await asyncio.gather(*(provider.send(*pair) for pair in zip(requests, payloads, strict=True)))
        elapsed = clock() - started
        await provider.close()
        return elapsed, list(replies)

    return asyncio.run(ask())


def token_by_token(loaded: Loaded, request: Request, *, cached: bool) -> None:
    """The log-probabilities of the continuation, each token read after the one before it."""
    prompt = loaded.prompts.encode(request.messages)
    forced = loaded.prompts.encode_continuation(str(request.continuation))
    past, done = None, 0
    with torch.inference_mode():
        for index in range(len(forced)):
            read = [*prompt, *forced[:index]]
            ids = torch.tensor([read[done:]], device=loaded.device)
            output = loaded.model(input_ids=ids, past_key_values=past, use_cache=cached, logits_to_keep=1)
            torch.log_softmax(output.logits[0, -1].float(), -1)[forced[index]].item()
            if cached:
                past, done = output.past_key_values, len(read)


def report_writing(model: str, loaded: Loaded, requests: Sequence[Request], batch: int) -> None:
    lengths = [len(loaded.prompts.encode(request.messages)) for request in requests]
    written = sum(request.max_tokens for request in requests)
    click.echo(
        f"{len(requests)} requests of {min(lengths)} to {max(lengths)} tokens, {requests[0].max_tokens} tokens each written"
    )
    one_by_one(loaded, requests[:1])
    base = seconds(lambda: one_by_one(loaded, requests))
    rows = [("generate, one by one", base, 0)]
    for size in (1, batch):
        for share in (False, True):
            elapsed, replies = through_provider(model, requests, f"batch={size}", share=share)
            name = f"provider, batches of {size}" + (", beginnings shared" if share else "")
            rows.append((name, elapsed, sum(reply.usage.cached for reply in replies)))
    for name, elapsed, cached in rows:
        click.echo(
            f"{name:44} {elapsed:7.1f} s {len(requests) / elapsed:7.2f} requests/s {written / elapsed:8.1f} tokens/s written "
            f"{base / elapsed:5.1f}x  {cached / sum(lengths):4.0%} of the prompts reused"
        )


def report_reading(model: str, loaded: Loaded, repeats: int) -> None:
    text = "Lily and Tom ran to the park to play with the big red ball. " * 12
    ids = loaded.prompts.encode_continuation(text)[:64]
    request = Request(
        [Message("user", "?")], continuation="".join(loaded.prompts.pieces(ids, opening=False)), logprobs=10
    )
    count = len(loaded.prompts.encode_continuation(str(request.continuation)))
    token_by_token(loaded, request, cached=True)
    plain = seconds(lambda: token_by_token(loaded, request, cached=False))
    cached = seconds(lambda: token_by_token(loaded, request, cached=True))
    alone = [through_provider(model, [request], "batch=1", share=True)[0] for _ in range(2)][-1]
    many, _ = through_provider(model, [request] * repeats, f"batch={repeats}", share=True)
    click.echo(
        f"a continuation of {count} tokens, token by token: {plain:.3f} s without, {cached:.3f} s with a key-value cache"
    )
    for name, elapsed in (("alone", alone), (f"in a batch of {repeats}", many / repeats)):
        click.echo(f"  in one pass, {name}: {elapsed:.4f} s, {plain / elapsed:.0f}x and {cached / elapsed:.0f}x")


@click.command(help=__doc__)
@click.option("--model", help="Folder of a model; default: a random one of 100 M parameters.")
@click.option("--requests", default=16, show_default=True)
@click.option("--written", default=48, show_default=True, help="Tokens of an answer.")
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(model: str | None, requests: int, written: int, batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        chosen = model or str(make_model(Path(folder)))
        loaded = load(chosen, None, "auto", "auto")
        size = sum(parameter.numel() for parameter in loaded.model.parameters())
        click.echo(f"{size / 1e6:.0f} M parameters, {loaded.model.dtype}, {loaded.device}, {threads} threads")
        report_reading(chosen, loaded, batch)
        report_writing(chosen, loaded, make_requests(requests, written), batch)


if __name__ == "__main__":
    main()
