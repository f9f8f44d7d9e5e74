"""The explainer `lexicon`: a label without a language model, and the baseline that every other label must beat.

It learns a rule from the explain split's contexts (see lexicon_rules), says it in a sentence (see lexicon_words), and keeps
the rule in the label, so that the simulator of the same name can predict from it.
"""

from pathlib import Path

from autointerp.catalog.records import Context, FeatureEvidence, Label, Split
from autointerp.explain import DEFAULT_SEARCH, Search, explainers
from autointerp.explain.exemplars import Selection
from autointerp.explain.lexicon_rules import VERSION, learn
from autointerp.explain.lexicon_words import describe
from autointerp.llm.types import Ask, FailureKind, RequestFailed
from autointerp.vocabulary import Vocabulary

_EVIDENCE = 5


class Lexicon:
    """Deterministic; milliseconds a feature."""

    needs_model = False
    needs: tuple[str, ...] = ()
    wants_negatives = False
    wants_steered = False
    selection = None
    splits: tuple[Split, ...] = ("explain",)
    version = f"{VERSION}.3"  # of the rule, and of the words
    template_hash = None

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> "Lexicon":
        """Itself: it looks at all contexts, and has no prompt."""
        return self

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The label, with its rule. Raises RequestFailed where the explain split has no activating context."""
        contexts = evidence.of("explain")
        active = {context.window_id: context for context in contexts if context.peak > 0}
        if not active:
            raise RequestFailed(
                FailureKind.NO_EVIDENCE, "the feature fires in no document of the explain split", attempts=0
            )
        rule = learn(contexts, evidence.max_activation)
        strongest = sorted(active.values(), key=lambda context: (-context.peak, context.window_id))[:_EVIDENCE]
        words = describe(rule, vocabulary, len(active), _around_peak(strongest[0], vocabulary))
        windows = tuple(context.window_id for context in strongest)
        return Label(words.title, words.description, words.kind, rule.to_json(), windows)


def _around_peak(context: Context, vocabulary: Vocabulary) -> str:
    """The token at which the feature is strongest, with two tokens before it and the one after it."""
    at = int(context.activations.argmax())
    return vocabulary.join(context.tokens[max(0, at - 2) : at + 2])


explainers.register("lexicon")(Lexicon())
