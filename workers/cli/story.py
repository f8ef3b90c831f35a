"""The story of one run for people at a terminal."""

from rich.text import Text

from models import State
from workers.calls import Calls
from workers.cli.tables import Columns, console, printable, show
from workers.life import why
from workers.logs import redact_text
from workers.moments import exactly, span
from workers.story import Story, facts

COLUMNS = {
    "attempt": lambda attempt: attempt["number"],
    "outcome": lambda attempt: attempt["outcome"],
    "started": lambda attempt: exactly(attempt["started_at"]),
    "took": lambda attempt: span(attempt["seconds"]),
    "error": lambda attempt: attempt["error"],
}

CALLS: Columns = {
    "attempt": lambda call: call.attempt,
    "call": lambda call: f"{call.upstream} {call.method} {call.template}",
    "outcome": lambda call: call.told,
    "began": lambda call: exactly(call.began_at),
    "took": lambda call: None if call.milliseconds is None else f"{call.milliseconds:,} ms",
    "tries": lambda call: call.tries,
    "idempotency key": lambda call: call.idempotency_key,
    "their request id": lambda call: call.request_id,
}


def tell(story: Story) -> None:
    """Print the story for people."""
    run, page = story.life.run, console()
    page.print(Text(f"run {run['id']}  {run['job']}", style="bold"))
    page.print(Text(printable(f"It {why(story.life)}.")))
    for name, value in facts(story):
        page.print(Text(f"  {name:<12}", style="dim").append(printable(value), style="default"))
    if story.attempts:
        show(story.attempts, COLUMNS, as_json=False, empty="")
    _tell_traceback(story)
    _tell_calls(story.calls)
    for line in story.log:
        fields = " ".join(f"{name}={value}" for name, value in (line["fields"] or {}).items())
        page.print(Text(printable(f"{exactly(line['at'])}  {line['line']}  {fields}")))


def _tell_calls(made: Calls) -> None:
    if made.listed:
        show(made.listed, CALLS, as_json=False, empty="")
    for attempt, count in made.left_out.items():
        console().print(Text(f"  {count:,} more calls of attempt {attempt} are left out", style="dim"))


def _tell_traceback(story: Story) -> None:
    last = story.attempts[-1] if story.attempts else None
    if last and last["traceback"] and story.life.run["state"] != State.SUCCEEDED:
        for line in redact_text(last["traceback"]).splitlines():
            console().print(Text(f"  {printable(line)}", style="dim"))
