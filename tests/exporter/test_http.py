"""Every endpoint on a real server: what it answers, what it refuses, and what it never says."""

from __future__ import annotations

import json

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from sidecar.errors import ConfigurationError
from sidecar.judge.judgement import Judgement
from sidecar.model import BaselineAccepted, Stack
from sidecar.redis_edge import connect
from sidecar.store import Store
from tests.exporter.canary_runs import AT, labelled, library, pairs, ran
from tests.exporter.conftest import Around, serving
from tests.judge.observations import SIGNAL, options, stream

TOKEN = {"Authorization": "Bearer letmein"}
ASK = {"by": "ann", "why": "we shipped a better model"}
CHANGES = ("/-/reload", "/api/v1/calibrations")
SIGNATURE = Stack("a", "b", "c", "d")


def drifted() -> Judgement:
    """Give a judgement that has seen a drift."""
    judgement = Judgement(options())
    for identity, one in stream(2600, seed=6, drop_from=2000, shipped_from=2000):
        judgement.feed(identity, one)
    assert judgement.alarm_id is not None
    return judgement


@pytest.mark.parametrize(
    ("accept", "kind", "read"),
    [
        ("", "text/plain", read_text),
        ("*/*", "text/plain", read_text),
        ("text/plain;version=0.0.4", "text/plain", read_text),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text",
            read_openmetrics,
        ),
        ("nonsense///", "text/plain", read_text),
    ],
)
async def test_metrics_come_in_the_format_that_was_asked_for(http, accept, kind, read):
    """Content negotiation gives OpenMetrics or text, each well-formed and named in its content type."""
    async with http.get("/metrics", headers={"Accept": accept}) as answer:
        assert answer.status == 200
        assert answer.content_type == kind
        text = await answer.text()
    names = {family.name for family in read(text)}
    assert {"rag_drift_ready", "rag_drift_build", "rag_drift_build_info"} & names
    assert text.endswith("# EOF\n") == (kind == "application/openmetrics-text")


async def test_metrics_are_compressed_for_clients_that_can_read_it(http):
    """A scrape of a thousand series travels compressed if the scraper accepts that, and plain if not."""
    async with http.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "rag_drift_ready" in await answer.text()
    async with http.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
        assert "Content-Encoding" not in answer.headers


async def test_the_page_at_the_root_leads_to_endpoints_that_exist(http):
    """Every link of the start page answers."""
    async with http.get("/") as answer:
        assert answer.content_type == "text/html"
        page = await answer.text()
    links = [part.split('"')[0] for part in page.split('href="')[1:]]
    assert "/metrics" in links
    for link in links:
        async with http.get(link) as answer:
            assert answer.status == 200, link


async def test_readiness_names_what_is_missing(around, http):
    """503 with what the sidecar waits for, 200 when there is nothing; liveness does not depend on it."""
    around.absent = ("redis", "models")
    async with http.get("/-/ready") as answer:
        assert answer.status == 503
        assert await answer.text() == "waiting for: redis, models\n"
    async with http.get("/-/healthy") as answer:
        assert answer.status == 200
    around.absent = ()
    async with http.get("/-/ready") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401), ("Bearer wrong", 401), ("Bearer ", 401), ("letmein", 401), ("Basic letmein", 401),
        ("Bearer letmeinx", 401), ("Bearer letmei", 401), ("Bearer l\u00e9tmein", 401),
    ],
)  # fmt: skip
async def test_a_change_needs_the_right_token(around, http, path, header, status):
    """Without the exact bearer token nothing changes, whatever the header holds."""
    headers = {} if header is None else {"Authorization": header}
    async with http.post(path, headers=headers, json=ASK) as answer:
        assert answer.status == status
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert around.reloads == 0
    assert await around.store.request() is None


@pytest.mark.parametrize("path", CHANGES)
async def test_a_header_that_is_no_text_is_refused_and_not_an_error(http, path):
    """Bytes that are not UTF-8 in the header are a wrong token, not a fault of the server."""
    import asyncio

    port = http._base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nContent-Length: 0\r\n\r\n" % path.encode()
    )
    status = await reader.readline()
    assert status.split()[1] in {b"401", b"400"}
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", CHANGES)
async def test_without_a_configured_token_changes_are_off(around, http, path):
    """No token in the settings means read-only, not open."""
    around.token = None
    for headers in ({}, {"Authorization": "Bearer None"}, {"Authorization": "Bearer "}):
        async with http.post(path, headers=headers, json=ASK) as answer:
            assert answer.status == 403
    assert around.reloads == 0


