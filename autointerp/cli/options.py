"""Options that the commands share, and the way from them to a configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from autointerp.config import Config
from autointerp.config_reading import load_config, parse_setting
from autointerp.errors import UserError
from autointerp.resources import packaged

Command = TypeVar("Command", bound=Callable[..., Any])
DEMO_FOLDER = Path("reports/demo")

# option → the field of the configuration that it sets
_FIELDS = {
    "model": "subject.model", "device": "subject.device", "dtype": "subject.dtype", "corpus": "corpus.source",
    "text_field": "corpus.text_field", "max_tokens": "corpus.max_tokens", "features": "sample.features",
    "loss_recovered": "sample.loss_recovered", "per_kind": "negatives.per_kind",
    "steered": "steering.features", "kl": "steering.kl",
    "explainer": "explain.explainer", "prompt_dir": "explain.prompt_dir", "provider": "explain.provider",
    "label_model": "explain.model",
    "base_url": "explain.base_url", "api_key_env": "explain.api_key_env", "concurrency": "explain.concurrency",
    "budget": "spending.budget", "prices": "spending.prices",
    "embedder": "score.embedder", "embed_provider": "score.embed_provider", "embed_base_url": "score.embed_base_url",
    "embed_api_key_env": "score.embed_api_key_env",
    "simulator": "score.simulator", "rank_by": "score.rank_by", "adaptive": "score.adaptive", "top_k": "score.top_k",
    "seed": "seed",
}  # fmt: skip


_SAE_FIELDS = {"sae": "path", "sae_format": "format", "hookpoint": "hookpoint"}


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


REMEMBERED = ("Options that are not given are as in the run's folder, where earlier commands on it have left them "
              "(RUN_DIR/config.json); the defaults above are those of a new folder.")  # fmt: skip
"""What a command with `folder_options` says below its options."""

folder_options = _stack(
    click.argument("config_file", metavar="[CONFIG.toml]", required=False, type=click.Path(path_type=Path)),
    click.option("--out", type=click.Path(path_type=Path), metavar="RUN_DIR",
                 help="The run's folder; everything goes there, and a rerun goes on there. What earlier commands set there holds "
                      "until it is set anew. Default for the demo: reports/demo."),
    click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE",
                 help="Any field of the configuration, for instance --set sample.top=40. See docs/configuration.md."),
    click.option("--seed", type=int, help="Seed of every draw. [default: 0]"),
)  # fmt: skip

subject_options = _stack(
    click.option("--model", metavar="PATH_OR_HUB_ID", help="The language model under study. [default: the embedded demo model]"),
    click.option("--sae", multiple=True, metavar="PATH_OR_HUB_ID",
                 help="The sparse autoencoder, in any known format; several are read in one pass. [default: the demo's]"),
    click.option("--hookpoint", multiple=True,
                 help="Where the SAE reads: a module such as model.layers.2, or a TransformerLens name; for several SAEs one "
                      "for all, or one each. [default: as the SAE's files say]"),
    click.option("--sae-format", multiple=True, help="Name of the SAE's format, where its files do not tell."),
)  # fmt: skip

machine_options = _stack(
    click.option("--device", help="cpu, cuda, cuda:1, or auto. [default: auto]"),
    click.option("--dtype", help="float32, bfloat16, float16, or auto. [default: auto]"),
)

sample_options = _stack(
    subject_options,
    click.option("--corpus", metavar="SOURCE", help="stdlib, a file or folder (.txt .json .jsonl .parquet), or hf:NAME. "
                                                    "[default: stdlib]"),
    click.option("--text-field", help="Field or column that holds the text, or a list of chat messages. [default: text]"),
    click.option("--max-tokens", type=int, help="Stop after so many tokens of the corpus."),
    click.option("--features", metavar="WHICH", help="Features to sample: all, ids and ranges such as 0-999,2048, or a file of "
                                                     "them (@FILE). [default: all]"),
    click.option("--loss-recovered", is_flag=True, default=None, help="Measure how much of the model's loss the SAE's output "
                                                                      "preserves. Can be asked for later, too."),
    machine_options,
)  # fmt: skip


def _parse_engine_options(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Values are read as those of --set are, but dates and times stay text: `slurm_time=04:00:00`."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, plain = text.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{text!r}: expected KEY=VALUE, such as slurm_partition=gpu")
        value = parse_setting(text)[1]
        found[key.strip()] = value if isinstance(value, bool | int | float | str | list | dict) else plain.strip()
    return found


engine_options = _stack(
    click.option("--engine", default="here", metavar="NAME",
                 help="Where the harvest is done: here, processes, slurm or ray. [default: here]"),
    click.option("--workers", type=click.IntRange(1), help="Workers of the engine. [default: the engine's choice]"),
    click.option("--engine-option", "engine_options", multiple=True, metavar="KEY=VALUE", callback=_parse_engine_options,
                 help="An option of the engine, such as slurm_partition=gpu or address=auto; see docs/scaling.md."),
)  # fmt: skip

model_options = _stack(
    click.option("--explainer", help="Who writes the labels: lexicon (no model is asked), highlighted, refine, dual, …; see "
                                     "docs/explainers.md. Those of output are graded as if they said when the feature is "
                                     "active. [default: highlighted with --label-model, else lexicon]"),
    click.option("--prompt-dir", metavar="FOLDER", help="Your own prompts, NAME.j2; they come before the packaged ones."),
    click.option("--provider", metavar="NAME[:ARGUMENT]",
                 help="openai (and every compatible server), anthropic, http, transformers, openai-batch, anthropic-batch, "
                      "files:DIR, mock; see docs/providers.md. [default: openai]"),
    click.option("--label-model", metavar="NAME", help="The model that writes labels and simulates."),
    click.option("--base-url", metavar="URL", multiple=True, default=None,
                 help="Address of a compatible server, such as http://127.0.0.1:8000/v1; several times for a fleet (http)."),
    click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the key. "
                                                       "[default: OPENAI_API_KEY or ANTHROPIC_API_KEY]"),
    click.option("--concurrency", type=int, help="Requests in flight at most. [default: 32]"),
    click.option("--budget", type=float, metavar="USD", help="Money that the answers in this folder may cost in all."),
    click.option("--prices", metavar="FILE.toml", help="A TOML file of your own prices; see docs/providers.md."),
)  # fmt: skip

score_options = _stack(
    click.option("--simulator", help="Who predicts activations from a label: lexicon, logprob_free, all_at_once, "
                                      "one_at_a_time; see docs/scoring.md. [default: to suit the labels]"),
    click.option("--embedder", metavar="NAME", help="The model that makes vectors of texts, for the scorer embedding."),
    click.option("--embed-provider", metavar="NAME[:ARGUMENT]",
                 help="Who answers for it: openai, http, sentence-transformers, files:DIR, mock. [default: as --provider]"),
    click.option("--embed-base-url", metavar="URL", multiple=True, default=None, help="Address of its server."),
    click.option("--embed-api-key-env", metavar="NAME", help="Environment variable that holds its key."),
    click.option("--rank-by", metavar="[SCORER.]METRIC",
                 help="By whose lower bounds the catalog is ordered: r_corpus, r_balanced, or scorer.metric such as "
                      "detection.balanced_accuracy. [default: r_corpus]"),
    click.option("--adaptive", "adaptive", type=click.UNPROCESSED, flag_value=True,
                 help="Simulate each feature only until its interval says that enough is known of it: it is narrow, or with "
                      "--top-k surely not among the best. See docs/scoring.md."),
    click.option("--halving", "adaptive", type=click.UNPROCESSED, flag_value="halving",
                 help="Adaptive by successive halving: after each round the half with the better scores goes on, at least "
                      "--top-k features. Cheaper, WITHOUT control of errors: nobody knows how often a good one is thrown out."),
    click.option("--no-adaptive", "adaptive", type=click.UNPROCESSED, flag_value=False,
                 help="All contexts of every feature. [default]"),
    click.option("--top-k", type=click.IntRange(1),
                 help="How many of the best features are to be found; implies --adaptive, unless --halving."),
)  # fmt: skip


only_option = click.option(
    "--features", "only", metavar="WHICH", default="all",
    help="Work on these features alone, this time: ids and ranges such as 57,81,300-310, or a file of them (@FILE). What is "
         "there of others stays, and the same command without this option does the rest. [default: all]",
)  # fmt: skip


def overrides(settings: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that --set and the other options name; the latter win."""
    named = dict(parse_setting(text) for text in settings) | _dictionaries(given)
    return named | {
        _FIELDS[name]: value for name, value in given.items() if value not in (None, ()) and name not in _SAE_FIELDS
    }


