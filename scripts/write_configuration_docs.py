"""Write docs/configuration.md's tables from the configuration's own sentences.

python scripts/write_configuration_docs.py
"""

from pathlib import Path

from pydantic import BaseModel

from autointerp.config import Config

HEAD = """# Configuration

A run is configured by a TOML file, by options, or by both; options win. What an earlier command left in the run's folder
(`RUN_DIR/config.json`) is the base, so later commands on the same folder need only what they change. Any field can be set
with `--set section.field=value`; a field that takes several words has commas between them, as in
`--set score.scorers=simulation,detection`. Written by scripts/write_configuration_docs.py; a test keeps it true.

```toml
[subject]
model = "path/to/model"

[sae]
path = "path/to/sae"

[corpus]
source = "texts.jsonl"
max_tokens = 10_000_000

[explain]
explainer = "lexicon"
```
"""


def tables() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(
                f"\n## [{name}]\n\n{field.annotation.__doc__}\n\n| field | default | meaning |\n|---|---|---|\n"
            )
            for key, inner in field.annotation.model_fields.items():
                parts.append(f"| {key} | {_shown(inner.default)} | {inner.description} |\n")
    parts.append("\n## Top level\n\n| field | default | meaning |\n|---|---|---|\n")
    parts.append(
        f"| seed | {_shown(Config.model_fields['seed'].default)} | {Config.model_fields['seed'].description} |\n"
    )
    return "".join(parts)


def _shown(value: object) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else f"`{value}`"


if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("docs", "configuration.md").write_text(tables(), encoding="utf-8")