@pytest.mark.parametrize("path", CHANGES)
async def test_a_token_file_that_cannot_be_read_turns_changes_off(around, http, path):
    """A lost secret is told as such and opens nothing."""
    around.token_fails = ConfigurationError("http.token_file: /run/token is empty")
    async with http.post(path, headers=TOKEN, json=ASK) as answer:
        assert answer.status == 503
        assert "http.token_file" in await answer.text()
    assert around.reloads == 0


@pytest.mark.parametrize("path", CHANGES)
async def test_changes_are_not_made_by_reading(http, path):
    """GET on a changing endpoint is refused, so that a crawler or a prefetch cannot reload anything."""
    async with http.get(path, headers=TOKEN) as answer:
        assert answer.status == 405


async def test_a_reload_says_whether_it_worked(around, http):
    """A good reload answers 200, a bad one 422 with each broken rule."""
    async with http.post("/-/reload", headers=TOKEN) as answer:
        assert (answer.status, await answer.json()) == (200, {"reloaded": True})
    around.fails = ConfigurationError("a.yaml: replay.k = 0: too small\na.yaml: x: unknown setting")
    async with http.post("/-/reload", headers=TOKEN) as answer:
        assert answer.status == 422
        assert (await answer.json())["error"] == ["a.yaml: replay.k = 0: too small", "a.yaml: x: unknown setting"]
    assert around.reloads == 1


async def test_a_calibration_is_asked_for_in_redis(around, http):
    """The request with who and why reaches the key that the judge reads; long texts are cut."""
    async with http.post("/api/v1/calibrations", headers=TOKEN, json={"by": "a" * 300, "why": "w" * 2000}) as answer:
        assert answer.status == 202
        identity = (await answer.json())["request"]
    request = await around.store.request()
    assert (request.id, request.kind) == (identity, "recalibrate")
    assert (len(request.by), len(request.why)) == (200, 1000)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"[]", b'"by why"', b"null", b"3", b'{"by": "ann"}', b'{"by": "", "why": "x"}',
        b'{"by": null, "why": "x"}', b'{"by": ["a"], "why": "x"}', b'{"by": "a", "why": "  "}', b"[" * 16_000,
    ],
)  # fmt: skip
async def test_a_bad_body_is_a_bad_request(around, http, body):
    """Whatever is sent instead of the two texts gets 400 with the rule, and asks for nothing."""
    async with http.post("/api/v1/calibrations", headers=TOKEN, data=body) as answer:
        assert answer.status == 400
        assert '"by"' in (await answer.json())["error"]
    assert await around.store.request() is None


async def test_a_body_of_another_charset_or_size_is_refused(around, http):
    """An unknown charset is a bad request and a huge body is not read."""
    headers = {**TOKEN, "Content-Type": "application/json; charset=martian"}
    async with http.post("/api/v1/calibrations", headers=headers, data=json.dumps(ASK)) as answer:
        assert answer.status == 400
    async with http.post("/api/v1/calibrations", headers=TOKEN, data=b" " * 100_000) as answer:
        assert answer.status == 413
    assert await around.store.request() is None


async def test_verdicts_say_when_another_replica_judges(http):
    """A replica off duty has no verdicts and says why."""
    async with http.get("/api/v1/verdicts") as answer:
        assert await answer.json() == {"on_duty": False, "verdicts": []}


async def test_verdicts_carry_everything_that_on_call_asks_for(around, http):
    """Signal, evidence and threshold, the alarm, both stacks, and each slice with size, interval and start."""
    around.judgement = drifted()
    async with http.get("/api/v1/verdicts") as answer:
        found = await answer.json()
    assert found["on_duty"] is True
    assert found["signals"] == [SIGNAL]
    assert found["evidence_weeks"] >= found["threshold_weeks"] == 26.0
    assert found["alarm"] == around.judgement.alarm_id
    assert found["stack"]["deployed_encoder"] != found["accepted_stack"]["deployed_encoder"]
    whole = found["verdicts"][0]
    assert (whole["slice"], whole["state"]) == ("all", "drifted")
    assert whole["lower"] < whole["level"] < whole["upper"] < whole["baseline"]
    assert whole["start"] <= whole["since"]


