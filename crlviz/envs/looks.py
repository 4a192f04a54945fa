"""Appearance of all models: the same light, sky and checkered floor. Nothing here changes the physics."""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree

# Shared with the renderer without OpenGL, so that both draw the same picture.
SKY = (0.90, 0.93, 0.97)
FLOOR = ((0.80, 0.81, 0.83), (0.72, 0.73, 0.76))
AMBIENT, HEADLIGHT, SUN = 0.38, 0.22, 0.48
HAZE = (1.5, 5.0)  # fog from the first to the second, in units of the camera's distance
SUN_DIRECTION = (-0.35, 0.45, -1.0)
BODY = (0.83, 0.53, 0.27, 1)
WALL = (0.55, 0.57, 0.62, 1)
GOAL = (0.2, 0.65, 0.3, 0.5)
UP_THE_MAP = 180.0  # azimuth in degrees of a camera that shows a maze as maps do: x down, y to the right
_GOALS = ("target", "goal")  # names of the goal's body in brax's models
_BRAX_BODY = "0.4 0.33 0.26 1.0"  # color of the bodies in brax's models


@dataclass(frozen=True)
class View:
    """A camera, in MuJoCo's terms.

    Attributes:
      body: name of the body that the camera follows; empty: a fixed camera.
      lookat: the point that it looks at, x, y, z in meters, relative to the body or, if fixed, in the world.
      distance: meters from the camera to that point.
      azimuth: degrees; 0 looks along x, 90 along y. A camera that follows counts from the direction to the goal, and in
        a maze looks up the map instead (``UP_THE_MAP``).
      elevation: degrees; negative looks down.
    """

    body: str = ""
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 3.0
    azimuth: float = 90.0
    elevation: float = -30.0

    @property
    def square(self) -> float:
        """Side of the floor's squares in meters: large enough to see, small enough to gauge speed."""
        return 1.0 if self.distance > 2.5 else 0.1


def dress(tree: ElementTree.Element, view: View) -> None:
    """Replace the lights, sky, textures and materials of a MuJoCo model, in place."""
    for parent in tree.iter():
        for tag in ("light", "texture", "material", "visual"):
            for element in parent.findall(tag):
                parent.remove(element)
        parent.attrib.pop("material", None)
        if parent.get("rgba") == _BRAX_BODY:
            parent.set("rgba", _text(BODY))
    visual = ElementTree.SubElement(tree, "visual")
    level = {"ambient": AMBIENT, "diffuse": HEADLIGHT, "specular": 0}
    ElementTree.SubElement(visual, "headlight", {name: _text([value] * 3) for name, value in level.items()})
    ElementTree.SubElement(visual, "quality", offsamples="4")
    ElementTree.SubElement(visual, "map", shadowclip="1", shadowscale="0.9", znear="0.005", zfar="60")
    # MuJoCo scales shadows and the clipping planes with the extent.
    ElementTree.SubElement(tree, "statistic", extent=f"{1.5 * view.distance:g}")
    asset = tree.find("asset")
    if asset is None:
        asset = ElementTree.SubElement(tree, "asset")
    sky = {"type": "skybox", "builtin": "flat", "width": "16", "height": "16"}
    ElementTree.SubElement(asset, "texture", sky | {"rgb1": _text(SKY), "rgb2": _text(SKY)})
    checker = {"name": "checker", "type": "2d", "builtin": "checker", "width": "64", "height": "64"}
    ElementTree.SubElement(asset, "texture", checker | {"rgb1": _text(FLOOR[0]), "rgb2": _text(FLOOR[1])})
    repeat = _text([1 / view.square] * 2)
    ElementTree.SubElement(
        asset, "material", name="floor", texture="checker", texuniform="true", texrepeat=repeat, specular="0"
    )
    world = tree.find("worldbody")
    assert world is not None
    sun = {"directional": "true", "castshadow": "true", "dir": _text(SUN_DIRECTION), "pos": "0 0 1"}
    ElementTree.SubElement(world, "light", sun | {"diffuse": _text([SUN] * 3), "ambient": "0 0 0", "specular": "0 0 0"})
    for body in world.iter("body"):
        if body.get("name") in _GOALS:
            for geom in body.iter("geom"):
                geom.set("rgba", _text(GOAL))
    for geom in world.iter("geom"):
        if geom.get("type") == "plane":
            geom.set("material", "floor")
            geom.set("rgba", "1 1 1 1")  # multiplies the texture


def _text(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
