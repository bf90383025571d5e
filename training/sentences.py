"""Sentences with structural near-misses, for training.

The recipe of Redis (arXiv 2604.16351) teaches an encoder composition with identity triplets: anchor and positive
are one sentence, the negative is its twin with the same words in another structure or with one turned around.
The sentences here come from frames and word lists written for this project; the hand-written triples that
measure composition live in `data/composition_heldout.jsonl` and share no sentence with them.
"""

# Word lists read best as words, not as lists of strings.
# ruff: noqa: SIM905

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

PEOPLE = (
    "nurse pilot baker tailor farmer judge painter singer dancer plumber carpenter teacher student lawyer clerk "
    "waiter chef driver sailor soldier guard thief doctor patient dentist poet editor reporter actor director "
    "coach referee goalkeeper manager cashier customer tenant landlord neighbour stranger cousin uncle aunt niece "
    "widow bride monk priest mayor senator ambassador spy detective suspect witness engineer mechanic architect "
    "gardener shepherd hunter fisherman butcher postman librarian curator historian chemist biologist astronomer "
    "translator diplomat banker broker auditor consultant intern trainee apprentice veteran recruit captain colonel "
    "king queen prince duchess knight servant cook babysitter toddler teenager pensioner tourist guide cyclist "
    "jogger skater climber swimmer violinist drummer conductor composer sculptor photographer model blacksmith potter"
).split()
ANIMALS = (
    "dog cat horse donkey goat sheep cow bull pig hen rooster goose duck swan heron crow raven owl hawk eagle pigeon "
    "sparrow robin fox wolf bear badger otter beaver hare rabbit squirrel mouse rat hedgehog deer moose lynx tiger "
    "lion leopard elephant giraffe zebra camel monkey gorilla snake lizard turtle frog toad crocodile shark dolphin "
    "whale seal penguin parrot bee wasp spider ant beetle crab lobster"
).split()
THINGS = (
    "lamp piano sofa wardrobe mirror carpet bookshelf vase clock painting candle basket bucket ladder hammer toolbox "
    "suitcase umbrella bicycle tractor lorry van ambulance ferry canoe lighthouse windmill chapel bakery pharmacy "
    "library museum cinema fountain statue bench playground greenhouse barn shed garage cottage castle tower bridge "
    "tunnel harbour station airport warehouse factory hospital school bank kiosk kettle teapot saucepan fridge oven "
    "dishwasher blender toaster printer scanner monitor keyboard router server battery antenna telescope microscope "
    "violin guitar trumpet drum flute cushion blanket pillow curtain rug chessboard globe map compass lantern tent"
).split()
PLACES = (
    "kitchen garden market harbour courtroom classroom workshop stadium station theatre village valley forest desert "
    "laboratory office corridor basement attic balcony courtyard playground monastery embassy shipyard vineyard"
).split()
# Base form, past tense, past participle.
ACTIONS = tuple(
    tuple(entry.split("/"))
    for entry in (
        "chase/chased/chased follow/followed/followed watch/watched/watched greet/greeted/greeted "
        "thank/thanked/thanked praise/praised/praised blame/blamed/blamed accuse/accused/accused "
        "insult/insulted/insulted comfort/comforted/comforted rescue/rescued/rescued push/pushed/pushed "
        "pull/pulled/pulled kick/kicked/kicked bite/bit/bitten hug/hugged/hugged kiss/kissed/kissed "
        "photograph/photographed/photographed paint/painted/painted interview/interviewed/interviewed "
        "question/questioned/questioned warn/warned/warned threaten/threatened/threatened "
        "deceive/deceived/deceived betray/betrayed/betrayed admire/admired/admired envy/envied/envied "
        "fear/feared/feared trust/trusted/trusted doubt/doubted/doubted help/helped/helped teach/taught/taught "
        "train/trained/trained hire/hired/hired dismiss/dismissed/dismissed pay/paid/paid rob/robbed/robbed "
        "arrest/arrested/arrested defend/defended/defended attack/attacked/attacked defeat/defeated/defeated "
        "overtake/overtook/overtaken pass/passed/passed meet/met/met visit/visited/visited invite/invited/invited "
        "ignore/ignored/ignored avoid/avoided/avoided remember/remembered/remembered forget/forgot/forgotten "
        "recognise/recognised/recognised mention/mentioned/mentioned describe/described/described "
        "imitate/imitated/imitated mock/mocked/mocked tease/teased/teased scold/scolded/scolded "
        "forgive/forgave/forgiven support/supported/supported oppose/opposed/opposed sue/sued/sued "
        "outrun/outran/outrun lead/led/led carry/carried/carried lift/lifted/lifted feed/fed/fed "
        "wake/woke/woken surprise/surprised/surprised frighten/frightened/frightened"
    ).split()
)
EVENTS = (
    "the concert|the harvest|the trial|the storm|the wedding|the election|the strike|the exam|the eclipse|the flood|"
    "the auction|the parade|the match|the audit|the festival|the merger|the drought|the voyage|the rehearsal|the siege|"
    "the launch|the funeral|the banquet|the debate|the outage|the vaccination|the renovation|the holiday|the verdict"
).split("|")
OPENINGS = (
    "|||In the morning |Last winter |According to the report, |On the first day |Late at night |Without warning |"
    "After a long silence |During the break |Two years ago |In the end |To everyone's surprise |On the way home |"
    "As far as we know, |In front of the cameras |Once again |On Tuesday "
).split("|")
# Each relation with its opposite; `{a}` and `{b}` are things.
RELATIONS = (
    ("to the left of", "to the right of"), ("above", "below"), ("in front of", "behind"), ("inside", "outside"),
    ("on top of", "underneath"), ("north of", "south of"), ("east of", "west of"), ("near", "far from"),
    ("over", "under"), ("before", "after"), ("uphill from", "downhill from"), ("upstream of", "downstream of"),
)  # fmt: skip
# Relations that say the same with the two sides exchanged.
CONVERSES = (
    ("to the left of", "to the right of"),
    ("above", "below"),
    ("in front of", "behind"),
    ("on top of", "underneath"),
    ("north of", "south of"),
    ("east of", "west of"),
    ("bigger than", "smaller than"),
    ("heavier than", "lighter than"),
    ("older than", "newer than"),
    ("cheaper than", "dearer than"),
)
MOVES = (
    ("into", "out of"), ("towards", "away from"), ("up to", "down from"), ("onto", "off"), ("from", "to"),
)  # fmt: skip
# A statement, and the same one denied.
STATES = (
    ("is open", "is not open"), ("was repaired", "was never repaired"), ("has been sold", "has not been sold"),
    ("works", "does not work"), ("can be moved", "cannot be moved"), ("will be replaced", "will not be replaced"),
    ("needs cleaning", "does not need cleaning"), ("was insured", "was uninsured"), ("is safe", "is unsafe"),
    ("is visible from here", "is invisible from here"), ("had a scratch", "had no scratch"),
    ("should be kept", "should not be kept"), ("is always locked", "is never locked"),
    ("was delivered on time", "was not delivered on time"), ("belongs to us", "does not belong to us"),
    ("costs a fortune", "does not cost a fortune"), ("is still warm", "is no longer warm"),
    ("may be used by guests", "may not be used by guests"), ("was found", "was not found"),
    ("looks new", "does not look new"), ("survived the fire", "did not survive the fire"),
    ("is heavy", "is light"), ("is bigger than it seems", "is smaller than it seems"), ("is full", "is empty"),
    ("got cheaper", "got dearer"), ("was switched on", "was switched off"),
)  # fmt: skip
COMPARATIVES = "taller older faster stronger quieter kinder richer heavier braver busier".split()


