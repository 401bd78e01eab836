"""Selection methods: known answers in small cases, and what holds of all of them."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from ddllm.checks import SELECTIONS as NAMES
from ddllm.errors import UserError
from ddllm.select.methods import DETERMINISTIC, SELECTIONS, gradient_norm, herding, k_centers, k_means, squared_distances


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def line(*places: float) -> np.ndarray:
    return np.array(places, np.float32)[:, None]


@pytest.fixture(scope="module")
def cloud() -> tuple[np.ndarray, np.ndarray]:
    """300 texts of three classes, each in two clumps, in random order."""
    source = rng(3)
    labels = source.integers(0, 3, 300).astype(np.int32)
    centres = 2 * source.standard_normal((3, 2, 8))
    features = centres[labels, source.integers(0, 2, 300)] + source.standard_normal((300, 8))
    return features.astype(np.float32), labels


def test_configuration_and_methods_have_the_same_names():
    assert tuple(SELECTIONS) == NAMES and set(DETERMINISTIC) < set(NAMES)


def test_k_centers_on_a_line():
    # The mean is 4.6: 4 is the nearest, 13 the farthest from it, 0 the farthest from both; then 8 is 4 away from 4, and 1 only 1 from 0.
    features, labels = line(0, 1, 2, 4, 8, 13), np.zeros(6, int)
    assert features[k_centers(features, labels, 1, 5, rng())[0], 0].tolist() == [4, 13, 0, 8, 2]


def test_k_centers_within_classes_and_among_duplicates():
    features, labels = line(0, 100, 0, 101, 0, 107), np.array([0, 1, 0, 1, 0, 1])
    picked = k_centers(features, labels, 2, 3, rng())
    assert sorted(picked[0]) == [0, 2, 4] and features[picked[1], 0].tolist() == [101, 107, 100]


def test_herding_keeps_the_running_mean():
    # The mean is 4, to which 4.25 is nearest; then come the nearest to 8 - 4.25, to 12 - 7.75 and to 16 - 10.25.
    features, labels = line(0, 2.5, 3.5, 4.25, 9.75), np.zeros(5, int)
    picked = herding(features, labels, 1, 4, rng())[0]
    assert features[picked, 0].tolist() == [4.25, 3.5, 2.5, 9.75]


def test_herding_is_greedy(cloud):
    features, labels = cloud
    for label, picked in enumerate(herding(features, labels, 3, 6, rng())):
        rows = np.flatnonzero(labels == label)
        mean = features[rows].mean(axis=0, dtype=np.float64)
        for count in range(1, 7):
            left = np.setdiff1d(rows, picked[: count - 1])
            means = (features[picked[: count - 1]].sum(axis=0)[None] + features[left]) / count
            assert left[np.argmin(np.linalg.norm(means - mean, axis=1))] == picked[count - 1]


def test_k_means_takes_the_medoids_of_separated_clusters():
    source = rng(1)
    sizes, centres = (20, 12, 5), np.array([[0, 0], [50, 0], [0, 50]])
    features = np.concatenate([centre + source.standard_normal((size, 2)) for centre, size in zip(centres, sizes, strict=True)])
    features = features[source.permutation(37)].astype(np.float32)
    picked = k_means(features, np.zeros(37, int), 1, 3, rng())[0]
    clusters = np.argmin(np.linalg.norm(features[:, None] - centres, axis=-1), axis=1)
    for cluster, row in enumerate(picked):  # the largest cluster first
        members = np.flatnonzero(clusters == cluster)
        mean = features[members].mean(axis=0)
        assert row == members[np.argmin(np.linalg.norm(features[members] - mean, axis=1))]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_k_means_of_fewer_distinct_texts_than_are_asked_for():
    assert sorted(k_means(line(1, 1, 1, 2), np.zeros(4, int), 1, 4, rng())[0]) == [0, 1, 2, 3]


def test_k_means_starts_count():
    features = rng(5).standard_normal((200, 4)).astype(np.float32)
    inertia = [KMeans(8, n_init=1, random_state=seed).fit(features).inertia_ for seed in range(5)]
    assert max(inertia) > min(inertia), "every start ends alike here"
    picks = {tuple(k_means(features, np.zeros(200, int), 1, 8, rng(seed))[0]) for seed in range(3)}
    assert len(picks) > 1


def test_gradient_norm_keeps_easy_texts_and_no_wrong_labels():
    source = rng(2)
    truth = source.integers(0, 2, 400)
    features = (source.standard_normal((400, 5)) + 2.0 * (2 * truth[:, None] - 1)).astype(np.float32)
    labels = truth.copy()
    wrong = source.permutation(400)[:40]
    labels[wrong] = 1 - labels[wrong]
    picked = gradient_norm(features, labels, 2, 30, rng())
    margins = features.sum(axis=1) * (2 * labels - 1)
    for label, rows in enumerate(picked):
        assert not np.isin(rows, wrong).any()
        assert margins[rows].mean() > np.quantile(margins[labels == label], 0.75)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_class", [1, 7])
def test_every_class_gets_its_number_without_repeats(cloud, name, per_class):
    features, labels = cloud
    picked = SELECTIONS[name](features, labels, 3, per_class, rng())
    assert [len(set(rows.tolist())) for rows in picked] == [per_class] * 3
    for label, rows in enumerate(picked):
        assert (labels[rows] == label).all()


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_the_generator_alone(cloud, name):
    features, labels = cloud
    first, again, other = (np.stack(SELECTIONS[name](features, labels, 3, 5, rng(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    if name != "gradient_norm":  # whose probes may well agree
        assert np.array_equal(first, other) == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_texts_of_a_class(cloud, name):
    features, labels = cloud
    few = np.concatenate([np.flatnonzero(labels == 0)[:2], np.flatnonzero(labels)])
    with pytest.raises(UserError, match=r"class 0 has 2 training texts, but .*asks for 3 of them; ask for fewer"):
        SELECTIONS[name](features[few], labels[few], 3, 3, rng())


def test_distances_do_not_depend_on_the_chunks(cloud):
    features, _ = cloud
    whole = squared_distances(features, features[7], chunk=1000)
    for chunk in (1, 64, 300):
        np.testing.assert_array_equal(squared_distances(features, features[7], chunk), whole)
    np.testing.assert_allclose(
        whole, np.linalg.norm(features.astype(np.float64) - features[7].astype(np.float64)[None], axis=1) ** 2, rtol=1e-5
    )
    assert whole[7] == 0 and np.count_nonzero(whole == 0) == 1
