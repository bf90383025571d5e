"""Small words of PromQL, so that an expression in a dashboard says what it asks and not how replicas are joined.

Only the replica that judges shows verdicts; the others show nothing, 0 or NaN. The largest value over replicas is
therefore the answer, and `max` passes over NaN. Every expression keeps `namespace` and `job`: two deployments that are
looked at together stay two.
"""

from __future__ import annotations

CHOSEN = 'namespace=~"$namespace", job=~"$job"'
"""The chosen deployments. `All` of the variable `namespace` is `.*` and not `.+` as of the others: outside Kubernetes
there is no such label, and only a pattern that matches nothing at all finds a series without it."""
TARGET = f'{CHOSEN}, instance=~"$instance"'
DEPLOYMENT = "namespace, job"
JUDGED = "signal, slice"
"""The labels of a verdict."""
LEADING = 'measure="ndcg@10"'
"""The one measure of labelled probes that has domains and an interval."""
WHOLE = 'slice="all"'
DEPLOYED = 'role="deployed"'
BY_SIGNAL = 'signal="$signal"'
BY_SLICE = 'slice=~"$slice"'
BY_SLICE_OR_WHOLE = 'slice=~"$slice|all"'


def family(name: str, *where: str) -> str:
    """Select one of our families on the chosen targets."""
    return f"rag_drift_{name}{{{', '.join((TARGET, *where))}}}"


def labels(more: str = "") -> str:
    """Give a label list that tells deployments apart."""
    return f"{DEPLOYMENT}, {more}" if more else DEPLOYMENT


def best(name: str, by: str = "", *where: str) -> str:
    """Give what the replica on duty says of a gauge."""
    return f"max by ({labels(by)}) ({family(name, *where)})"


def on_duty(name: str, by: str = "", *where: str) -> str:
    """Give a gauge of the replica that judges now; what another one showed last stays there until it restarts."""
    return (
        f"max by ({labels(by)}) (\n"
        f"  {family(name, *where)}\n"
        f"  and on ({DEPLOYMENT}, instance) ({family('judge_active')} == 1)\n"
        ")"
    )


def rate(name: str, by: str = "", *where: str) -> str:
    """Give how much a counter grows in a second, over all replicas. `name` is without `_total`."""
    return f"sum by ({labels(by)}) (rate({family(f'{name}_total', *where)}[$__rate_interval]))"


def grown(name: str, by: str = "", *where: str) -> str:
    """Give how much a counter has grown in the period that is looked at, as a whole number."""
    return f"round(sum by ({labels(by)}) (increase({family(f'{name}_total', *where)}[$__range])))"


def mean(name: str, by: str, *where: str) -> str:
    """Give the mean of a summary or histogram; NaN where nothing was observed."""
    total, count = (
        f"sum by ({labels(by)}) (rate({family(f'{name}_{part}', *where)}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return f"{total}\n/\n{count}"


def ours(record: str, *where: str) -> str:
    """Select a series of our recording rules, which have no instance."""
    matchers = ", ".join((CHOSEN, *where))
    return f"{record}{{{matchers}}}"


def named(expr: str, **constants: str) -> str:
    """Give every series of an expression these labels."""
    for label, text in constants.items():
        expr = f'label_replace({expr}, "{label}", "{text}", "", "")'
    return expr


def copied(expr: str, label: str, source: str) -> str:
    """Give every series of an expression a second label with the value of another one."""
    return f'label_replace({expr}, "{label}", "$1", "{source}", "(.+)")'


def leading_fall() -> str:
    """Give the fall of each deployment's drifted slice that fell most, as a share of its baseline.

    The text of the page asks the same (RagDriftRetrievalDrifted in `dashboards/rules/alerts.yaml`), so that page and
    dashboard name one slice and one number; what was known last stands while the judge is away.
    """
    level, baseline, drifted = (
        f"max by ({labels(JUDGED)}) (last_over_time({family(name)}[15m]))"
        for name in ("level_ratio", "baseline_ratio", "drifted")
    )
    return f"topk by ({DEPLOYMENT}) (1, (\n1 - {level}\n/ {baseline}\n)\nand ({drifted} == 1))"


def change(by: str, *where: str) -> str:
    """Give the level's distance from the accepted baseline, relative to it; nothing while there is no baseline."""
    return f"{best('level_ratio', by, *where)}\n/ ({best('baseline_ratio', by, *where)} > 0)\n- 1"


def frozen_overlap(role: str) -> str:
    """Give the frozen probes' overlap on the documents known then, or on all where those are not known."""
    known, whole = (
        on_duty("frozen_overlap_ratio", "", f'role="{role}"', f'documents="{documents}"')
        for documents in ("known", "all")
    )
    return f"({known} >= 0)\nor\n{whole}"


def age(name: str, by: str = "") -> str:
    """Give the seconds since a time that some replica tells; nothing while none has one."""
    return f"time() - max by ({labels(by)}) ({family(name)} > 0)"


def in_rounds(newest: str, loop: str) -> str:
    """Give an age divided by the longest that one round of a loop should take.

    A round has a minute more than its interval, for scrapes and pauses; two of them are where the rules begin to alert.
    """
    interval = best("evaluation_interval_seconds", "", f'loop="{loop}"')
    return f"({newest})\n/ on ({DEPLOYMENT}) group_left () (60 + {interval})"
