from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import pytest

from hanlin.world import DEMO_ENTITIES, DEMO_TELLINGS, World
from hanlin.world.entities import ATTRIBUTES, OBJECTS


def test_the_demo_has_enough_entities_and_facts():
    world = World(seed=0, entities=DEMO_ENTITIES)
    assert len({entity.id for entity in world.entities()}) == DEMO_ENTITIES >= 500
    facts = list(world.facts())
    assert len({fact.id for fact in facts}) == len(facts) >= 3_000
    unasked = sum(not fact.asked for fact in facts) / len(facts)
    assert 0.2 < unasked < 0.3
    kinds = Counter(fact.attribute for fact in facts)
    assert set(kinds) == {f"{kind}.{name}" for kind, attributes in ATTRIBUTES.items() for name in attributes}


def test_facts_hang_together(small):
    world = small.world
    entities = {entity.id: entity for entity in world.entities()}
    facts = {fact.id: fact for fact in world.facts()}
    for fact in facts.values():
        assert fact.id == f"{fact.subject}.{fact.attribute.partition('.')[2]}"
        if fact.attribute in OBJECTS:
            assert fact.object is not None
            assert fact.object != fact.subject
            target = entities[fact.object]
            assert target.kind == OBJECTS[fact.attribute]
            assert (fact.value_en, fact.value_zh) == (target.name_en, target.name_zh)
        else:
            assert fact.object is None
        if fact.attribute == "person.known_work":  # the best-known work is one that this person wrote
            assert facts[f"{fact.object}.author"].object == fact.subject
        if fact.attribute == "company.price":
            assert facts[f"{fact.subject}.product"].value_zh == fact.item_zh


def test_worlds_depend_on_their_seed_alone():
    one, same, other = (World(seed=seed, entities=100) for seed in (1, 1, 2))
    assert list(one.facts()) == list(same.facts())
    assert list(one.facts()) != list(other.facts())
    # an entity is computed from its number, whatever was computed before
    assert same.population.facts(99) == World(seed=1, entities=100).population.facts(99)


def test_changes_are_true_changes(small):
    facts = {fact.id: fact for fact in small.world.facts()}
    changes = list(small.world.changes())
    assert changes
    for change in changes:
        assert facts[change.old.id] == change.old
        assert (change.new.id, change.new.subject, change.new.attribute) == (
            change.old.id,
            change.old.subject,
            change.old.attribute,
        )
        assert change.new.value_en != change.old.value_en and change.new.value_zh != change.old.value_zh


def test_a_million_entities_start_at_once_and_need_no_memory():
    tracemalloc.start()
    world = World(seed=0, entities=1_000_000)
    last = world.population.facts(999_999)
    assert len(last) >= 6 and all(fact.subject == world.population.get(999_999).id for fact in last)
    assert len(list(itertools.islice(world.documents(DEMO_TELLINGS), 50))) == 50
    assert len(list(world.exam("facts", items=20))) == 20
    assert len(list(itertools.islice(world.instructions(), 50))) == 50
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_no_tellings_are_refused():
    with pytest.raises(ValueError, match="tellings"):
        next(World(entities=100).documents(tellings=0))
