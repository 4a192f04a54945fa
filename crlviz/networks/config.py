"""The shape of one network, and how it begins."""

from dataclasses import dataclass

from crlviz.errors import UsageError

LAYERS_PER_BLOCK = 4
ACTIVATIONS = ("swish", "relu")
KINDS = ("residual", "mlp")


@dataclass(frozen=True)
class Start:
    """What a value of the setting ``start`` means.

    Attributes:
      blocks: what each block adds at first: ``drawn``, what its drawn parameters give; ``divided``, that divided by the
        number of blocks; or ``zero``, nothing.
      quiet_heads: whether an actor begins with means near 0 and a wide standard deviation.
      norm: whether a LayerNorm without parameters stands between the last layer and the heads.
    """

    blocks: str = "drawn"
    quiet_heads: bool = False
    norm: bool = False


STARTS = {
    "paper": Start(),
    "quiet": Start("divided", quiet_heads=True),
    "zero": Start("zero"),
    "zero_quiet_heads": Start("zero", quiet_heads=True),
    "norm": Start(norm=True),
    "norm_quiet_heads": Start(quiet_heads=True, norm=True),
    "norm_quiet": Start("divided", quiet_heads=True, norm=True),
}


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of one trunk.

    Attributes:
      depth: Dense layers inside residual blocks (a multiple of 4), plus those of the tail; of an MLP all hidden layers.
      width: units of each layer.
      layer_norm: apply LayerNorm before each activation (ablated in paper figure 16).
      activation: ``swish`` or ``relu`` (paper figure 16).
      residual: add each block's input to its output (ablated in paper figure 5).
      tail: plain layers after the last block; nonzero only in networks imported from JaxGCRL.
      remat: save only the blocks' inputs for the backward pass and recompute the rest: less memory for more time, equal
        numbers up to rounding.
      start: how the network begins. In the paper's networks the sum of the blocks grows with depth and nothing
        normalizes it before the heads, so deep actors begin saturated, and deep phi and psi far apart. ``paper``: that.
        ``quiet``: what each block adds is divided by the number of blocks, and an actor has *quiet heads*: it begins
        with means near 0 and a wide standard deviation. ``zero``: each block begins by adding nothing. ``norm``: a
        LayerNorm without parameters stands before the heads, in the whole training. ``zero_quiet_heads`` and
        ``norm_quiet_heads``: the same, and quiet heads. ``norm_quiet``: ``norm`` and ``quiet`` together. All parameters
          are trained, for every start.
      kind: ``residual``, or ``mlp``: a plain chain of layers. Its kernels begin uniform within sqrt(3 / fan-in), as in
        JaxGCRL's SAC and TD3, which use depth 2, width 256, relu and no LayerNorm.
      sphere: keep the kernels on the unit sphere (``crlviz.networks.sphere``), for paper table 2 with ``layer_norm``
        off. A quiet start then leaves kernels in blocks as they are, and they cannot begin at zero.

    Raises:
      UsageError: a value is out of range.
    """

    depth: int = 4
    width: int = 256
    layer_norm: bool = True
    activation: str = "swish"
    residual: bool = True
    tail: int = 0
    remat: bool = False
    start: str = "paper"
    kind: str = "residual"
    sphere: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UsageError(f"kind {self.kind!r} is unknown; take {' or '.join(KINDS)}")
        if self.width < 1:
            raise UsageError(f"width {self.width}: a layer needs at least one unit")
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"activation {self.activation!r} is unknown; take {' or '.join(ACTIVATIONS)}")
        if self.start not in STARTS:
            raise UsageError(f"start {self.start!r} is unknown; take {', '.join(STARTS)}")
        if self.kind == "mlp":
            self._check_mlp()
        else:
            self._check_blocks()
        if STARTS[self.start].blocks == "zero":
            self._check_zero()

    def _check_mlp(self) -> None:
        if self.depth < 1:
            raise UsageError(f"depth {self.depth}: an MLP has at least one hidden layer")
        if self.tail or not self.residual:
            raise UsageError("an MLP has neither tail nor skip connections; leave tail and residual as they are")

    def _check_blocks(self) -> None:
        if not 0 <= self.tail < LAYERS_PER_BLOCK:
            raise UsageError(f"tail {self.tail}: a tail has 0 to 3 layers, because four layers make a block")
        in_blocks = self.depth - self.tail
        if in_blocks < LAYERS_PER_BLOCK * (not self.tail) or in_blocks % LAYERS_PER_BLOCK:
            below = max(LAYERS_PER_BLOCK, self.depth - self.depth % LAYERS_PER_BLOCK)
            near = f"{below} or {below + LAYERS_PER_BLOCK}" if self.depth > LAYERS_PER_BLOCK else str(below)
            raise UsageError(f"depth {self.depth} is not a positive multiple of 4 (a block has 4 layers); take {near}")

    def _check_zero(self) -> None:
        """Refuse networks that have nothing to set to zero, or that could not leave it."""
        why = ""
        if self.kind == "mlp":
            why = "an MLP has no blocks that could begin at zero"
        elif not self.residual:
            why = "without skip connections nothing passes blocks that begin at zero"
        elif self.activation == "relu":
            why = "relu has no gradient at zero, so blocks that begin there never learn"
        elif self.sphere and not self.layer_norm:
            why = "kernels on the unit sphere cannot begin at zero"
        if why:
            raise UsageError(f"start {self.start}: {why}; take quiet")

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return self.depth // LAYERS_PER_BLOCK if self.kind == "residual" else 0

    @property
    def norm_before_heads(self) -> bool:
        """Whether a LayerNorm without parameters stands between the last layer and the heads."""
        return STARTS[self.start].norm

    @property
    def ablation(self) -> str:
        """How it differs from the paper's network: ``full network``, or for example ``no residual, relu``."""
        other = ["MLP"] * (self.kind == "mlp") + ["no residual"] * (not self.residual)
        other += ["no LayerNorm"] * (not self.layer_norm) + [self.activation] * (self.activation != "swish")
        return ", ".join(other + ["hyperspherical"] * self.sphere) or "full network"
