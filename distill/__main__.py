"""The `distill` command: `distill run RECIPE`, a word for each stage, `fetch`, `probe`, `shape`, `inspect`, `teachers`, `explain`,
and for the result `compare`, `chat`, `serve`, `bench`.

Exit status: 0 done, 1 a teacher that `probe` finds unfit, 2 a mistake that the message tells how to mend (on
every rank of a launch), 75 another rank hung or has ended, 130 stopped by a signal,
141 nobody reads the output any more.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill import generate, pipeline, report
from distill.core import terminal
from distill.errors import DistillError, RecipeError, Stopped
from distill.pipeline import STAGES
from distill.recipe import Recipe, advising, explain, in_full, load_recipe


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="distill", description="From a large open teacher to a small, verified student."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run every stage that is not done")
    run.add_argument("--stages", metavar="A,B", help="only these stages, e.g. generate,capture")
    _add_recipe(run, "train.learning_rate=1e-4")
    _add_redo(run)
    for stage in STAGES:
        command = commands.add_parser(stage.name, help=stage.summary)
        _add_recipe(command, "train.learning_rate=1e-4")
        if stage.shared:
            command.add_argument(
                "--shard",
                metavar="I/N",
                type=_shard,
                help=argparse.SUPPRESS
                if not stage.asks_teacher
                else "only the I-th of N shares, for independent jobs; auto: "
                "what no other job on this run folder has claimed, for any number of them",
            )
        if stage is generate.STAGE:
            command.add_argument(
                "--estimate",
                nargs="?",
                const=8,
                type=_positive,
                metavar="N",
                help="only ask N prompts (default 8; generate asks none of them again) and say "
                "what the others will take",
            )
        if stage is report.STAGE:
            command.add_argument(
                "--open", action="store_true", help="open the page in the default browser"
            )
        _add_redo(command)
    _add_inspection(commands)
    _add_shape(commands)
    _add_deployment(commands)
    return top


def _add_recipe(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument("recipe", metavar="RECIPE.yaml")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],  # without it argparse says that some are required
        metavar="dotted.path=value",
        help=f"e.g. {example}",
    )


def _add_redo(command: argparse.ArgumentParser) -> None:
    names = [stage.name for stage in STAGES]
    command.add_argument("--redo", choices=names, help="make this stage and those after it anew")


def _add_inspection(commands: Any) -> None:
    """Add the commands that tell something, or fetch it, and make no stage."""
    fetch = commands.add_parser(
        "fetch",
        help="bring the models and data sets of a recipe here, so that it runs without a network",
    )
    _add_recipe(fetch, "teacher.revision=main")
    fetch.add_argument(
        "--plan", action="store_true", help="only say what, how much, and what is here already"
    )
    probe = commands.add_parser(
        "probe",
        help="ask the teacher a few prompts in each language: is it fit to teach it? (1 = unfit)",
    )
    _add_recipe(probe, "teacher.model=Qwen/Qwen3-4B")
    probe.add_argument(
        "--num", type=_positive, default=200, help="prompts for each language at most (default 200)"
    )
    inspect = commands.add_parser(
        "inspect", help="kept and dropped samples side by side, counts by reason and language"
    )
    inspect.add_argument("run", metavar="RUN", help="a run folder, or the recipe that made it")
    inspect.add_argument("--language", metavar="CODE", help="only this language")
    inspect.add_argument(
        "--reason", metavar="NAME", help="only samples dropped for this, e.g. wrong_language"
    )
    inspect.add_argument(
        "--num", type=_positive, default=3, help="pairs for each language (default 3)"
    )
    compare = commands.add_parser(
        "compare", help="finished runs side by side: recipes, figures, sizes, times; and a page"
    )
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or their recipes")
    compare.add_argument(
        "--page",
        metavar="FILE",
        default="compare.html",
        help="where the page is written (default compare.html)",
    )
    compare.add_argument("--open", action="store_true", help="open the page in the default browser")
    teachers = commands.add_parser(
        "teachers", help="the catalogue: which teachers fit this machine, what their licences allow"
    )
    teachers.add_argument("model", nargs="?", help="one of them whole, e.g. Qwen/Qwen3-8B")
    explain = commands.add_parser(
        "explain", help="what a recipe field means, e.g. `distill explain train.schedule`"
    )
    explain.add_argument("field", nargs="?", default="")


def _add_shape(commands: Any) -> None:
    shape = commands.add_parser(
        "shape",
        help="which student? those that fit student.budget_mb race, each distilled for a short while",
    )
    _add_recipe(shape, "student.budget_mb=500")
    shape.add_argument(
        "--tokens",
        type=_positive,
        metavar="N",
        help="that each learns (default: so many that the race takes about an hour)",
    )
    shape.add_argument(
        "--target",
        metavar="MACHINE",
        help="also estimate the tokens a second there, e.g. 'Raspberry Pi 5'",
    )
    shape.add_argument(
        "--only", metavar="A,B", help="only these of the candidates, e.g. trimmed,trimmed+nll14"
    )
    shape.add_argument("--plan", action="store_true", help="only say who races and how long")
    shape.add_argument("--redo", action="store_true", help="let all race anew")
    shape.add_argument(
        "--write", action="store_true", help="write the winner into the recipe's section student"
    )


def _add_deployment(commands: Any) -> None:
    """Add the commands for the files that quantize wrote."""
    chat = commands.add_parser("chat", help="talk to the result in the terminal, on the CPU")
    serve = commands.add_parser(
        "serve", help="an OpenAI-compatible server (llama.cpp's) on the result"
    )
    bench = commands.add_parser(
        "bench", help="size, memory and speed of the result's files on this machine"
    )
    for command in (chat, serve, bench):
        command.add_argument("run", metavar="RUN", help="a run folder, or the recipe that made it")
        default = "every GGUF file" if command is bench else "the smallest that passed its check"
        command.add_argument("--format", metavar="NAME", help=f"e.g. q4_k_m (default: {default})")
        command.add_argument(
            "--threads",
            type=_positive,
            metavar="N",
            help="default: quantize.threads, or fewer while other processes are at work; "
            "bench: at most so many",
        )
    bench.add_argument(
        "--target", metavar="MACHINE", help="also an estimate for another, e.g. 'Raspberry Pi 5'"
    )
    for command in (chat, serve):
        command.add_argument(
            "--context",
            type=_positive,
            metavar="N",
            help="tokens (default 4096, or what the student takes)",
        )
    serve.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: this machine alone")
    serve.add_argument(
        "--port", type=_port, default=8080, help="default 8080; 0 = any that is free"
    )


def read(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line's options.

    Overrides may stand before and after `--redo` and the like; argparse alone wants them before.
    """
    top = parser()
    options, rest = top.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-") or "overrides" not in options]:
        top.error(
            f"unknown: {' '.join(unknown)}; `distill {options.command} --help` lists the options"
        )
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal without Chinese is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    with terminal.guarded():
        return _status(read(argv))