async def test_baselines_are_served_whole(around, http):
    """Every accepted baseline with its channels, and the stack that it is bound to; none on a replica off duty."""
    async with http.get("/api/v1/baselines") as answer:
        assert await answer.json() == {"on_duty": False, "baselines": {}}
    around.judgement = drifted()
    async with http.get("/api/v1/baselines") as answer:
        found = await answer.json()
    whole = found["baselines"][SIGNAL]["all"]
    assert whole["channels"][0]["lower"] < whole["channels"][0]["mean"] < 1
    assert len(whole["channels"]) == 3
    assert found["accepted_stack"]["deployed_encoder"]


async def test_the_audit_trail_is_served_in_the_asked_number(around, http):
    """Newest first, up to `count`; a count out of range is a bad request."""
    await around.store.hold_lease("one", 60)
    for number in range(3):
        event = BaselineAccepted(f"{number}", 1.0, SIGNAL, "all", 0.7, 0.69, 5000, SIGNATURE)
        await around.store.checkpoint("one", {"last": f"{number}-0"}, [event])
    async with http.get("/api/v1/audit") as answer:
        assert [event["id"] for event in await answer.json()] == ["2", "1", "0"]
    async with http.get("/api/v1/audit?count=1") as answer:
        assert [event["id"] for event in await answer.json()] == ["2"]
    for count in ("0", "-1", "1001", "x", "", "1e3", "9" * 5000):
        async with http.get("/api/v1/audit", params={"count": count}) as answer:
            assert answer.status == 400, count


async def test_the_last_run_of_the_canaries_is_served_whole(around, http):
    """Null before the first run (or for one of another version), then all that it found for each set and domain."""
    async with http.get("/api/v1/canaries") as answer:
        assert (answer.status, await answer.json()) == (200, None)
    await around.store.hold_lease("one", 60)
    for at in (AT, AT + 1.0):
        run = ran(library(labelled(), pairs()), lost=("law",), pushed=0.2, at=at)
        assert await around.store.canaries.add_run("one", run, [])
    async with http.get("/api/v1/canaries") as answer:
        assert answer.content_type == "application/json"
        found = json.loads(await answer.text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert (found["at"], found["accepted_at"]) == (AT + 1.0, run.accepted_at)
    assert found["stack"]["deployed_encoder"] == run.stack.deployed_encoder
    (one,) = found["retrieval"]
    assert (one["set"]["name"], one["set"]["checksum"]) == ("questions", "first")
    law = next(change for change in one["changes"]["accepted"] if change["domain"] == "law")
    measured = law["measures"]["ndcg@10"]
    assert measured["before"] > measured["now"] == one["means"]["deployed"]["law"]["ndcg@10"]
    names = {signature["domain"]: signature["name"] for signature in one["signatures"]["accepted"]}
    assert names == {"all": "precision_trap", "law": "precision_trap", "pets": "changed_not_worse"}
    assert {change["phenomenon"] for change in found["composition"][0]["changes"]["accepted"]} >= {"negation"}
    await around.store.redis.xadd(around.store.keys.canary_runs, {"run": "of another version"})
    async with http.get("/api/v1/canaries") as answer:
        assert (answer.status, await answer.json()) == (200, None)


async def test_redis_trouble_is_a_503_and_no_crash(own_redis):
    """Before Redis is reached, and when it is away or damaged, what needs it answers 503 in JSON; the rest goes on."""
    client = connect(own_redis.url, retries=0)
    around = Around(store=None)
    async with serving(around) as http:
        for store, prepare in (
            (None, None),
            (Store(client, "test"), lambda: client.xadd("rag-drift:{test}:audit", {"event": "{"})),
            (Store(client, "test"), None),
        ):
            around.store = store
            if prepare is not None:
                await prepare()
            elif store is not None:
                own_redis.stop()
            async with http.get("/api/v1/audit") as answer:
                assert answer.status == 503
                assert (await answer.json())["error"]
            async with http.get("/api/v1/canaries") as answer:
                assert answer.status == (200 if prepare is not None else 503)  # the trail is damaged, not the runs
            async with http.get("/metrics") as answer:
                assert answer.status == 200
        async with http.post("/api/v1/calibrations", headers=TOKEN, json=ASK) as answer:
            assert answer.status == 503
    await client.aclose()
