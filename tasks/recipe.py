"""How a network is transferred and trained: the two config sections that decide the recipe."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.idle import idle_in_strategy, idle_in_training

Kind = Literal[
    "full",
    "partial",
    "linear_probe",
    "scratch",
    "gradual_unfreeze",
    "lp_ft",
    "discriminative",
    "l2_sp",
    "ema",
    "wise_ft",
    "soup",
    "lora",
    "distill",
]

# Kinds that are short for whole transfer with one setting, and what that is when left null.
SHORT_FOR: dict[str, tuple[str, float | int | str]] = {
    "discriminative": ("layer_decay", 0.7),
    "l2_sp": ("l2_sp", 0.01),
    "ema": ("ema_decay", 0.99),
    "wise_ft": ("wise_ft", "search"),
    "soup": ("soup", 3),
    "lora": ("lora_rank", 8),
}


class Section(BaseModel):
    """Common settings of every section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    example: ClassVar[str] = "configs/digits.yaml"  # a file that shows every key


class StrategyConfig(Section):
    """Which part of the network moves and trains, and what holds it near its start.

    The settings below ``kind`` go with any kind that trains the backbone, so that for example
    ``kind=lp_ft`` with ``ema_decay=0.99`` and ``layer_decay=0.7`` is a run of its own; the kinds
    named after one of them are short for ``full`` with that setting at its usual value.
    """

    kind: Kind = Field(
        "full",
        description="full: every weight trains (whole transfer). partial: the first "
        "frozen_stages stay as pretrained. linear_probe: only the head trains. scratch: no "
        "pretrained weight is used (the control). gradual_unfreeze: one more stage an epoch, from "
        "the head down. lp_ft: the head first, then all. lora: low-rank adapters and the head. "
        "distill: a registered teacher's outputs are learnt as well. discriminative, l2_sp, ema, "
        "wise_ft, soup: full with that setting.",
    )
    frozen_stages: int = Field(0, ge=0, description="Stages frozen from the input; partial only.")
    probe_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs, of training.epochs, that train the head alone first; lp_ft and "
        "wise_ft only; null: half.",
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A stage's learning rate is that of the stage after it times this.",
    )
    l2_sp: float | None = Field(
        None, ge=0, description="Pull towards the pretrained weights, instead of towards 0."
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Keep an exponential moving average of the weights."
    )
    wise_ft: float | Literal["search"] | None = Field(
        None,
        description="Share of the fine-tuned weights in the mean with the weights before; "
        "search: the share that validation likes best.",
    )
    soup: int | None = Field(
        None, ge=2, le=20, description="Train so many models and average those that help."
    )
    lora_rank: int | None = Field(None, ge=1, description="Rank of the adapters; lora only.")
    lora_alpha: float | None = Field(
        None,
        gt=0,
        description="Scale of the adapters is this over the rank; lora only; null: twice the rank.",
    )
    teacher: str | None = Field(
        None, description="models:/NAME@ALIAS whose outputs are learnt as well; distill only."
    )
    distill_weight: float = Field(
        0.5, gt=0, le=1, description="The teacher's share of the loss; distill only."
    )
    distill_temperature: float = Field(4.0, gt=0, description="Softens both outputs; distill only.")

    @model_validator(mode="before")
    @classmethod
    def _usual_value(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the user wrote
        kind = given.get("kind") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind in SHORT_FOR:
            name, value = SHORT_FOR[kind]
            if given.get(name) is None:
                return {**given, name: value}
        return given

    @model_validator(mode="after")
    def _settings_go_with_the_kind(self) -> StrategyConfig:
        if (self.kind == "partial") != (self.frozen_stages > 0):
            raise ValueError(
                "strategy.frozen_stages must be above 0 with strategy.kind=partial, 0 otherwise"
            )
        if isinstance(self.wise_ft, float) and not 0 <= self.wise_ft <= 1:
            raise ValueError("strategy.wise_ft must be between 0 and 1, or search")
        if self.probe_epochs is not None and self.kind not in ("lp_ft", "wise_ft"):
            raise ValueError("strategy.probe_epochs goes with strategy.kind=lp_ft or wise_ft only")
        if (self.kind == "lora") != (self.lora_rank is not None):
            raise ValueError("strategy.lora_rank goes with strategy.kind=lora only")
        if (self.kind == "distill") != (self.teacher is not None):
            raise ValueError(
                "strategy.teacher=models:/NAME@ALIAS goes with strategy.kind=distill, and only "
                "with that"
            )
        if (problem := idle_in_strategy(self)) is not None:
            raise ValueError(problem)
        return self._backbone_trains()

    def _backbone_trains(self) -> StrategyConfig:
        if self.kind in ("linear_probe", "lora"):
            for name in ("layer_decay", "l2_sp"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"strategy.{name} says how pretrained weights move, and with "
                        f"strategy.kind={self.kind} they do not"
                    )
        if self.kind == "scratch" and self.l2_sp is not None:
            raise ValueError("strategy.kind=scratch has no pretrained weights to stay near")
        if self.wise_ft is not None and self.kind not in ("wise_ft", "lp_ft"):
            raise ValueError(
                "strategy.wise_ft goes back to weights that classify already: it goes with "
                "strategy.kind=wise_ft or lp_ft"
            )
        if self.soup is not None and (self.wise_ft is not None or self.kind == "lora"):
            raise ValueError("strategy.soup does not go with wise_ft or lora")
        return self


class TrainingConfig(Section):
    """The recipe."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(100, ge=1, description="Images a batch, over all devices and nodes.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        "sgd", description="muon: for matrices; the other weights train with adamw."
    )
    learning_rate: float = Field(0.001, gt=0)
    head_learning_rate: float | None = Field(
        None, gt=0, description="The new head's own; null: the same as the rest."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD and Muon.")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine", "one_cycle"] = "constant"
    warmup_epochs: float = Field(
        0.0, ge=0, description="The rate rises linearly so long; not with one_cycle."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    balance: Literal["none", "class_weights", "sampler"] = Field(
        "none",
        description="For skewed data. class_weights: rare classes weigh more in the loss. "
        "sampler: rare classes are drawn more often.",
    )
    augment: Literal["none", "flip", "crop", "crop_flip"] = Field(
        "none", description="crop: RandomResizedCrop. flip: horizontal, half of the time."
    )
    policy: Literal["none", "rand_augment", "trivial_augment"] = Field(
        "none", description="Random colour and shape changes on top of augment."
    )
    random_erasing: float = Field(0.0, ge=0, le=1, description="Share of images erased in part.")
    mixup: float = Field(0.0, ge=0, description="Beta parameter of mixup; 0: none.")
    cutmix: float = Field(0.0, ge=0, description="Beta parameter of cutmix; 0: none.")
    gradient_clip: float | None = Field(None, gt=0, description="Largest gradient norm.")
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better one."
    )
    choose: Literal["best", "last"] = Field(
        "best", description="best: the epoch with the highest validation accuracy."
    )
    feature_cache: Literal["auto", "off"] = Field(
        "auto", description="auto: what a frozen part gives is computed once, where that pays."
    )
    feature_views: int | None = Field(
        None,
        ge=1,
        description="Augmented views of each image that are kept of a frozen part; null: a new "
        "one every epoch, none kept.",
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    devices: int = Field(1, ge=1, description="Processes, each on a device of its own (DDP).")
    nodes: int = Field(
        1, ge=1, description="Machines that train together, each with so many devices."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast where the processor is made for it."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile; auto: on a GPU, where the run is long enough to pay."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; null: all there are.")

    @model_validator(mode="after")
    def _warm_up_fits(self) -> TrainingConfig:
        if self.warmup_epochs and self.schedule == "one_cycle":
            raise ValueError("training.schedule=one_cycle warms up by itself: set warmup_epochs=0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("training.warmup_epochs must be less than training.epochs")
        return self

    @model_validator(mode="after")
    def _batch_splits(self) -> TrainingConfig:
        if self.batch_size % (self.devices * self.nodes):
            several = f" times training.nodes={self.nodes}" if self.nodes > 1 else ""
            raise ValueError(
                f"training.batch_size={self.batch_size} is not a multiple of training.devices="
                f"{self.devices}{several}: set one that is, for all devices together"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> TrainingConfig:
        if (problem := idle_in_training(self)) is not None:
            raise ValueError(problem)
        return self

    @property
    def mixes(self) -> bool:
        """Tell whether images are mixed with others of their batch."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def augmented(self) -> bool:
        """Tell whether the images of one epoch differ from those of another."""
        return self.augment != "none" or self.policy != "none" or self.random_erasing > 0
