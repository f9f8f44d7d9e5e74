"""The command `probe`: which features fire on a text, token by token."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.options import DEMO_FOLDER, configure, machine_options, overrides, subject_options
from autointerp.cli.terminal import json_line, one_line
from autointerp.errors import UserError

if TYPE_CHECKING:
    from autointerp.config import Config
    from autointerp.harvest.probe import TokenFirings
    from autointerp.vocabulary import Vocabulary

_TOP = 5
_SUMMARY = 20  # features in the summary
_WIDTH = 160  # where the output is no terminal


@dataclass(frozen=True, slots=True)
class Label:
    """What a run's catalog says of a feature: its title, if it has one, and its maximum over the harvest."""

    title: str | None
    max_activation: float


Labels = dict[int, Label] | None
"""By feature; None where there is no catalog."""


_out = click.option("--out", type=click.Path(path_type=Path), metavar="RUN_DIR",
                    help="A run's folder: its model, SAE, hookpoint and labels. Default, unless --model or --sae is given: "
                         "reports/demo.")  # fmt: skip
_which = click.option("--feature", "--features", "chosen", multiple=True, metavar="WHICH",
                      help="Only these: an id, ids and ranges such as 0-999,2048, a file of them, or all. Can be given more "
                           "than once. [default: those of the run]")  # fmt: skip
_top = click.option("--top", type=click.IntRange(min=1),
                    help=f"Features shown a token. [default: {_TOP}, or all that --feature names]")  # fmt: skip


@click.command()
@click.option("--text", help="The text.")
@click.option("--file", "source", metavar="PATH", help="A file with the text, in UTF-8; - for standard input.")
@_out
@_top
@_which
@click.option("--json", "as_json", is_flag=True, help="One JSON object a token, on standard output.")
@subject_options
@machine_options
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE",
              help="Any field of the configuration, for instance --set corpus.window=64.")  # fmt: skip
def probe(
    text: str | None, source: str | None, out: Path | None, top: int | None, chosen: tuple[str, ...], as_json: bool,
    settings: tuple[str, ...], **given: Any,
) -> None:  # fmt: skip
    """Show which features fire on a text, token by token.

    \b
    autointerp probe --text "for i in range(10):"
    autointerp probe --out reports/mine --file notes.txt --feature 7 --feature 100-199
    autointerp probe --model MODEL --sae SAE --text "…" --json

    The text is read as a corpus is: the same tokens, windows, BOS and hookpoint. Labels and the features' largest
    activations come from the run's catalog, if there is one.
    """
    words = _text(text, source)
    config, folder = _config(out, settings, given)
    which = ",".join(chosen) or config.sample.features
    tokens, vocabulary = _read(config, words, which)
    labels = _labels(config, folder, tokens)
    if not chosen and which != "all":
        click.echo(
            f"only the run's own features are shown: {which}; for every feature of the SAE: --features all", err=True
        )
    shown = top or (max(len(token.feature) for token in tokens) if chosen and which != "all" else _TOP)
    if as_json:
        for token in tokens:
            click.echo(json_line(_record(token, vocabulary, labels, shown)))
    else:
        _print_tokens(tokens, vocabulary, labels, shown)
        _print_summary(tokens, vocabulary, labels)


def _text(text: str | None, source: str | None) -> str:
    """The text that was given, one way or the other."""
    if (text is None) == (source is None):
        raise UserError('probe takes one text: --text "…", or --file PATH (- for standard input)')
    try:
        if source == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")  # as a corpus is read: line ends as they are, no BOM
        elif source is not None:
            text = Path(source).read_bytes().decode("utf-8-sig")
        assert text is not None
        text.encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise UserError(f"{source or '--text'}: not UTF-8; convert the text first") from None
    if not text:
        raise UserError(f"{source or '--text'}: the text is empty; give at least one character")
    return text


def _config(out: Path | None, settings: tuple[str, ...], given: Mapping[str, Any]) -> "tuple[Config, Path | None]":
    """The run's configuration under the options; and the run's folder, or None where none is meant."""
    from autointerp.config_reading import load_config
    from autointerp.harvest.runs import runs_below
    from autointerp.run_folder import saved_config

    named = given["model"] is not None or bool(given["sae"])
    if len(given["sae"]) > 1:
        raise UserError("probe reads one SAE at a time; give one --sae")
    if out is None and named:
        return load_config(None, overrides(settings, given)), None
    folder = out or DEMO_FOLDER
    if not (folder / "catalog.duckdb").exists() and (below := runs_below(folder)):
        raise UserError(
            f"{folder}: holds several runs; give one of them: {', '.join(str(folder / name) for name in below)}"
        )
    if out is not None and not named and saved_config(folder) == {}:
        raise UserError(f"{out}: no run here; name one with --out, or a model and an SAE with --model and --sae")
    return configure(None, folder, settings, **given)


def _read(config: "Config", text: str, which: str) -> "tuple[list[TokenFirings], Vocabulary]":
    """Run the model and the SAE over the text."""
    from autointerp.harvest import probe as harvest
    from autointerp.harvest.features import parse_features
    from autointerp.harvest.forward import Reader
    from autointerp.harvest.setup import load_subject_and_sae, resolve_hook, wants_bos
    from autointerp.harvest.tokens import token_bytes
    from autointerp.vocabulary import Vocabulary

    subject, sae = load_subject_and_sae(config)
    features = None if which == "all" else parse_features(which, sae.d_sae)
    bos = wants_bos(config, subject, sae)
    reader = Reader(subject, sae, resolve_hook(config, subject, sae), prepend_bos=bos, max_norm=config.sample.max_norm)
    sizes = subject.model.config.get_text_config()
    limit = getattr(sizes, "max_position_embeddings", None) or config.corpus.window
    window = min(config.corpus.window, limit) - bos
    tokens = harvest.probe(reader, text, window=window, features=features, batch_windows=config.sample.batch_windows)
    if tokens[-1].window:
        click.echo(f"the text has {len(tokens):,} tokens and is read in {tokens[-1].window + 1:,} windows of {window}, as the "
                   "harvest reads a document; a window does not see the one before it", err=True)  # fmt: skip
    return tokens, Vocabulary(*token_bytes(subject.tokenizer, sizes.vocab_size))


