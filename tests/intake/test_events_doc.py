"""`docs/events.md` says what the code does."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from sidecar.intake import REASONS, EventLimits, FieldMap, IntakeOptions, SliceRegistry, parse
from sidecar.intake.trimming import NEAR
from sidecar.publish import MAXLEN, fields
from sidecar.redis_edge import connect

TEXT = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")


def rows(heading):
    """Give the rows of the table under a heading, as lists of cells."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_field_table_lists_every_field():
    """Neither a documented field without code nor a field without documentation."""
    assert {row[0] for row in rows("Fields")} == set(FieldMap.__slots__)


def test_the_reason_table_lists_every_reason():
    """Reasons are metric labels: the table is complete and says the same."""
    assert {row[0]: row[1] for row in rows("What happens to a malformed entry")} == REASONS


def test_the_numbers_are_those_of_the_code():
    """Bounds in the text are the defaults."""
    limits, options = EventLimits(), IntakeOptions()
    for said in (
        f"{limits.query_bytes // 1024} KiB",
        f"at most {limits.documents:,} items and {limits.documents_bytes // 1024} KiB",
        f"1 to {limits.top_k:,}",
        f"at most {limits.label_bytes} bytes",
        f"first {options.dead_letter_bytes:,} bytes",
        f"the last {options.dead_letters:,}",
        f"more than {NEAR} entries",
        f"MAXLEN ~ {MAXLEN}",
    ):
        assert said in TEXT


async def test_the_plain_example_is_a_good_event(redis):
    """The `XADD` of the page can be pasted."""
    [command] = re.findall(r"^XADD .*$", TEXT, re.MULTILINE)
    await redis.execute_command(*shlex.split(command))
    [(entry_id, entry)] = await redis.xrange("rag:queries")
    event = parse(entry_id, entry, now=time.time(), slices=SliceRegistry())
    assert event.served.ids == ("faq-17", "faq-3")
    assert (event.slice, event.session_id, event.step, event.top_k) == ("shop-de", "7f3a", 0, 10)


@pytest.fixture
async def limited(redis, redis_url):
    """Give a client whose user has exactly the documented rights."""
    [rule] = re.findall(r"```acl\n(.*?)\n```", TEXT, re.DOTALL)
    await redis.execute_command("ACL", "SETUSER", "intake", "reset", "on", ">pw", *rule.split())
    client = connect(redis_url.replace("redis://", "redis://intake:pw@"))
    yield client
    await client.aclose()
    await redis.execute_command("ACL", "DELUSER", "intake")


async def test_the_documented_rights_are_enough(redis, limited, bench):
    """Everything that the intake does works for a user with those rights."""
    one = bench(client=limited, claim_idle_seconds=0.2, block_seconds=0.1, keep_every_seconds=0.1, rate=0.5)
    for number in range(40):
        await redis.xadd("rag:queries", fields(query=f"q{number}"))
        await redis.xadd("rag:queries", {"nothing": "of use"})
    await one.consumer.read(None)
    await redis.xtrim("rag:queries", maxlen=50, approximate=False)
    await one.consumer.drain()
    await one.consumer.keep()
    await one.consumer.claim()
    await one.acknowledge()
    await one.consumer.leave()
    counts = one.consumer.counts
    assert counts.malformed["missing_query"] > 0
    assert counts.state is not None
    assert counts.store_errors == 0