def _status(options: argparse.Namespace) -> int:
    """Run the command; return the exit status, and say why where it does not end well."""
    try:
        status = _command(options)
        sys.stdout.flush()
        return status
    except Stopped as error:
        _say(error)
        return 130
    except KeyboardInterrupt:  # where no stage listens: nothing is half-written
        _say("stopped by Ctrl-C")
        return 130
    except BrokenPipeError:  # `| head` has read enough; Python would complain once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except DistillError as error:
        _say(error)
        return 2


def _command(options: argparse.Namespace) -> int:
    if options.command == "explain":
        print(explain(options.field))
        return 0
    if options.command == "fetch":
        return _fetch(options)
    if options.command == "probe":
        return _probe(options)
    if options.command == "shape":
        return _shape(options)
    if options.command == "inspect":
        return _inspect(options)
    if options.command == "compare":
        return _compare(options)
    if options.command in ("chat", "serve", "bench"):
        return _deploy(options)
    if options.command == "teachers":
        print(_teachers(options.model))
        return 0
    return _run(options)


def _teachers(model: str | None) -> str:
    from distill.planning import teacher_list
    from distill.planning.machine import room_for_models

    room = room_for_models()
    return teacher_list.table(room) if model is None else teacher_list.show_model(model, room)


def _run(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.overrides)
    if getattr(options, "estimate", None):
        return _estimate(options, recipe)
    stages = _stages(options.stages) if options.command == "run" else [options.command]
    if getattr(options, "shard", None) is not None:
        if options.redo:
            raise RecipeError(
                "--shard and --redo: redo the stage once, without --shard, before the jobs start"
            )
        pipeline.run_shard(recipe, options.command, options.shard or None)
        return 0
    began = datetime.now(UTC).isoformat(timespec="seconds")
    result = pipeline.run(recipe, stages=stages, redo=options.redo)
    if _is_main() and options.command == "plan":
        planned = result.manifests["plan"]
        if planned.finished < began:
            print(
                f"planned at {planned.finished}, for what this machine had then: --redo plan plans anew"
            )
        print(planned.result.text)
    elif _is_main() and (stages is None or "report" in stages):
        print(result.text)
        print(f"report: {result.report}")
        if getattr(options, "open", False):
            from distill.reporting.opening import open_page

            print(open_page(result.report))
    return 0