@dataclass(frozen=True, slots=True)
class Twins:
    """A sentence and its structural near-miss."""

    kind: str
    sentence: str
    twin: str


def twins(count: int, rng: random.Random) -> list[Twins]:
    """Make `count` different sentences with their near-misses, a third each of role swap, negation and space."""
    makers = (_role_swap, _negation, _spatial)
    made: dict[str, Twins] = {}
    while len(made) < count:
        pair = makers[len(made) % len(makers)](rng)
        made.setdefault(pair.sentence, pair)
    return list(made.values())


def paraphrases(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Make `count` different pairs that say one thing twice: passive, converse relation, another denial."""
    makers = (_passive, _converse, _denied_twice)
    made: dict[str, str] = {}
    while len(made) < count:
        one, other = makers[len(made) % len(makers)](rng)
        made.setdefault(one, other)
    return list(made.items())


def _passive(rng: random.Random) -> tuple[str, str]:
    one, other = _two_beings(rng)
    _, past, participle = rng.choice(ACTIONS)
    tail = rng.choice(("", f" in the {rng.choice(PLACES)}", f" during {rng.choice(EVENTS)}"))
    opening = rng.choice(OPENINGS)
    active = _say(opening, f"{one} {past} {other}{tail}")
    passive = rng.choice((f"{other} was {participle} by {one}{tail}", f"it was {one} who {past} {other}{tail}"))
    return active, _say(opening, passive)


def _converse(rng: random.Random) -> tuple[str, str]:
    first, second = (f"the {thing}" for thing in rng.sample(THINGS, 2))
    relation, opposite = rng.choice((*CONVERSES, *((back, forth) for forth, back in CONVERSES)))
    verb = rng.choice(("is", "stands", "was"))
    opening = rng.choice(OPENINGS)
    return _say(opening, f"{first} {verb} {relation} {second}"), _say(opening, f"{second} {verb} {opposite} {first}")


def _denied_twice(rng: random.Random) -> tuple[str, str]:
    one, other = _two_beings(rng)
    base, past, participle = rng.choice(ACTIONS)
    opening = rng.choice(OPENINGS)
    ways = (
        f"{one} did not {base} {other}",
        f"{one} never {past} {other}",
        f"{other} was not {participle} by {one}",
        f"it is not true that {one} {past} {other}",
    )
    first, second = rng.sample(ways, 2)
    return _say(opening, first), _say(opening, second)


def _say(opening: str, text: str) -> str:
    joined = f"{opening}{text}."
    return joined[0].upper() + joined[1:]


def _two_beings(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(PEOPLE if rng.random() < 0.7 else ANIMALS, 2)
    return f"the {first}", f"the {second}"


def _role_swap(rng: random.Random) -> Twins:
    one, other = _two_beings(rng)
    base, past, participle = rng.choice(ACTIONS)
    place, event = rng.choice(PLACES), rng.choice(EVENTS)
    frame = rng.choice((
        "{a} {past} {b}", "{a} {past} {b} in the {place}", "{a} was {part} by {b}", "{a} {past} {b} during {event}",
        "it was {a} who {past} {b}", "{a} wanted to {base} {b}", "{a}, who {past} {b}, left the {place}",
        "{a} is {cmp} than {b}", "{a} {past} {b} and then apologised", "{a} will {base} {b} after {event}",
        "{a} told {b} about {event}", "{a} lent money to {b}", "{a} bought a {thing} from {b}",
    ))  # fmt: skip
    words = {
        "base": base, "past": past, "part": participle, "place": place, "event": event,
        "cmp": rng.choice(COMPARATIVES), "thing": rng.choice(THINGS),
    }  # fmt: skip
    opening = rng.choice(OPENINGS)
    return Twins(
        "role",
        _say(opening, frame.format(a=one, b=other, **words)),
        _say(opening, frame.format(a=other, b=one, **words)),
    )


def _negation(rng: random.Random) -> Twins:
    opening = rng.choice(OPENINGS)
    if rng.random() < 0.5:
        yes, no = rng.choice(STATES)
        tail = rng.choice(("", f", says the {rng.choice(PEOPLE)}", f" since {rng.choice(EVENTS)}"))
        subject = f"the {rng.choice(THINGS)} in the {rng.choice(PLACES)}"
        sentence, twin = f"{subject} {yes}{tail}", f"{subject} {no}{tail}"
    else:
        one, other = _two_beings(rng)
        base, past, _ = rng.choice(ACTIONS)
        tail = rng.choice(("", f" before {rng.choice(EVENTS)}", f" in the {rng.choice(PLACES)}"))
        denied = rng.choice((f"did not {base}", f"never {past}", f"refused to {base}", f"failed to {base}"))
        sentence, twin = f"{one} {past} {other}{tail}", f"{one} {denied} {other}{tail}"
    if rng.random() < 0.3:
        sentence, twin = twin, sentence
    return Twins("negation", _say(opening, sentence), _say(opening, twin))


def _spatial(rng: random.Random) -> Twins:
    first, second = (f"the {thing}" for thing in rng.sample(THINGS, 2))
    opening = rng.choice(OPENINGS)
    if rng.random() < 0.7:
        relation, opposite = rng.choice(RELATIONS)
        if rng.random() < 0.5:
            relation, opposite = opposite, relation
        frame = rng.choice((
            "{a} is {r} {b}", "{a} stands {r} {b}", "there is a path {r} {b}, next to {a}",
            "they put {a} {r} {b}", "you will find {a} {r} {b}", "{p} placed {a} {r} {b}",
        ))  # fmt: skip
    else:
        relation, opposite = rng.choice(MOVES)
        frame = rng.choice(("{p} walked {r} {b} with {a}", "{p} carried {a} {r} {b}", "{p} rolled {a} {r} {b}"))
    person = f"the {rng.choice(PEOPLE)}"
    sentence = frame.format(a=first, b=second, r=relation, p=person)
    if rng.random() < 0.4 and "{p}" not in frame and "path" not in frame:
        twin = frame.format(a=second, b=first, r=relation, p=person)
    else:
        twin = frame.format(a=first, b=second, r=opposite, p=person)
    return Twins("spatial", _say(opening, sentence), _say(opening, twin))
