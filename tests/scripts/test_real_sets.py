"""The real sets, where they are: BUSI and BUS-BRA are read as published, and BUSI's near-copies are those known."""

import csv

import numpy as np
import pytest
from conftest import BUSBRA, BUSI, busi_pairs, needs_busbra, needs_busi

from dataset import find_samples, read_samples
from segmentation.data.collection import collect, data_source
from segmentation.data.near_copies import near_copies
from segmentation.data.splits import Division, near_copies_in_training, split_samples


@pytest.fixture(scope="module")
def busi():
    samples = find_samples(BUSI)
    return samples, read_samples(samples)


@needs_busi
def test_busi_is_read_as_published(busi):
    samples, pictures = busi
    assert data_source(BUSI, samples) == "busi"
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert sum(len(s.masks) > 1 for s in samples) == 17
    (three,) = (i for i, s in enumerate(samples) if s.name == "benign (195)")
    alone = [sample._replace(masks=(mask,)) for sample in [samples[three]] for mask in sample.masks]
    areas = [mask for _, mask in read_samples(alone)]
    assert len(areas) == 3 and np.array_equal(pictures[three][1], np.maximum.reduce(areas))


@needs_busi
def test_the_near_copies_of_busi_are_those_that_sliding_every_pair_found(busi):
    samples, pictures = busi
    known = {(pair.a, pair.b): pair for pair in busi_pairs(samples)}
    pairs = near_copies(image for image, _ in pictures)
    assert len(known) == 261 and {(pair.a, pair.b) for pair in pairs} == set(known)
    for pair in pairs:
        np.testing.assert_allclose(pair, known[pair.a, pair.b], atol=6e-4)
    tied = {frozenset((samples[pair.a].name, samples[pair.b].name)) for pair in pairs}
    assert {"benign (433)", "malignant (145)"} in tied and {"benign (437)", "normal (34)"} in tied


@needs_busbra
def test_bus_bra_is_read_with_its_patients():
    with (BUSBRA / "meta.csv").open() as lines:
        folds = {row["image"]: row["fold5"] for row in csv.DictReader(lines)}
    samples = [sample._replace(fold=folds[sample.image.name]) for sample in collect([BUSBRA]).samples]
    assert len(samples) == 1875 and len({s.patient for s in samples}) == 1064
    assert {s.label for s in samples} == {"benign", "malignant"}
    numbers = {patient: number for number, patient in enumerate(sorted({s.patient for s in samples}))}
    groups = np.array([numbers[s.patient] for s in samples])
    for split, fold in (("given", 0), ("given", 4), ("grouped", 0)):
        parts = split_samples(samples, groups, Division(split=split, fold=fold))
        assert near_copies_in_training(parts, groups) == []
        assert len({groups[i] for part in parts.values() for i in part}) == 1064