def _labels(config: "Config", folder: Path | None, tokens: "Sequence[TokenFirings]") -> Labels:
    """What the run's catalog says of the features that fire. Says on stderr why there is none."""
    import json

    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    if folder is None:
        return None
    if not catalog_path(folder).exists():
        click.echo(f"no catalog in {folder}: features are shown without labels; to make one: autointerp run --out {folder}",
                   err=True)  # fmt: skip
        return None
    with Catalog.open(catalog_path(folder)) as catalog:
        sampled = json.loads(catalog.value("SELECT config FROM stages WHERE stage = 'sample'") or "{}")
        if sampled and not _same_features(config, sampled):
            click.echo(f"{folder} was sampled with another model, SAE or hookpoint: its labels are not shown", err=True)
            return None
        ids = sorted({feature for token in tokens for feature in token.feature.tolist()})
        rows = catalog.rows("SELECT feature_id, title, max_activation FROM catalog WHERE feature_id IN "
                            "(SELECT unnest($ids::UINTEGER[]))", {"ids": ids})  # fmt: skip
    return {feature: Label(title, maximum) for feature, title, maximum in rows}


def _same_features(config: "Config", sampled: Mapping[str, Any]) -> bool:
    """Whether the features that were read are those that the catalog is about."""
    now = config.model_dump(include={"subject", "sae"})
    named = (("subject", "model"), ("subject", "revision"), ("sae", "path"), ("sae", "format"), ("sae", "hookpoint"))
    return all(now[section][field] == sampled[section][field] for section, field in named)


def _record(token: "TokenFirings", vocabulary: "Vocabulary", labels: Labels, top: int) -> dict[str, Any]:
    """A token for --json. Features without a label, and without a catalog all of them, have null in its place."""
    features = []
    for feature, activation in zip(token.feature[:top].tolist(), token.activation[:top].tolist(), strict=True):
        label = (labels or {}).get(feature)
        features.append({
            "feature": feature, "activation": activation, "max_activation": label and label.max_activation,
            "title": label and label.title,
        })  # fmt: skip
    place = {"index": token.index, "window": token.window, "position": token.position, "token": token.token}
    return place | {"text": vocabulary.text(token.token), "features": features}


def _print_tokens(tokens: "Sequence[TokenFirings]", vocabulary: "Vocabulary", labels: Labels, top: int) -> None:
    rows = []
    for token in tokens:
        place = [str(token.index), json_line(vocabulary.text(token.token))]
        found = zip(token.feature[:top].tolist(), token.activation[:top].tolist(), strict=True)
        lines = [[str(feature), *_strength(feature, value, labels)] for feature, value in found]
        for number, line in enumerate(lines or [["–"]]):
            rows.append([*(place if number == 0 else ["", ""]), *line])
    headings = ["#", "token", "feature", "activation", *_label_headings(labels)]
    _print_table(headings, rows, right=("#", "feature", "activation", "of max"))


def _print_summary(tokens: "Sequence[TokenFirings]", vocabulary: "Vocabulary", labels: Labels) -> None:
    """The features by their maximum over the text, and where it is."""
    from autointerp.harvest.probe import peaks

    found = peaks(tokens)
    if not found:
        click.echo(f"\nno feature fires on {'this token' if len(tokens) == 1 else f'these {len(tokens):,} tokens'}")
        return
    first = f": the {_SUMMARY} strongest" if len(found) > _SUMMARY else ""
    fire = f"{len(found):,} {_plural('feature', len(found), 'fires', 'fire')}"
    click.echo(f"\n{fire} on {len(tokens):,} {_plural('token', len(tokens))}{first}")
    rows = []
    for peak in found[:_SUMMARY]:
        activation, *label = _strength(peak.feature, peak.activation, labels)
        at = json_line(vocabulary.text(tokens[peak.index].token))
        rows.append([str(peak.feature), activation, str(peak.n_tokens), str(peak.index), at, *label])
    headings = ["feature", "maximum", "tokens", "at #", "token", *_label_headings(labels)]
    _print_table(headings, rows, right=("feature", "maximum", "tokens", "at #", "of max"))


def _plural(word: str, n: int, one: str = "", several: str = "") -> str:
    return f"{word} {one}".strip() if n == 1 else f"{word}s {several}".strip()


def _label_headings(labels: Labels) -> list[str]:
    return [] if labels is None else ["of max", "label"]


def _strength(feature: int, activation: float, labels: Labels) -> list[str]:
    """Activation; with a catalog also its share of the feature's maximum over the harvest, and the label."""
    if labels is None:
        return [f"{activation:.4g}"]
    label = labels.get(feature)
    if label is None:
        return [f"{activation:.4g}", "", "(not sampled in this run)"]
    share = f"{activation / label.max_activation:.0%}" if label.max_activation > 0 else ""
    return [f"{activation:.4g}", share, "(no label)" if label.title is None else one_line(label.title)]


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in headings:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, not markup: a label may hold brackets
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
