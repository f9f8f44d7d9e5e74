"""What the scorers have in common that ask for a yes or no about each of several texts: `detection` and `fuzzing`."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from autointerp.hashing import hex_hash
from autointerp.score import Settings, Wants
from autointerp.score.questions import Form, Question, Verdict


@dataclass(frozen=True, slots=True)
class Classifying:
    """`question`: what is asked; `revision` goes up with what an answer is made of, its form apart."""

    question: ClassVar[Question[Verdict]]
    revision: ClassVar[str]
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), negatives=True)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "f1", "precision", "auroc")

    form: Form = field(default_factory=Form)
    resamples: int = 1000
    seed: int = 0

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, form=Form.of(settings, verdicts=True), resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the verdicts and scores depend on, the model apart."""
        return hex_hash(self.revision, self.form.version(self.question.template))
