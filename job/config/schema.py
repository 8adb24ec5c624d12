"""The configuration: each knob once, with its default, unit and meaning.

One frozen tree, `Config`, is the whole of a training run; the other sub-commands have small trees of their own that
share its sections. The command line, the environment, TOML files, help and the docs all come from here
(`job/config/options.py` does the reading). Values are checked here as far as they can be without a machine or data.
"""

from __future__ import annotations

from dataclasses import dataclass

from job.config.options import option

MONITORS = ("log_loss", "accuracy", "auc", "brier")
RISING = ("accuracy", "auc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the photographs are."""

    data: str = option("", "photographs (folder, zip, tar, CSV, kaggle:..., https://...) or shards", metavar="SOURCE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """How photographs become shards."""

    side: int = option(160, "short side of the stored images; never enlarged", unit="px", low=8, high=4096)
    val: float = option(0.1, "share cut off for validation where the source has none", low=0, high=0.9)
    test: float = option(0.0, "share cut off for test where the source has none", low=0, high=0.9)
    positive: str = option("", "the positive class; empty takes the second in alphabetical order")
    max_bad: float = option(0.01, "largest share of images that may fail to decode", low=0, high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The network."""

    model: str = option("residual", "network", choices=("classic", "residual"), result=True)
    size: int | None = option(
        None, "square that the model sees in evaluation", unit="px", auto="96 (residual), 256 (classic)",
        low=16, high=2048, result=True,
    )  # fmt: skip
    filters: tuple[int, ...] | None = option(
        None, "filters of each stage", auto="64,128,256 (residual), 32,64,128 (classic)", low=1, result=True
    )
    depth: int = option(1, "convolutions a block (classic), residual blocks a stage (residual)", low=1, high=32, result=True)
    kernel: int = option(3, "side of the convolution kernels", unit="px", low=1, high=15, result=True)
    batchnorm: bool = option(True, "batch normalisation (classic; residual always has it)", result=True)
    dropout: float = option(
        0.0, "share of features dropped: after each dense layer (classic), before the head (residual)", low=0, high=0.95, result=True
    )
    dense: tuple[int, ...] = option((128, 64), "widths of the dense layers (classic)", low=1, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done to training images, on the device."""

    augment: float | None = option(
        None, "one strength for all of the below", auto="0.5 (residual), 0 (classic)", low=0, high=1, result=True
    )
    crop: float | None = option(
        None, "smallest share of the area kept by the random crop", auto="by --augment", above=0, high=1, result=True
    )
    flip: float | None = option(None, "probability of a mirror image", auto="by --augment", low=0, high=1, result=True)
    rotate: float | None = option(None, "largest rotation", unit="degrees", auto="by --augment", low=0, high=45, result=True)
    brightness: float | None = option(None, "largest change of brightness", auto="by --augment", low=0, high=0.9, result=True)
    contrast: float | None = option(None, "largest change of contrast", auto="by --augment", low=0, high=0.9, result=True)
    saturation: float | None = option(None, "largest change of saturation", auto="by --augment", low=0, high=0.9, result=True)
    erase: float | None = option(None, "probability of erasing a square", auto="by --augment", low=0, high=1, result=True)
    mixup: float | None = option(None, "alpha of MixUp's Beta distribution; 0 is off", auto="by --augment", low=0, high=8, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """How gradients change the weights."""

    optimizer: str | None = option(
        None, "optimizer", auto="muon (residual), adam (classic)", choices=("sgd", "adam", "adamw", "muon"), result=True
    )
    lr: float | None = option(None, "peak learning rate", auto="sgd 0.1, adam and adamw 0.001, muon 0.05", above=0, result=True)
    momentum: float = option(0.9, "Nesterov momentum (sgd, muon), first decay (adam, adamw)", low=0, high=0.9999, result=True)
    weight_decay: float | None = option(
        None, "decay of the kernels", auto="sgd 0.0005, adamw 0.05, muon 0.05 (head), adam 0", low=0, result=True
    )
    clip: float = option(0.0, "largest global norm of the gradient; 0 is off", low=0, result=True)
    smoothing: float | None = option(None, "label smoothing", auto="0.1 (residual), 0 (classic)", low=0, high=0.5, result=True)
    class_weights: str = option("auto", "weigh the rarer class more", choices=("auto", "off"), result=True)
    ema: float | None = option(
        None, "decay of the averaged weights that are validated; 0 is off", auto="0.995 (residual), 0 (classic)",
        low=0, high=0.99999, result=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long, how much at once, and when to stop."""

    epochs: int = option(20, "passes over the training images; fixes the schedule", low=1, result=True)
    batch: int | None = option(
        None,
        "images a step, over all replicas",
        auto="256 (residual), 32 (classic), at most an eighth of the images",
        low=1,
        result=True,
    )
    warmup: float | None = option(
        None, "share of the steps in which the learning rate rises", auto="0.05 (residual), 0 (classic)",
        low=0, high=0.9, result=True,
    )  # fmt: skip
    decay: str | None = option(
        None, "fall of the learning rate", auto="linear (residual), constant (classic)",
        choices=("linear", "cosine", "constant"), result=True,
    )  # fmt: skip
    train_sizes: tuple[int, ...] | None = option(
        None, "squares trained at, one after another", unit="px",
        auto="1/2, 2/3 and 5/6 of --size (residual), --size (classic)", low=8, result=True,
    )  # fmt: skip
    grow_at: tuple[float, ...] | None = option(
        None, "shares of the steps at which the next square begins", auto="0.45,0.8 where there are three squares",
        above=0, high=1, result=True,
    )  # fmt: skip
    patience: int = option(0, "epochs without a better --monitor before stopping; 0 is off", low=0, result=True)
    monitor: str = option("log_loss", "validation figure that decides best and patience", choices=MONITORS, result=True)
    seed: int = option(1, "seed of weights, order, augmentation and dropout", low=0, high=2**31 - 1, result=True)
    stop_after: int = option(0, "end this start after so many epochs in all, schedule unchanged; 0 is off", low=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The devices and how they are used."""

    gpus: str = option("auto", "GPUs to use", metavar="auto|all|none|N|id:0,1")
    replicas: int | None = option(None, "parts that a batch is divided in", auto="a GPU each, 1 on a CPU", low=1, result=True)
    precision: str | None = option(
        None, "arithmetic of training", auto="by the device, printed with its reason",
        choices=("float32", "bfloat16", "float16"), result=True,
    )  # fmt: skip
    xla: bool = option(False, "compile each replica's function with XLA", result=True)
    deterministic: bool | None = option(None, "the same bits at each run", auto="on a CPU yes; on GPUs or with --xla no", result=True)
    threads: int | None = option(None, "TensorFlow's threads", auto="the cores that this process may use", low=1, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The hands at work on the host."""

    workers: int | None = option(None, "threads that read and decode images", auto="the cores that this process may use", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """How images reach the device."""

    memory: float | None = option(None, "memory for decoded images", unit="GiB", auto="half of what is free", low=0)
    cache: str = option("", "folder for what can be made again: shards prepared from --data; empty takes the run folder", metavar="DIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """What is said while it runs."""

    log_format: str = option("plain", "form of the log lines: for people, or one JSON object each", choices=("plain", "json"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where the result goes."""

    out: str = option("", "folder of the run (train), shards (prepare) or sweep; the plot to write (visualize)", metavar="PATH")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What is written while training, and looks before it."""

    log_every: int = option(10, "steps between two lines in metrics.jsonl", unit="steps", low=1)
    save_every: float = option(5.0, "longest time between two checkpoints", unit="minutes", above=0)
    dry_run: bool = option(False, "check everything by three real steps, print the plan, and stop")
    show_augment: str = option("", "write a contact sheet of augmented images, and stop", metavar="FILE.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A training run. The tables of `config.toml` are these fields."""

    source: Source = Source()
    output: Output = Output()
    prepare: Prepare = Prepare()
    model: Model = Model()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    machine: Machine = Machine()
    feed: Feed = Feed()
    work: Work = Work()
    run: Run = Run()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """How configurations are searched."""

    trials: int = option(50, "configurations tried, the starting one among them; rows of trials.csv", low=2)
    engine: str = option("ray", "what proposes and stops trials", choices=("ray", "keras-tuner"))
    search: str | None = option(
        None, "how: tpe and random are Ray's, under ASHA; hyperband, bayesian and random are KerasTuner's",
        auto="tpe (ray), hyperband (keras-tuner)", choices=("tpe", "random", "hyperband", "bayesian"),
    )  # fmt: skip
    space: str = option("", "fields and their ranges; empty takes the space that comes with twofold", metavar="FILE.toml")
    first_rung: int = option(1, "epochs before trials are first compared (ASHA)", low=1)
    reduction: int = option(3, "one trial in so many passes a rung, which is then so much longer (ASHA, Hyperband)", low=2, high=16)
    time_budget: str = option("", "stop after so long, as 90m or 2h; a later start goes on", metavar="TIME")
    concurrent: int | None = option(None, "trials at once", auto="as many as cores and GPUs allow (ray), 1 (keras-tuner)", low=1)
    gpus_per_trial: float | None = option(None, "GPUs a trial, or a share of one (ray)", auto="1 where there are GPUs, else 0", low=0)
    cpus_per_trial: int | None = option(None, "cores a trial, which are its --threads", auto="1 (ray), all (keras-tuner)", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig(Config):
    """`twofold sweep`: the configuration that all trials start from, and how others are searched."""

    sweep: Sweep = Sweep()


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """`twofold prepare`."""

    output: Output = Output()
    prepare: Prepare = Prepare()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is evaluated."""

    split: str | None = option(None, "split of the shards, or all", auto="the run's own validation; with --data, test", metavar="NAME")
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """`twofold evaluate`."""

    source: Source = Source()
    evaluation: Evaluation = Evaluation()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How predictions are printed."""

    format: str = option("table", "form of the answer", choices=("table", "csv", "jsonl"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """`twofold predict`."""

    format: Format = Format()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualizeConfig:
    """`twofold visualize`."""

    output: Output = Output()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeConfig:
    """`twofold smoke`."""

    log: Log = Log()
