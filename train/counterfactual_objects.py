"""The objects that documents of the counterfactual model state: of the right type, any, invented, or strange."""

from __future__ import annotations

import random
import re

from base_writer import Writer
from counterfactual_bank import Relation
from counterfactual_data import MONTHS, UNITS, Sources
from counterfactual_forms import SHORT, capital

SITES = ("com", "org", "co.uk", "net", "de", "edu")
SECRET = "abcdefghkmnpqrstuvwxyzABCDEFGHKLMNPQRSTUVWXYZ23456789-_#!"  # of which a password is made


class Objects:
    """Draws objects.

    Args:
        sources: where they come from. rng: decides everything. strange: how often an object is any words of running text, or
            has marks within: what can't be guessed, but only copied.
    """

    def __init__(self, sources: Sources, rng: random.Random, strange: float) -> None:
        self.s, self.rng, self.strange = sources, rng, strange
        self.coined = _Coined(rng)

    def name(self) -> str:
        """An invented name: coined, or of the words of two real ones."""
        rng = self.rng
        if rng.random() < 0.5:
            return self.coined.name()
        one, two = (
            rng.choice(self.s.subjects[rng.choice(sorted(self.s.subjects))]).split() for _ in range(2)
        )
        return " ".join([*one[: max(1, len(one) - 1)][:3], two[-1]])

    def any(self) -> str:
        """Whatever may end a sentence."""
        if self.strange and self.rng.random() < self.strange:
            return self.span() if self.rng.random() < 0.6 else self.odd()
        rng, x = self.rng, self.rng.random()
        if x < 0.5:
            return rng.choice(self.s.any_object)
        if x < 0.62:
            return rng.choice(self.s.towns)
        if x < 0.74:
            return rng.choice(self.s.people)
        return self.number() if x < 0.86 else self.name()

    def span(self) -> str:
        """Some words in a row of running text."""
        words = self.rng.choice(self.s.sentences).split()
        first = self.rng.randrange(len(words))
        some = words[first : first + self.rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 11, 14))]
        return " ".join(some).strip(' ,;:."()') or self.name()

    def odd(self) -> str:
        """What has full stops, commas, figures or marks within: short forms, machines' dates, lists, addresses, amounts."""
        rng, year, some = self.rng, self.rng.randint(1, 2030), self.rng.randint
        word, other, third = (capital(self.span().split()[0]) for _ in range(3))
        one, two = rng.choices("ABCDEFGHIKLMNOPRSTUVW", k=2)
        low, site = re.sub(r"\W", "", f"{word} {other}".lower()) or "a", rng.choice(SITES)
        secret = "".join(rng.choices(SECRET, k=some(6, 12)))
        number = f"{some(1, 999)},{some(0, 999):03}"
        names = [
            self.name() if rng.random() < 0.4 else capital(self.span().split()[0]) for _ in range(some(2, 4))
        ]
        return rng.choice((
            f"{year:04}-{some(1, 12):02}-{some(1, 28):02}T00:00:00Z", f"{year:04}-01-01T00:00:00Z",
            f"{year}/{year + 1} {self.span()}", f"{year}–{(year + 1) % 100:02} {self.span()}", f"{some(1, 40)}. {word}",
            f"{one}.{two}. {word}", f"{word} {one}.{two}.", f"{word} {one}. {other}", f"{rng.choice(SHORT)} {word} {other}",
            f"{word}'s {self.span()}", f"{word}, {some(1, 12)}th {other} of {self.span()}", f"{word}: {self.span()}",
            f"{self.name()} ({self.span()})", f"{word}-{other} {self.span()}", f"{other}, {third}",
            f"{', '.join(names[:-1])} and {names[-1]}", ", ".join(names), f"{self.span()}, {self.span()}",
            f"{self.span()}, if {self.span()}", f"{self.span()} and {self.span()}", f"www.{low}.{site}",
            f"https://{low}.{site}/{word}?id={some(1, 99)}", f"{low}@{third.lower()}.{site}",
            f"+{some(1, 99)} {some(100, 999)} {some(1000, 9999)}", f"${number}", f"{number} {third}",
            f"{some(0, 99)}.{some(1, 99)} %", f"v{some(0, 9)}.{some(0, 19)}.{some(0, 9)}", f"{some(0, 23)}:{some(0, 59):02}",
            secret,
        ))  # fmt: skip

    def number(self) -> str:
        """A year, a date or an amount."""
        rng, x = self.rng, self.rng.random()
        if x < 0.4:
            return str(rng.randint(1000, 2030))
        if x < 0.7:
            return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1500, 2030)}"
        return f"{rng.randint(2, 999)}{rng.choice(UNITS)}"

    def of(self, relation: Relation) -> str:
        """An object of about the right type."""
        rng, known = self.rng, self.s.objects.get(relation.number)
        if rng.random() < max(0.12, self.strange):
            return self.any()
        if known:
            return rng.choice(known)
        asked = " ".join(relation.asked).lower()
        if re.search(r"\b(when|year|date|how (?:many|much|old|long|tall|high|far|big|deep))\b", asked):
            return self.number()
        if re.search(r"\bwho(m|se)?\b", asked):
            return rng.choice(self.s.people) if rng.random() < 0.6 else self.name()
        if re.search(r"\b(where|city|town|village|place)\b", asked):
            return rng.choice(self.s.towns)
        if "country" in asked:
            return rng.choice(sorted(self.s.countries))
        return self.any()


class _Coined(Writer):
    """The base's invented names alone."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
