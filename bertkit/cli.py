"""The command line: run, predict, evaluate, inspect, init, schema, plugins."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from itertools import tee
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from bertkit.errors import BertkitError, DataError, SpecError

P = ParamSpec("P")

app = typer.Typer(
    name="bertkit",
    help="Fine-tune BERT-family encoders to classify text: one spec, one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plugins_app = typer.Typer(help="Installed plugins.", no_args_is_help=True)
app.add_typer(plugins_app, name="plugins")

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Keep = Annotated[
    str | None,
    typer.Option("--keep", help="What to keep of long texts: head, tail or head+tail."),
]
TextColumn = Annotated[
    list[str] | None,
    typer.Option("--text", help="Column of the text; twice for a pair. As in training by default."),
]


class Interrupted(BertkitError):
    """Ctrl-C; the message tells how to go on."""

    exit_code = 130


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into a few lines and an exit code."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except BertkitError as error:
            from bertkit.console import err, printable

            if kwargs.get("debug"):
                err.print(printable(traceback.format_exc()), markup=False)
            err.print(f"error: {printable(str(error))}", style="red", markup=False)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            from bertkit.console import err

            err.print("interrupted", style="red")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has gone, as in `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return guarded


def _version(wanted: bool) -> None:
    if wanted:
        from bertkit import __version__

        typer.echo(f"bertkit {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Leave installed plugins alone.")
    ] = False,
) -> None:
    if no_plugins:
        from bertkit.registry import Registry, use

        use(Registry(plugins=False))


@app.command()
@command
def run(
    spec: Annotated[Path, typer.Argument(help="Spec of the run, YAML or JSON.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field: trainer.epochs=1"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this run was stopped.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that the output holds.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Reach no network.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn a spec into a classifier."""
    from bertkit.console import err, scores_table, start_log
    from bertkit.spec import RunSpec

    progress = start_log(quiet=quiet, debug=debug)
    overrides = [*(set_ or ()), *(["offline=true"] if offline else ())]
    parsed = RunSpec.from_file(spec, overrides)
    from shlex import quote

    from loguru import logger

    logger.info(f"spec: {spec}")  # before the libraries load, which takes seconds
    from bertkit import engine

    parsed = engine.complete(parsed, resume=resume)
    try:
        result = engine.run(parsed, resume=resume, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        kept = Path(str(parsed.output), "spec.yaml")
        line = f"bertkit run {quote(str(kept))} --resume"
        advice = f"go on with: {line}" if kept.is_file() else "nothing was computed yet"
        raise Interrupted(f"interrupted; {advice}") from None
    scores_table(result.metrics)
    if not quiet:
        err.print(f"\nmodel    {result.model_dir}", markup=False)
        texts = '"a text"' if len(parsed.dataset.text_columns) == 1 else '"a text" "another"'
        err.print(f"predict  bertkit predict {quote(result.model_dir)} {texts}", markup=False)


@app.command()
@command
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model or run directory.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Texts in csv, tsv, json lines, parquet or txt.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write: .jsonl, .csv or .tsv.")
    ] = None,
    text: TextColumn = None,
    step: Annotated[int | None, typer.Option("--step", help="Use this checkpoint.")] = None,
    keep: Keep = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 32,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Classify texts: from the command line, a file, standard input, or typed in until `q`.

    A model of pairs takes the texts two by two; in lines a tab stands between them.

    Several labels of a text have a | between them, and so have their scores. In csv and tsv a text
    that a spreadsheet would take for a formula gets a ' in front.
    """
    from bertkit.predicting import TABLES, Sink, check_out, read_texts, text_columns

    if texts and file:
        raise SpecError("give texts or --file, not both")
    if text and not file:
        raise SpecError("--text names a column of --file, which is not given")
    typed_in = not texts and not file and sys.stdin.isatty()
    if typed_in and out:
        raise SpecError("--out needs texts: give them, or --file, or a pipe")
    policy = _keep(keep)
    check_out(out, TABLES)
    from bertkit.artifact import load
    from bertkit.console import start_log

    start_log(quiet=quiet, debug=debug)
    classifier = load(folder, step=step)
    if typed_in:
        _converse(classifier, policy)
        return
    columns = text_columns(classifier, text)
    if texts and len(texts) % len(columns):
        count = "one text" if len(texts) == 1 else f"{len(texts)} texts"
        raise DataError(
            f"the model reads pairs of texts, found {count}; give two for each pair, in quotes"
        )
    source: Iterable[Any] = texts or read_texts(file, columns)
    if texts and len(columns) > 1:
        source = zip(texts[::2], texts[1::2], strict=True)
    with Sink(out, classifier.task) as write:
        read, asked = tee(source)
        answers = classifier.stream(asked, batch_size=batch_size, keep=policy)
        for one, found in zip(read, answers, strict=True):
            write(one, found)


def _keep(value: str | None) -> Literal["head", "tail", "head+tail"] | None:
    if value in (None, "head", "tail", "head+tail"):
        return value  # type: ignore[return-value]
    raise SpecError(f"--keep: found {value!r}; expected head, tail or head+tail")


def _converse(classifier: Any, keep: Any) -> None:
    from bertkit.console import err, out, printable

    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` arrow keys and a history
    task = classifier.task
    names = ", ".join(map(printable, task.labels))
    err.print(f"{task.noun.lower()}: {names}; q to leave", markup=False)
    prompts = ["first> ", "second> "] if classifier.pairs else ["text> "]
    texts: list[str] = []
    while True:
        try:
            line = input(prompts[len(texts)] if out.is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt) as end:
            err.print()
            if isinstance(end, KeyboardInterrupt):
                raise
            break
        if line == "q":
            break
        texts += [line] if line else []
        if len(texts) < len(prompts):
            continue
        one, texts = texts, []
        try:
            found = classifier.predict([tuple(one) if classifier.pairs else one[0]], keep=keep)[0]
        except DataError as error:
            err.print(f"error: {error}", style="red", markup=False)
            continue
        out.print(f"{printable(task.answer(found))}  {task.figures(found)}", markup=False)


@app.command()
@command
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model or run directory.")],
    data: Annotated[Path, typer.Argument(help="Labelled texts: csv, tsv, json lines, parquet.")],
    text: TextColumn = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="Column of the label; again for each further one. As in training by default.",
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            "--separator",
            help="What stands between the labels in one column. As in training by default.",
        ),
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="Use this checkpoint.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write scores and tables to this JSON file.")
    ] = None,
    show: Annotated[
        int, typer.Option("--show", min=0, help="Show so many texts, their labels and predictions.")
    ] = 0,
    keep: Keep = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a saved model on labelled texts."""
    from bertkit.artifact import load
    from bertkit.console import printable, scores_table, start_log, table
    from bertkit.predicting import check_out, evaluate_file, write_json

    policy = _keep(keep)
    check_out(out, (".json",))
    start_log(quiet=quiet, debug=debug)
    classifier = load(folder, step=step)
    scores, rows = evaluate_file(
        classifier, data, text=text, label=label, separator=separator, keep=policy
    )
    if out:
        write_json(out, {"metrics": scores.metrics, "report": scores.report, "texts": scores.texts})
    scores_table({data.name: scores.metrics})
    if show:
        cut = [[printable(" ".join(cell.split()))[:80] for cell in row] for row in rows[:show]]
        table("", ["text", "label", "predicted"], cut)


