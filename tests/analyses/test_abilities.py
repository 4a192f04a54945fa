"""Analyses of agents without a critic or embeddings: those that need actions alone work, others say what is lacking."""

import numpy as np
import pytest

import crlviz
from analyses import embed, evaluation, norms, stitch
from analyses.behavior import naming
from analyses.heatmap import q_map
from crlviz.errors import UsageError
from crlviz.interchange import exporting, inspection
from tests.helpers.toys import toy_config, untrained_run


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """An agent with only a policy, and an agent with a critic of another kind than crlviz's."""
    folder = tmp_path_factory.mktemp("abilities")
    return {
        name: crlviz.load(untrained_run(folder / name, toy_config(algorithm=name, actor__depth=8)))
        for name in ("gcbc", "sac", "cmd")
    }


def refused(agent, what: str):
    if agent.algorithm.name == "cmd":
        what = "(Q|embeddings) of goals: its critic compares whole states, and a goal is a position"
    return pytest.raises(UsageError, match=f"was trained by {agent.algorithm.name}, which has no {what}")


def test_a_policy_alone_is_labeled_by_its_own_depth(agents):
    assert (agents["gcbc"].facts["depth"], agents["sac"].facts["depth"]) == (8, 4)
    assert agents["gcbc"].facts["gcbc.learning_rate"] == 3e-4
    assert "gcbc.learning_rate" not in agents["sac"].facts


def test_what_needs_actions_alone_works(agents):
    both = list(agents.values())
    results = evaluation.compute(both, episodes=3, length=4)
    assert set(results.algorithm.values) == set(agents)
    for name in ("gcbc", "cmd"):
        found = stitch.compute([agents[name]], length=2, max_cells=3)
        assert np.isfinite(found.time_at_goal.values[~np.isnan(found.time_at_goal.values)]).all()


def test_a_critic_chooses_actions_where_there_is_one(agents):
    """The action taken in the first state has the highest Q of the samples; all else is that of the policy."""
    ran = {policy: crlviz.rollout(agents["sac"], 20, length=1, policy=policy) for policy in ("sample", "best-of-16")}
    np.testing.assert_array_equal(ran["sample"].state, ran["best-of-16"].state)
    assert float((ran["best-of-16"].q > ran["sample"].q).mean()) > 0.7
    assert stitch.compute([agents["sac"]], length=2, max_cells=3, policy="softmax-4").sizes["start"] == 3
    for name in ("gcbc", "cmd"):
        words = rf"best-of-16 chooses by Q, which the algorithm {name} does not have; take mean or sample"
        for analysis in (evaluation, stitch, naming):
            with pytest.raises(UsageError, match=words):
                analysis.compute([agents[name]], policy="best-of-16")
        with pytest.raises(UsageError, match=words):
            crlviz.rollout(agents[name], policy="best-of-16")
        with pytest.raises(UsageError, match=words):
            toy_config(algorithm=name, explore="best-of-16").check()


def test_a_map_of_q_needs_a_critic_and_tells_what_it_shows(agents, tmp_path):
    for name in ("gcbc", "cmd"):
        with refused(agents[name], "critic"):
            q_map.compute([agents["sac"], agents[name]], resolution=1)
    dataset = q_map.compute([agents["sac"]], resolution=1)
    assert (dataset.q.long_name, dataset.q.units) == tuple(agents["sac"].q_meaning)
    assert "phi" not in dataset.q.long_name
    (title,) = q_map.plot(dataset).to_dict()["title"]["subtitle"][:1]
    assert "Q(s, a, g) = discounted steps at the goal and alpha times entropy of every position" in title
    other = crlviz.load(untrained_run(tmp_path / "crl"))
    assert "of each critic its own" in q_map.compute([agents["sac"], other], resolution=1).q.long_name


def test_embeddings_and_their_networks_are_refused_before_anything_is_computed(agents, tmp_path):
    for agent in agents.values():
        for analysis in (embed, norms):
            with refused(agent, "embeddings phi and psi"):
                analysis.compute([agent])
        with refused(agent, "embeddings phi and psi"):
            exporting.export(agent, tmp_path / "agent.onnx")


def test_a_learned_softmax_temperature_is_loaded_and_told(tmp_path):
    settings = {"crl__learn_softmax_temperature": True, "crl__softmax_temperature": 0.25, "crl__energy": "dot"}
    run = untrained_run(tmp_path / "run", toy_config(**settings))
    assert "\nsoftmax temperature 0.25, learned\n" in inspection.describe(run) + "\n"
    agent = crlviz.load(run)
    assert agent.facts["crl.energy"] == "dot"
    state, action, goal = np.ones((3, 4)), np.zeros((3, 2)), np.ones((3, 2))
    products = np.sum(np.asarray(agent.embed(state, action)) * np.asarray(agent.embed_goal(goal)), axis=-1)
    np.testing.assert_allclose(agent.q(state, action, goal), products, rtol=1e-5)
    assert agent.q_meaning.title == "Q(s, a, g) = phi(s, a) . psi(g)"


def test_other_networks_are_inspected_and_exported_by_their_names(agents, tmp_path):
    import safetensors.numpy

    for name, agent in ((name, agents[name]) for name in ("gcbc", "sac")):
        text = inspection.describe(agent.source)
        assert f"algorithm   {name}\n" in text
        assert [network for network in ("actor", "critic", "phi") if f"\n{network:12}" in text] == list(agent.params)
        (path,) = exporting.export(agent, tmp_path / f"{name}.safetensors")
        arrays = safetensors.numpy.load_file(path)
        assert {array.partition("/")[0] for array in arrays} == set(agent.params)
        np.testing.assert_array_equal(arrays["actor/stem/dense/bias"], agent.params["actor"]["stem"]["dense"]["bias"])
