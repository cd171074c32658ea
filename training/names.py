"""Names and values that nobody has read about, drawn anew for every example."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta

from training.replacement import make_name

_PLACE_ENDS = ("ton", "ville", "burg", "ford", "mouth", " Bay", " Falls", " Hill", "stead", "haven")
_ORGANISATIONS = ("Company", "Institute", "Society", "Bank", "Museum", "Press", "Works", "College", "Trust", "Guild")
_ADJECTIVES = """
    amber ancient bitter brass bright broken carved cold copper crimson dark distant double dry early empty fallen first
    frozen gentle gilded glass golden green grey hidden hollow iron ivory late lost narrow old open pale plain quiet red
    rough round salt sharp silent silver slow small smooth soft stone sudden tall thin twin velvet warm white wide wild
    winter wooden
"""
_NOUNS = """
    anchor apple arch arrow barrel basket bell bird blade boat book bottle bowl branch bridge brush candle canyon carpet
    castle chain chair cloud coin compass cradle crown curtain desert door dream drum engine feather field fire flower
    forest fountain garden gate glove hammer harbour harp hill hook horn island kettle key ladder lake lamp lantern leaf
    letter lock map marble mask meadow mill mirror moon mountain needle ocean orchard oven paper pearl pillar pipe
    plough pond ribbon ring river rope saddle sail shield shell ship shoe song spoon star stair stone storm table tower
    train tree tunnel valley violin wall watch wheel whistle window wing yard
"""
_CRAFTS = """
    actor architect baker banker barber botanist brewer builder butcher carpenter chemist clerk cook dancer dentist
    diplomat doctor driver editor engineer farmer fisher gardener geologist glazier hunter jeweller journalist judge
    lawyer librarian mason miner musician nurse painter pilot plumber poet potter printer sailor sculptor shepherd smith
    soldier surgeon tailor teacher translator weaver
"""
_COLOURS = "black blue brown crimson cyan gold green grey indigo lilac orange pink purple red silver white yellow"
ADJECTIVES, NOUNS, CRAFTS, COLOURS = (words.split() for words in (_ADJECTIVES, _NOUNS, _CRAFTS, _COLOURS))


def person(rng: random.Random) -> str:
    return f"{make_name(rng, rng.choice((1, 2)))} {make_name(rng, 2)}"


def place(rng: random.Random) -> str:
    return make_name(rng, rng.choice((1, 2))) + rng.choice(_PLACE_ENDS)


def organisation(rng: random.Random) -> str:
    return f"{make_name(rng, 2)} {rng.choice(_ORGANISATIONS)}"


def thing(rng: random.Random) -> str:
    """A ship, a book, a bridge: something with a title of its own."""
    return f"{rng.choice(ADJECTIVES).capitalize()} {rng.choice(NOUNS).capitalize()}"


def phrase(rng: random.Random) -> str:
    words = [rng.choice(ADJECTIVES), rng.choice(NOUNS)]
    return " ".join(["a", *words] if rng.random() < 0.5 else [rng.choice(ADJECTIVES), *words])


def day(rng: random.Random) -> str:
    drawn = date(1500, 1, 1) + timedelta(days=rng.randrange(190_000))
    return f"{drawn.day} {drawn.strftime('%B')} {drawn.year}"


def year(rng: random.Random) -> str:
    return str(rng.randint(1400, 2040))


def number(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 5)))


def amount(rng: random.Random) -> str:
    return f"{rng.randint(2, 999)} {rng.choice(('metres', 'tonnes', 'crowns', 'litres', 'acres', 'miles', 'hours'))}"


def code(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(2))
    return f"{letters}-{rng.randint(100, 9999)}"


def craft(rng: random.Random) -> str:
    return rng.choice(CRAFTS)


def colour(rng: random.Random) -> str:
    return rng.choice(COLOURS)


KINDS: dict[str, Callable[[random.Random], str]] = {
    make.__name__: make
    for make in (person, place, organisation, thing, phrase, day, year, number, amount, code, craft, colour)
}


def near_duplicate(name: str, rng: random.Random) -> str:
    """Return a name easily mistaken for `name`: one of its words is another."""
    words = name.split()
    row = rng.randrange(len(words))
    words[row] = make_name(rng, 2) if words[row].lower() not in ADJECTIVES else rng.choice(ADJECTIVES).capitalize()
    return " ".join(words)
