"""The storm: deliveries of all eight kinds, and the model of what must become of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from random import Random

from tests.oracle import carts, desks
from tests.oracle.model import Model
from tests.oracle.sending import Answers, Delivery, secret_of

#: Source -> its kind, and what makes one object's life.
SOURCES: dict[str, tuple[str, Callable[[Random], Iterator[Delivery]]]] = {
    "shopify": ("shopify", carts.shopify),
    "stripe": ("stripe", carts.stripe),
    "woo": ("woocommerce", carts.woo),
    "zendesk": ("zendesk", desks.zendesk),
    "intercom": ("intercom", desks.intercom),
    "google_ads": ("google_ads", desks.google_ads),
    "meta": ("meta", desks.meta),
    "erp": ("custom", desks.erp),
}


def config(destinations: str) -> str:
    """A `relay.yaml` for all of them, each to every destination.

    Args:
        destinations: the block of that name, as YAML in one line.
    """
    lines = ["host: 127.0.0.1", f"destinations: {destinations}", "sources:"]
    for source, (kind, _) in SOURCES.items():
        lines += [f"  {source}:", f"    kind: {kind}", f"    secrets: [{secret_of(source)}]"]
        lines += ["    to: [sqlite, postgres]", *(desks.ERP.splitlines() if kind == "custom" else ())]
    return "\n".join(lines) + "\n"


def deliveries(seed: int, each: int) -> list[Delivery]:
    """At least `each` deliveries of every kind, in random order."""
    rng = Random(seed)
    found: list[Delivery] = []
    for _, life in SOURCES.values():
        mine: list[Delivery] = []
        while len(mine) < each:
            mine.extend(life(rng))
        found += mine
    rng.shuffle(found)
    return found


def told(log: Mapping[Delivery, Answers]) -> Model:
    """The model of everything that was answered 202."""
    model = Model()
    for delivery, answers in log.items():
        for identity in answers.ids:
            model.tell(
                delivery.facts,
                source=delivery.source,
                received=int(identity),
                spread=delivery.events,
                test=delivery.test,
            )
    return model


def faults_of_answers(log: Mapping[Delivery, Answers]) -> list[str]:
    """Where the answers themselves are wrong: one id for each delivery, and none for two."""
    found = []
    for delivery, answers in log.items():
        if delivery.repeats:
            continue
        if len(answers.ids) != 1 or not 1 - min(answers.unsure, 1) <= answers.fresh <= 1:
            found.append(f"{delivery.source}: {answers}")
    every = list(chain.from_iterable(answers.ids for answers in log.values()))
    if len(set(every)) != len(every):
        found.append("an id was given twice")
    return found
