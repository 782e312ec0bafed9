"""What is to be annotated, by whom, and what becomes of it: the YAML file of `serinus data annotate run`. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Location, StrictModel, WebAddress

Name = Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
Label = Annotated[str, Field(pattern=r"^\w[\w -]{0,63}$")]


class RelationLabel(StrictModel):
    """A kind of relation, and what of it would contradict itself."""

    subject: tuple[Label, ...] = Field(min_length=1)
    """Labels of entities that may stand there, as in `object`."""
    object: tuple[Label, ...] = Field(min_length=1)
    description: str = ""
    functional: bool = False
    """A subject has one object only: two different ones contradict each other."""
    asymmetric: bool = False
    """It never holds both ways."""
    excludes: tuple[Label, ...] = ()
    """Relations that never hold between the same two."""


class LabelsConfig(StrictModel):
    """What may be annotated."""

    entities: dict[Label, str] = Field(min_length=1)
    """Label -> description, which models are shown."""
    relations: dict[Label, RelationLabel] = {}

    @model_validator(mode="after")
    def _known(self) -> LabelsConfig:
        for name, relation in self.relations.items():
            if unknown := {*relation.subject, *relation.object} - self.entities.keys():
                raise ValueError(f"relation `{name}` names labels that are not under entities: {sorted(unknown)}")
            if strange := {*relation.excludes} - self.relations.keys():
                raise ValueError(f"relation `{name}` excludes relations that there are not: {sorted(strange)}")
        return self


class EntityRule(StrictModel):
    """Entities by a regular expression, or by a list of terms."""

    label: Label
    pattern: str | None = None
    """RE2; the whole match is the entity."""
    terms: tuple[str, ...] = ()
    """Whole words, whatever the white space between them; of two that begin at the same place the longer one."""
    path: Location | None = None
    """More terms: a text file, one a line."""
    ignore_case: bool = False

    @model_validator(mode="after")
    def _something(self) -> EntityRule:
        if (self.pattern is None) == (not self.terms and self.path is None):
            raise ValueError("give either a pattern, or terms (or a path to them)")
        return self


class RelationRule(StrictModel):
    """Two entities that follow one another in a paragraph are related where the text between them matches."""

    relation: Label
    between: str
    """RE2 for all that stands between the two."""
    object_first: bool = False
    max_characters: int = Field(100, ge=1)
    """Between the two."""


class QuestionRule(StrictModel):
    """A question, rationale and answer for each relation of a kind. `{subject}` and `{object}` are filled in with the entities'
    texts; in the rationale each brings its citation."""

    relation: Label
    question: str
    rationale: str
    answer: str = "{object}"

    @model_validator(mode="after")
    def _cites(self) -> QuestionRule:
        if "{subject}" not in self.rationale and "{object}" not in self.rationale:
            raise ValueError("rationale names neither {subject} nor {object}, so it would cite nothing")
        return self


class RulesAnnotator(StrictModel):
    """Rules, which cost nothing and say the same each time."""

    kind: Literal["rules"] = "rules"
    name: Name = "rules"
    entities: tuple[EntityRule, ...] = Field(min_length=1)
    relations: tuple[RelationRule, ...] = ()
    questions: tuple[QuestionRule, ...] = ()


class ModelAnnotator(StrictModel):
    """A language model at an endpoint that speaks OpenAI's chat API, such as serinus's own gateway, asked for JSON by a schema."""

    kind: Literal["llm"] = "llm"
    name: Name
    url: WebAddress
    """Base URL, as http://127.0.0.1:8000/v1."""
    model: str
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable with the API key. The key itself is never recorded."""
    reasoning: bool = True
    """Ask for the upper layer, too."""
    instructions: str = ""
    """Of your own, behind ours."""
    passage_characters: int = Field(4_000, ge=200)
    """A request holds so much of a document at most, cut between paragraphs where there are any."""
    max_items: int = Field(64, ge=1)
    """Annotations of one kind in an answer: a model that cannot end a list ends there."""
    max_tokens: int = Field(2_048, ge=16)
    """An answer that is cut off is unusable."""
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = 0
    """Another attempt takes the next one."""
    max_concurrent: int = Field(8, ge=1, le=1_024)
    """Requests under way at a time."""
    attempts: int = Field(3, ge=1, le=20)
    """For one passage, failed requests and unusable answers together."""
    timeout_s: float = Field(120, gt=0)


class LabelStudioAnnotator(StrictModel):
    """People's work: a JSON export of Label Studio. Each person in it (`completed_by`) is an annotator."""

    kind: Literal["label_studio"] = "label_studio"
    name: Name
    path: Location


Annotator = Annotated[RulesAnnotator | ModelAnnotator | LabelStudioAnnotator, Field(discriminator="kind")]


class InstructConfig(StrictModel):
    """The file that `train.method: {kind: instruct}` reads."""

    rationale: bool = True
    """The assistant's turn gives its reasons before the answer."""
    extraction: bool = False
    """Also one conversation a document that asks for all entities, as JSON."""
    max_context_characters: int = Field(4_000, ge=200)
    """Of the document, around the evidence."""


class AnnotationConfig(StrictModel):
    """Annotating a dataset."""

    labels: LabelsConfig
    annotators: tuple[Annotator, ...] = Field(min_length=1)
    max_documents: int = Field(1_000, ge=1)
    """Of the training split; where there are more, those whose ids have the smallest hashes."""
    min_annotators: int = Field(1, ge=1)
    """That must say the same of a document for an entity or relation to be accepted, of those that saw the document."""
    instruct: InstructConfig = InstructConfig()

    @model_validator(mode="after")
    def _consistent(self) -> AnnotationConfig:
        names = [annotator.name for annotator in self.annotators]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names of annotators must differ, repeated: {', '.join(sorted(repeated))}")
        for annotator in self.annotators:
            if isinstance(annotator, RulesAnnotator):
                _check_rules(annotator, self.labels)
        return self


def _check_rules(rules: RulesAnnotator, labels: LabelsConfig) -> None:
    if unknown := {rule.label for rule in rules.entities} - labels.entities.keys():
        raise ValueError(f"annotator `{rules.name}` has rules for labels that are not under labels: {sorted(unknown)}")
    named = {rule.relation for rule in rules.relations} | {rule.relation for rule in rules.questions}
    if strange := named - labels.relations.keys():
        raise ValueError(
            f"annotator `{rules.name}` has rules for relations that are not under labels: {sorted(strange)}"
        )
