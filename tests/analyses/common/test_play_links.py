"""Addresses of pages of ``crlviz play``, and the links into them."""

import os

import numpy as np
import pytest

from analyses.common import play_links
from crlviz.errors import UsageError


def test_the_address_is_relative_to_the_html_wherever_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "my pages").mkdir()
    play = tmp_path / "my pages" / "a#b.html"
    play.write_text("")
    out = [tmp_path / "out.png", tmp_path / "out.html"]
    assert play_links.address(play, out) == "my%20pages/a%23b.html"
    monkeypatch.chdir(tmp_path)
    assert play_links.address(play.relative_to(tmp_path), out[1:]) == "my%20pages/a%23b.html"
    assert play_links.address(play, out[:1]) == play_links.address(None, out) == ""
    with pytest.raises(UsageError, match="there is no such page"):
        play_links.address(tmp_path / f"none{os.sep}play.html", out)


def test_a_link_names_goal_start_and_agent():
    made = play_links.link("play.html", goal=np.array([1, -2.5]), start=[0.25, 0], agent="depth 4 & more")
    assert made == "play.html#goal=1.000,-2.500&from=0.250,0.000&agent=depth%204%20%26%20more"
