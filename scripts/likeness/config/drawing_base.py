"""The keys of config.yaml that name the model which draws."""

from typing import Annotated, Literal

from pydantic import Field

from likeness.core.section import Section

ModelName = Annotated[str, Field(min_length=1)]  # a path, or a hub id
PredictionType = Literal["epsilon", "v_prediction"]
ClipSkip = Annotated[int, Field(ge=1, le=12)]


class DrawingBase(Section):
    """The model that draws, in the place of another one: for sample of the one that is trained on, for portraits of the
    one that draws the samples. An empty key has the other one's value; if base_model is named, it has the model's
    own."""

    base_model: ModelName | None = None
    """The model that draws, if it is not the one that is trained on: a finetune of it, or another model of its family
    (docs/base-models.md). Empty in sample: the one that is trained on. Empty in portraits: that of sample."""
    base_revision: str | None = None
    """Branch, tag or commit, if the model that draws is a hub id."""
    vae: ModelName | None = None
    """The VAE that draws. Empty: the own one of base_model here. If that is empty too: as for base_model."""
    prediction_type: PredictionType | None = None
    """What the model that draws predicts. Empty: read from base_model here. If that is empty too: as for
    base_model."""
    clip_skip: ClipSkip | None = None
    """The clip_skip of the pictures. Empty: as for base_model."""