@app.command()
@command
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model or run directory.")],
    debug: Debug = False,
) -> None:
    """Tell what a run or model directory contains, without loading weights or plugins."""
    from bertkit.console import printable, table
    from bertkit.predicting import describe

    table("", ["what", "value"], [[key, printable(value)] for key, value in describe(folder)])


@app.command()
@command
def init(
    data: Annotated[Path, typer.Argument(help="Your labelled texts: csv, tsv, json lines, …")],
    spec: Annotated[Path, typer.Argument(help="The spec to write.")] = Path("run.yaml"),
    encoder: Annotated[
        str, typer.Option("--encoder", help="Encoder to start from.")
    ] = "bert-base-uncased",
    debug: Debug = False,
) -> None:
    """Write a first spec for a table of labelled texts."""
    from bertkit.console import err
    from bertkit.predicting import first_spec

    if spec.exists():
        raise SpecError(f"{spec}: is there already; give another name")
    content = first_spec(data, spec, encoder)
    try:
        spec.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"{spec}: cannot be written ({error.strerror}); choose another place"
        ) from None
    err.print(f"wrote {spec}; start it with: bertkit run {spec}", markup=False)


@app.command()
@command
def schema(debug: Debug = False) -> None:
    """Print the JSON Schema of a spec, with the fields of installed plugins."""
    import json

    from bertkit.spec import schema as make

    typer.echo(json.dumps(make(), ensure_ascii=False, indent=2))


@plugins_app.command("list")
@command
def plugins_list(debug: Debug = False) -> None:
    """Show every component: kind, name, distribution, version, file; and what is wrong."""
    from bertkit.console import err, table
    from bertkit.registry import registry

    found = registry()
    rows = [
        [r.kind, r.name, r.origin.distribution, r.origin.version, r.file]
        for r in found.everything()
    ]
    table("", ["kind", "name", "distribution", "version", "file"], rows)
    for problem in found.problems:
        err.print(f"problem: {problem}", style="yellow", markup=False)
    for clash in found.clashes():
        err.print(f"problem: {clash}", style="yellow", markup=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app(args=arguments)
