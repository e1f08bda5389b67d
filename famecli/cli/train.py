"""`fame train`."""

import typer

from famecli.cli import options
from famecli.cli import train_options as own
from famecli.cli.groups import Network, join
from famecli.cli.sources import CheckpointSource, DataSource
from famecli.cli.train_request import Request, configure
from famecli.cli.train_run import follow, prepare
from famecli.cli.train_track import check_tracker
from famecli.config.resolve import to_toml
from famecli.errors import UsageError
from famecli.output import Output

STDOUT = "-"


def train(
    context: typer.Context,
    model: own.Model = "fame",
    dataset: options.Dataset = None,
    data: options.Data = None,
    size: own.ModelSize = "small",
    config: own.Config = None,
    assignments: own.Assignments = None,
    print_config: own.PrintConfig = False,
    dry_run: own.DryRun = False,
    images: own.Images = None,
    epochs: own.Epochs = None,
    steps: own.Steps = None,
    budget: own.Budget = None,
    batch_size: own.TrainBatchSize = "auto",
    accumulate: own.Accumulate = 1,
    lr: own.Lr = None,
    ema: own.Ema = None,
    precision: own.Precision = "auto",
    compile: own.Compile = False,
    out: own.Out = None,
    resume: own.Resume = "auto",
    init: own.Init = None,
    save_every: own.SaveEvery = "10m",
    eval_every: own.EvalEvery = None,
    keep: own.Keep = 0,
    sample_every: own.SampleEvery = None,
    preview: own.Preview = False,
    log: own.Log = None,
    track: own.Track = None,
    patience: own.Patience = None,
    max_time: own.MaxTime = None,
    seed: own.TrainSeed = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model. Prints the path of the best checkpoint; running the same command again goes on.

    Exit code 75: stopped by --max-time or SIGTERM with everything saved; 130: the same by Ctrl-C.

    Examples:

      fame train fame --dataset mnist --size tiny -o run/

      fame train fame --dataset mnist --budget 10m -o run/

      fame train pixelcnn --size small --epochs 4 --max-time 1h -o run/

      fame train fame --size small --set free_nats=2 --set decoder.layers=8 --dry-run

      torchrun --nproc-per-node 8 -m famecli train fame --size paper --dataset cifar10 -o run/
    """
    _act(own.Asked(**locals()))


def _act(asked: own.Asked) -> None:
    """Print the configuration, or what a few steps predict, or train."""
    output = Output(json=asked.json, quiet=asked.quiet)
    network = Network(offline=asked.offline, cache_dir=asked.cache_dir)
    request = configure(asked, DataSource(data=asked.data, network=network))
    if asked.print_config:
        config = request.config
        if request.open_budget_s is not None:
            config = request.trainer(output, join(output), blank=True).config
        typer.echo(to_toml(request.model, config), nl=False)
        return
    _check_streams(asked)
    if not asked.dry_run:
        _train(request, output)
        return
    from famecli.cli.dry_run import predict

    group = join(output)
    predict(request.trainer(output, group, blank=True), output)


def _check_streams(asked: own.Asked) -> None:
    if asked.log not in (None, STDOUT):
        raise UsageError(f"--log {asked.log!r}: metrics are in metrics.jsonl", "write --log - for stdout")
    if asked.log and asked.json:
        raise UsageError("--json and --log - both want stdout", "leave one of them out")
    if asked.preview and asked.sample_every is None:
        raise UsageError("--preview shows samples of the training", "add --sample-every IMAGES")
    check_tracker(asked.track)


def _train(request: Request, output: Output) -> None:
    asked, place = request.asked, request.place
    max_time_s = None if asked.max_time is None else options.seconds(asked.max_time)
    save_every_s = options.seconds(asked.save_every)
    if not save_every_s:
        raise UsageError("--save-every 0 would do nothing but save", "write for example 10m")
    group = join(output)
    run = request.run(output, group, save_every_s)
    init = CheckpointSource(checkpoint=asked.init, network=place.network) if asked.init else None
    prepare(run, asked.resume, init, output)
    follow(run, output, max_time_s, stream=asked.log == STDOUT, track=asked.track is not None)