def _estimate(options: argparse.Namespace, recipe: Recipe) -> int:
    if options.shard is not None or options.redo:
        raise RecipeError("--estimate runs no stage: give it without --shard and --redo")
    from distill.pilot import estimate

    if found := estimate.run(recipe, num=options.estimate):
        print(estimate.text_of_all(recipe, found))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from distill.pilot import fetch

    fetch.run(load_recipe(options.recipe, options.overrides), only_plan=options.plan)
    return 0


def _probe(options: argparse.Namespace) -> int:
    from distill.pilot import probe

    recipe = load_recipe(options.recipe, options.overrides)
    verdicts = probe.run(recipe, num=options.num)
    if verdicts:
        print(probe.text(recipe, verdicts))
    return int(any(v.word == "unfit" for v in verdicts))


def _shape(options: argparse.Namespace) -> int:
    from distill.race import report, write
    from distill.race.stored import Wishes

    if options.plan and options.write:
        raise RecipeError("shape: --write and --plan: a plan has no winner; leave out one of them")
    recipe = load_recipe(options.recipe, options.overrides)
    target = None
    if options.target is not None:
        from distill.deploy import targets

        target = targets.target(options.target)
    only = None if options.only is None else tuple(options.only.split(","))
    wishes = Wishes(options.tokens, only)
    with advising(recipe):
        outcome = None
        if not (options.redo or options.plan):
            outcome = report.finished(recipe, wishes)
        if outcome is None:
            from distill.race import shape

            outcome = shape.run(recipe, wishes=wishes, only_plan=options.plan, redo=options.redo)
        if outcome is None:
            return 0
        print(in_full(report.text(outcome, target), recipe))
        if options.write:
            print(write.write(recipe, outcome))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from distill.core.named_run import open_run
    from distill.reporting import data

    what = {"language": options.language, "reason": options.reason, "num": options.num}
    samples = Path(options.run).expanduser() / "generate"
    if samples.is_dir() and not (samples.parent / "recipe.yaml").exists():
        data.show(samples, **what)  # carried here without its recipe: nothing can be advised for it
        return 0
    recipe, folder = open_run(options.run)
    with advising(recipe):
        data.show(folder.stage("generate"), **what)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from distill.reporting.compare import compare, comparison_text
    from distill.reporting.compare_page import comparison_page, write_page
    from distill.reporting.opening import open_page

    comparison = compare(options.runs)
    page = Path(options.page).expanduser()
    write_page(page, comparison_page(comparison))
    print(comparison_text(comparison))
    print(f"page: {page}")
    if options.open:
        print(open_page(page))
    return 0


def _deploy(options: argparse.Namespace) -> int:
    if options.command == "bench":
        from distill.deploy.bench import bench

        bench(
            options.run,
            format_name=options.format,
            target_name=options.target,
            num_threads=options.threads,
        )
        return 0
    from distill.core.cores import usual_threads
    from distill.deploy.choose import choose
    from distill.llama_cpp.threads import spare_threads

    chosen = choose(options.run, options.format)
    common = {
        "num_threads": options.threads
        or spare_threads(chosen.recipe.quantize.threads or usual_threads()),
        "context_length": options.context,
    }
    if options.command == "chat":
        from distill.deploy.chat import talk

        talk(chosen, **common)
    else:
        from distill.deploy.serve import serve

        serve(chosen, host=options.host, port=options.port, **common)
    return 0


def _stages(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = text.split(",")
    known = [stage.name for stage in STAGES]
    if unknown := [name for name in names if name not in known]:
        raise RecipeError(f"--stages: {unknown[0]!r} is not a stage; they are {', '.join(known)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to 65535")
    return int(text)


def _shard(text: str) -> tuple[int, int] | tuple[()]:
    """Read `2/4` as (1, 4), and auto as ()."""
    if text == "auto":
        return ()
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not I/N with 1 <= I <= N, e.g. 2/4, nor auto"
        )
    return int(number) - 1, int(count)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(error: DistillError | str) -> None:
    print(f"distill: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