def _dictionaries(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that --sae, --sae-format and --hookpoint set: of the one dictionary, or of it and the further ones."""
    columns = {field: given.get(option, ()) for option, field in _SAE_FIELDS.items()}
    n = max(1, len(columns["path"]))
    for option, field in _SAE_FIELDS.items():
        if len(columns[field]) not in (0, 1, n):
            raise UserError(
                f"{len(columns[field])} times --{option.replace('_', '-')} for {n} --sae: give one, or one each"
            )
    rows = [
        {field: values[index if len(values) > 1 else 0] for field, values in columns.items() if values}
        for index in range(n)
    ]
    first = {f"sae.{field}": value for field, value in rows[0].items()}
    return first | ({"also": rows[1:]} if columns["path"] else {})


def configure(
    config_file: Path | None, out: Path | None, settings: tuple[str, ...], **given: Any
) -> tuple[Config, Path]:
    """The configuration and the run's folder.

    In rising order of precedence: what an earlier command left in the folder, the TOML file (the embedded demo's where
    neither model nor SAE is named), --set, the other options.
    """
    from autointerp.run_folder import saved_config

    changed = overrides(settings, given)
    if (
        config_file is None
        and saved_config(out or DEMO_FOLDER) == {}
        and not {"subject.model", "sae.path"} & changed.keys()
    ):
        config_file = packaged("data") / "demo" / "demo.toml"
    if out is None:
        config = load_config(config_file, changed)
        if (config.subject.model, config.sae.path) != ("demo", "demo"):
            raise UserError("no run folder: name one with --out RUN_DIR, for instance --out reports/my-sae")
        out = DEMO_FOLDER
    return load_config(config_file, changed, base=saved_config(out)), out
