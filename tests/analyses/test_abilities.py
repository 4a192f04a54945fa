"""Analyses of agents without a critic or embeddings: those that need actions alone work, others say what is lacking."""

import numpy as np
import pytest

import crlviz
from analyses import embed, evaluation, norms, stitch
from analyses.heatmap import q_map
from crlviz.errors import UsageError
from crlviz.interchange import exporting, inspection
from tests.helpers.toys import toy_config, untrained_run


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """An agent of a policy alone, and one with a critic of another kind than ours."""
    folder = tmp_path_factory.mktemp("abilities")
    return {
        name: crlviz.load(untrained_run(folder / name, toy_config(algorithm=name, actor__depth=8)))
        for name in ("gcbc", "sac")
    }


def refused(agent, what: str):
    return pytest.raises(UsageError, match=f"was trained by {agent.algorithm.name}, which has no {what}")


def test_a_policy_alone_is_labeled_by_its_own_depth(agents):
    assert (agents["gcbc"].facts["depth"], agents["sac"].facts["depth"]) == (8, 4)
    assert agents["gcbc"].facts["gcbc.learning_rate"] == 3e-4
    assert "gcbc.learning_rate" not in agents["sac"].facts


def test_what_needs_actions_alone_works(agents):
    both = list(agents.values())
    results = evaluation.compute(both, episodes=3, length=4)
    assert set(results.algorithm.values) == set(agents)
    found = stitch.compute([agents["gcbc"]], length=2, max_cells=3)
    assert np.isfinite(found.time_at_goal.values[~np.isnan(found.time_at_goal.values)]).all()


def test_a_map_of_q_needs_a_critic_and_tells_what_it_shows(agents, tmp_path):
    with refused(agents["gcbc"], "critic, so no Q"):
        q_map.compute([agents["sac"], agents["gcbc"]], resolution=1)
    dataset = q_map.compute([agents["sac"]], resolution=1)
    assert (dataset.q.long_name, dataset.q.units) == tuple(agents["sac"].q_meaning)
    assert "phi" not in dataset.q.long_name
    (title,) = q_map.plot(dataset).to_dict()["title"]["subtitle"][:1]
    assert title == "Q(s, a, g) = discounted steps at the goal and alpha times entropy, with the policy's action."
    other = crlviz.load(untrained_run(tmp_path / "crl"))
    assert "of each critic its own" in q_map.compute([agents["sac"], other], resolution=1).q.long_name


def test_embeddings_and_their_networks_are_refused_before_anything_is_computed(agents, tmp_path):
    for agent in agents.values():
        for analysis in (embed, norms):
            with refused(agent, "embeddings phi and psi"):
                analysis.compute([agent])
        with refused(agent, "embeddings phi and psi"):
            exporting.export(agent, tmp_path / "agent.onnx")


def test_other_networks_are_inspected_and_exported_by_their_names(agents, tmp_path):
    import safetensors.numpy

    for name, agent in agents.items():
        text = inspection.describe(agent.source)
        assert f"algorithm   {name}\n" in text
        assert [network for network in ("actor", "critic", "phi") if f"\n{network:12}" in text] == list(agent.params)
        (path,) = exporting.export(agent, tmp_path / f"{name}.safetensors")
        arrays = safetensors.numpy.load_file(path)
        assert {array.partition("/")[0] for array in arrays} == set(agent.params)
        np.testing.assert_array_equal(arrays["actor/stem/dense/bias"], agent.params["actor"]["stem"]["dense"]["bias"])
