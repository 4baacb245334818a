"""What leaves this machine: which servers are asked, where they are, how much they get."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from urllib.parse import urlsplit

from distill.catalog.servers import known_servers
from distill.conduct.sets import requests_of
from distill.data.routes import routed
from distill.data.samples import Prompt
from distill.errors import RecipeError
from distill.privacy import local_addresses
from distill.privacy.countries import countries_of
from distill.privacy.personal_data import find
from distill.recipe import Recipe

MOST_READ = 5_000  # prompts in which personal data is looked for: a quarter of a millisecond each


@dataclass(frozen=True)
class Destination:
    """A server that the recipe asks. `field` names its address in the recipe.

    `route`: the name of the one of several teachers that it is; None: it is sent all prompts.
    `requests`: of evaluate.safety, which it is sent as well. `gets_answers`: whether it is also sent
    those prompts whose rows have the answer, and that.
    """

    field: str
    url: str
    what: str
    route: str | None = None
    requests: Sequence[Prompt] = ()
    gets_answers: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url


def destinations(recipe: Recipe) -> list[Destination]:
    """Return the servers that are sent prompts or answers."""
    found = []
    requests = requests_of(recipe)
    for number, view in enumerate(recipe.views):
        if view.teacher.server is not None:
            what = f"every prompt of {view.route}'s" if view.route else "every prompt"
            if view.capture.scores_answers:
                what = f"{what}, with each kept answer to be scored"
            if recipe.rounds is not None and recipe.capture.from_server:
                what = f"{what}, and every answer of the student to be scored"
            own = requests.get(view.route, []) if view.teacher.answers_on_server else []
            if view.teacher.answers_on_server:
                what += _asked_beside_prompts(recipe, len(own), is_judge=number == 0)
            field, route = f"{view.teacher_section}.server", view.route or None
            reads = _reads_answers(view, is_judge=number == 0)
            found.append(Destination(field, view.teacher.server, what, route, own, reads))
    if recipe.generate.judge_server is not None:
        url, what = recipe.generate.judge_server, "every prompt with its answer"
        what += _judged(recipe)
        shown = [*chain(*requests.values())] if _judged(recipe) else []
        where = "generate.judge_server"
        found.append(Destination(where, url, what, requests=shown, gets_answers=True))
    return found


def _reads_answers(view: Recipe, *, is_judge: bool) -> bool:
    """Return whether a teacher's server is sent answers that it did not write, to score or to judge."""
    if is_judge and view.generate.teacher_judges:
        return True
    in_rounds = view.whole.rounds is not None and view.capture.from_server
    return view.capture.scores_answers or bool(in_rounds)


def _asked_beside_prompts(recipe: Recipe, num_requests: int, *, is_judge: bool) -> str:
    """Return what a teacher is asked beside the prompts, as the end of a list."""
    asked = f", and the {num_requests:,} requests of evaluate.safety" if num_requests else ""
    if is_judge and recipe.generate.judge_server is None:
        if recipe.generate.teacher_judges:
            asked += ", and each answer with its prompt to be judged"
        asked += _judged(recipe)
    return asked


def _judged(recipe: Recipe) -> str:
    """Return what the judge gets of `evaluate.safety`, as the end of a list."""
    safety = recipe.evaluate.safety
    if safety is None or not safety.judge:
        return ""
    return ", and the student's answers to the requests of evaluate.safety"


def check_destinations(recipe: Recipe) -> None:
    """Raise RecipeError where `privacy: local` is to keep everything here, and a server is not."""
    if recipe.privacy != "local":
        return
    for destination in destinations(recipe):
        if problem := local_addresses.problem_of(destination.url):
            raise RecipeError(
                f"{recipe.source}: privacy: local, and {destination.field}: {problem}: name a "
                "server of this machine or its own network, or set privacy to redact or open"
            )


def text_of_destinations(
    recipe: Recipe, prompts: Sequence[Prompt], held_out: Sequence[Prompt]
) -> list[str]:
    """Return the plan's lines on what leaves this machine."""
    asked = destinations(recipe)
    if not asked:
        return ["leaves this machine: no prompt and no answer (no server is asked)"]
    # the teacher is asked all of these, also where models are scored on an answer that is given
    everything = [*prompts, *(replace(prompt, answer=None) for prompt in held_out)]
    parts = {None: everything, **routed(recipe, everything)}
    lines = []
    for destination in asked:
        sent = [*_sent(destination, parts[destination.route]), *destination.requests]
        size = sum(len(prompt.text_with_answer.encode()) for prompt in sent)
        lines.append(
            f"leaves this machine: {destination.what} ({len(sent):,} conversations, "
            f"{_megabytes(size)}) to {destination.host}: {_whereabouts(destination)}"
        )
    leaving = [p for one in asked for p in [*_sent(one, parts[one.route]), *one.requests]]
    lines.append(_personal_data(recipe, list({p.text_with_answer: p for p in leaving}.values())))
    return lines


def _sent(destination: "Destination", prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return those of the prompts that it is sent; with their answers, where these are given."""
    return [p for p in prompts if not p.is_given or destination.gets_answers]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _whereabouts(destination: Destination) -> str:
    """Return whose a host is and where it keeps what it gets, as far as the catalogue knows."""
    known = known_servers()
    row = known.by_host.get(destination.host)
    if row is None:
        if _is_here(destination):
            return "this machine or its own network"
        return "whose that is, in which country, and under which terms is not known to distill"
    kept = f"kept in {row.kept_in}" if row.kept_in else "where it keeps them is not known"
    passed = "; hands requests on to other firms" if row.passes_on else ""
    return f"{row.operator}, {kept}{passed} ({row.checked}, {known.as_of}; read its terms)"


def _is_here(destination: Destination) -> bool:
    try:
        addresses = local_addresses.addresses_of(destination.host)
    except OSError:
        return False
    return not local_addresses.foreign(addresses)


def _personal_data(recipe: Recipe, prompts: Sequence[Prompt]) -> str:
    """Return what was found in the prompts, and what becomes of it."""
    countries = countries_of(recipe.languages)
    kinds: Counter[str] = Counter()
    num_prompts = 0
    step = max(1, len(prompts) // MOST_READ)
    read = prompts[::step][:MOST_READ]  # from all over the list
    for prompt in read:
        findings = find(prompt.text_with_answer, countries)
        kinds.update(finding.kind for finding in findings)
        num_prompts += bool(findings)
    looked_at = f"{len(read):,} of {len(prompts):,}" if len(read) < len(prompts) else "all"
    if not num_prompts:
        return f"personal data: none found in {looked_at} prompts, by patterns and check digits"
    counts = ", ".join(f"{count:,} {_NAMES[kind]}" for kind, count in kinds.most_common())
    becomes = {
        "open": "it is sent as it is: privacy=redact replaces it before sending, privacy=local "
        "sends nothing outside",
        "redact": "replaced before sending, and put back in the answers",
        "local": "it stays on this machine and its network",
    }[recipe.privacy]
    return (
        f"personal data: what looks like it in {num_prompts:,} prompts ({looked_at} were read): "
        f"{counts}; {becomes}"
    )


_NAMES = {
    "email": "e-mail addresses",
    "phone": "telephone numbers",
    "card": "card numbers",
    "iban": "bank accounts",
    "id": "identity numbers",
}
