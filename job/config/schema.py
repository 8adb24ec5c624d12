"""The configuration: each knob once, with its default, unit and meaning.

One frozen tree, `Config`, is the whole of a training run; the other sub-commands have small trees of their own that
share its sections. The command line, the environment, TOML files, Python keywords, help and the
docs all come from here (`job/config/options.py` does the reading). Values are checked here as far as they can be without a machine or data.
"""

from __future__ import annotations

from dataclasses import dataclass

from job.config import folders, lengths
from job.config.options import option

MONITORS = ("log_loss", "accuracy", "auc", "brier")
RISING = ("accuracy", "auc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the images are."""

    data: str = option(
        "", "images (folder, zip, tar, CSV, gs://..., s3://..., kaggle:..., https://...) or prepared shards (folder, gs://..., s3://...)",
        metavar="SOURCE", first=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a source is read where it does not say it itself."""

    path_column: str = option("", "column of a CSV with the images' paths; by default found by its name", metavar="NAME")
    label_column: str = option("", "column of a CSV with the classes; by default found by its name", metavar="NAME")
    zip_encoding: str = option("", "encoding of names in archives that are not UTF-8: gbk, shift_jis, cp850...", metavar="NAME")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """How images become shards."""

    side: int = option(160, "short side of stored images; smaller images are not enlarged", unit="px", low=8, high=4096)
    val: float = option(0.1, "validation share, for sources without a validation split", low=0, high=0.9, first=True)
    test: float = option(0.0, "test share, for sources without a test split", low=0, high=0.9)
    positive: str = option("", "positive class; by default the second in alphabetical order")
    levels: str = option("full", "16-bit images: full, auto (stretches values below 4,096) or MIN:MAX", metavar="full|auto|MIN:MAX")
    classes: tuple[str, ...] = option((), "the two classes; images of others are skipped", metavar="A,B")
    max_bad: float = option(0.01, "largest share of corrupt images accepted", low=0, high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The network."""

    model: str = option("residual", "network architecture", choices=("classic", "residual"), result=True, first=True)
    size: int | None = option(
        None, "input size", unit="px", auto="96 (residual), 256 (classic)", low=16, high=2048, result=True, first=True
    )  # fmt: skip
    filters: tuple[int, ...] | None = option(
        None, "filters per stage", auto="64,128,256 (residual), 32,64,128 (classic)", low=1, result=True
    )
    depth: int = option(1, "convolutions per block (classic), residual blocks per stage (residual)", low=1, high=32, result=True)
    kernel: int = option(3, "kernel size of the convolutions", unit="px", low=1, high=15, result=True)
    batchnorm: bool = option(True, "batch normalization (classic; residual always uses it)", result=True)
    dropout: float = option(
        0.0, "dropout rate: after each dense layer (classic), before the head (residual)", low=0, high=0.95, result=True
    )
    dense: tuple[int, ...] = option((128, 64), "units of the dense layers (classic)", low=1, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Augmentation of training images, on the device."""

    augment: float | None = option(
        None, "strength of all augmentations", auto="0.5 (residual), 0 (classic)", low=0, high=1, result=True, first=True
    )  # fmt: skip
    crop: float | None = option(
        None, "random crop: smallest share of the area kept", auto="by --augment", above=0, high=1, result=True
    )  # fmt: skip
    flip: float | None = option(None, "probability of a horizontal flip", auto="by --augment", low=0, high=1, result=True)
    rotate: float | None = option(None, "largest rotation", unit="degrees", auto="by --augment", low=0, high=45, result=True)
    brightness: float | None = option(None, "largest brightness change", auto="by --augment", low=0, high=0.9, result=True)
    contrast: float | None = option(None, "largest contrast change", auto="by --augment", low=0, high=0.9, result=True)
    saturation: float | None = option(None, "largest saturation change", auto="by --augment", low=0, high=0.9, result=True)
    erase: float | None = option(None, "probability of random erasing", auto="by --augment", low=0, high=1, result=True)
    mixup: float | None = option(None, "MixUp alpha; 0 is off", auto="by --augment", low=0, high=8, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """How gradients change the weights."""

    optimizer: str | None = option(
        None, "optimizer", auto="muon (residual), adam (classic)", choices=("sgd", "adam", "adamw", "muon"), result=True
    )
    lr: float | None = option(
        None, "peak learning rate", auto="sgd 0.1, adam and adamw 0.001, muon 0.05", above=0, result=True, first=True
    )  # fmt: skip
    momentum: float = option(0.9, "Nesterov momentum (sgd, muon), beta 1 (adam, adamw)", low=0, high=0.9999, result=True)
    weight_decay: float | None = option(
        None, "weight decay of the kernels; with muon of the head's alone", auto="sgd 0.0005, adamw and muon 0.05, adam 0",
        low=0, result=True,
    )  # fmt: skip
    clip: float = option(0.0, "clip gradients to this global norm; 0 is off", low=0, result=True)
    smoothing: float | None = option(None, "label smoothing", auto="0.1 (residual), 0 (classic)", low=0, high=0.5, result=True)
    class_weights: str = option("auto", "weight the loss by inverse class frequency", choices=("auto", "off"), result=True)
    ema: float | None = option(
        None, "decay of the moving average of the weights, which is what is validated; 0 is off",
        auto="0.995 (residual), 0 (classic)", low=0, high=0.99999, result=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Epochs, batch size, learning rate schedule, early stopping."""

    epochs: int = option(20, "number of epochs; sets the length of the schedule", low=1, result=True, first=True)
    batch: int | None = option(
        None, "global batch size", auto="256 (residual), 32 (classic), at most 1/8 of the images", low=1, result=True, first=True
    )  # fmt: skip
    warmup: float | None = option(
        None, "share of the steps used for learning rate warmup", auto="0.05 (residual), 0 (classic)", low=0, high=0.9, result=True
    )  # fmt: skip
    decay: str | None = option(
        None, "learning rate decay", auto="linear (residual), constant (classic)", choices=("linear", "cosine", "constant"), result=True
    )  # fmt: skip
    train_sizes: tuple[int, ...] | None = option(
        None, "training resolutions (progressive resizing)", unit="px",
        auto="1/2, 2/3 and 5/6 of --size (residual), --size (classic)", low=8, result=True,
    )  # fmt: skip
    grow_at: tuple[float, ...] | None = option(
        None, "shares of the steps at which the next training resolution starts", auto="0.45,0.8 for three resolutions, else even",
        above=0, high=1, result=True,
    )  # fmt: skip
    patience: int = option(0, "early stopping: epochs without a better --monitor; 0 is off", low=0, result=True)
    monitor: str = option("log_loss", "validation metric that selects the best checkpoint", choices=MONITORS, result=True)
    window: int | None = option(
        None, "training shards shuffled together; 0 is all", auto="0; of a bucket's beyond --cache-size, what half of it holds",
        low=0, result=True,
    )  # fmt: skip
    seed: int = option(1, "random seed", low=0, high=2**31 - 1, result=True)
    stop_after: int = option(0, "stop after N total epochs; the schedule is unchanged; 0 is off", low=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """The devices."""

    gpus: str = option("auto", "GPUs to use", metavar="auto|all|none|N|id:0,1", first=True)
    replicas: int | None = option(None, "replicas that share each batch", auto="one per GPU, 1 on a CPU", low=1, high=1024, result=True)
    precision: str | None = option(
        None, "training precision", auto="by the device, logged with its reason", choices=("float32", "bfloat16", "float16"), result=True
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine(Devices):
    """The devices and how they are used."""

    xla: bool = option(False, "compile with XLA", result=True)
    deterministic: bool | None = option(None, "bit-identical results", auto="on for a CPU, off for GPUs and --xla", result=True)
    threads: int | None = option(None, "TensorFlow threads", auto="the cores available to this process", low=1, high=4096, result=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Threads of the host."""

    workers: int | None = option(None, "threads that read and decode images", auto="the cores available to this process", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """What is kept on this machine of what lies elsewhere."""

    cache: str = option(
        "", "cache of shards; by default ~/.cache/twofold, and the run folder for those it prepares", metavar="DIR", parse=folders.folder
    )  # fmt: skip
    cache_size: str = option("20GB", "bound of the cache of what buckets hold", metavar="SIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed(Cache):
    """How images reach the device."""

    memory: float | None = option(None, "memory for decoded images", unit="GiB", auto="half of the free memory", low=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """Logging."""

    log_format: str = option("plain", "log lines as plain text, or as one JSON object each", choices=("plain", "json"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where the result goes."""

    out: str = option(
        "", "folder, gs://... or s3://... of the run, shards or sweep; the PNG file (visualize); by default a temporary folder (drill)",
        metavar="PATH", first=True, parse=folders.folder_or_bucket,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A look before the work."""

    dry_run: bool = option(False, "say what would be done, and exit (train runs three steps per training resolution for it)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Look):
    """Records, checkpoints, and looks before a run."""

    log_every: int = option(10, "steps between two records in metrics.jsonl", unit="steps", low=1)
    save_every: str = option(
        "60s", "interval between checkpoints within an epoch; a bare number is minutes", metavar="60s|10m|500steps|1epoch",
        parse=lengths.interval,
    )  # fmt: skip
    grace: str = option("12s", "longest time from SIGTERM to the exit (75), saved or not", metavar="TIME", parse=lengths.seconds)
    step_timeout: str = option(
        "15m", "exit (75) where a step, a batch or a save takes longer; 0 is off", metavar="TIME", parse=lengths.limit
    )  # fmt: skip
    notice: str = option(
        "auto", "cloud whose notice that the machine will go is a stop; auto is the one it runs in", choices=("auto", "gce", "ec2", "off")
    )  # fmt: skip
    show_augment: str = option("", "write a contact sheet of augmented images, and exit", metavar="FILE.png", parse=folders.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A training run. The tables of `config.toml` are these fields."""

    source: Source = Source()
    output: Output = Output()
    reading: Reading = Reading()
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
    """The search."""

    trials: int = option(50, "number of trials, the starting configuration included", low=2, first=True)
    engine: str = option("ray", "search engine", choices=("ray", "keras-tuner"), first=True)
    search: str | None = option(
        None, "search algorithm: tpe or random (ray, under ASHA); hyperband, bayesian or random (keras-tuner)",
        auto="tpe (ray), hyperband (keras-tuner)", choices=("tpe", "random", "hyperband", "bayesian"),
    )  # fmt: skip
    space: str = option("", "search space; by default the one that comes with twofold", metavar="FILE.toml", first=True)
    first_rung: int = option(1, "epochs before trials are first compared (ASHA)", low=1)
    reduction: int = option(3, "promote 1 in N trials; each rung is N times longer (ASHA, Hyperband)", low=2, high=16)
    time_budget: str = option("", "stop after this time, e.g. 90m or 2h; rerun to resume", metavar="TIME", first=True, parse=lengths.limit)
    concurrent: int | None = option(None, "trials in parallel", auto="as many as cores and GPUs allow (ray), 1 (keras-tuner)", low=1)
    gpus_per_trial: float | None = option(None, "GPUs per trial, or a share of one (ray)", auto="1 if there are GPUs, else 0", low=0)
    cpus_per_trial: int | None = option(None, "cores per trial, which are its --threads", auto="1 (ray), all (keras-tuner)", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig(Config):
    """`twofold sweep`: the starting configuration of all trials, and the search."""

    sweep: Sweep = Sweep()


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """`twofold prepare`."""

    output: Output = Output()
    reading: Reading = Reading()
    prepare: Prepare = Prepare()
    run: Look = Look()
    feed: Cache = Cache()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is evaluated."""

    split: str | None = option(None, "split to evaluate, or all", auto="validation; with --data, test", metavar="NAME")
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """`twofold evaluate`."""

    source: Source = Source()
    evaluation: Evaluation = Evaluation()
    reading: Reading = Reading()
    feed: Cache = Cache()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How predictions are printed."""

    format: str = option("table", "output format", choices=("table", "csv", "jsonl"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """`twofold predict`."""

    format: Format = Format()
    reading: Reading = Reading()
    feed: Cache = Cache()
    work: Work = Work()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualizeConfig:
    """`twofold visualize`."""

    output: Output = Output()
    feed: Cache = Cache()
    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeConfig:
    """`twofold smoke`."""

    log: Log = Log()


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """The kills."""

    kills: int = option(5, "how often the job is killed and started again", low=1, high=1000)
    kill_seed: int = option(1, "seed of the points at which it is killed", low=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrillConfig:
    """`twofold drill`."""

    source: Source = Source()
    output: Output = Output()
    drill: Drill = Drill()
    machine: Devices = Devices()
    log: Log = Log()
