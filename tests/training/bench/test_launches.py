"""What a compiled program launches, in texts whose launches are counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.shared_programs import toy_programs
from tests.helpers.toys import toy_config
from training.bench.launches import Counts, Program

# Text as XLA writes it for a GPU, shortened.
FUSED = """
%fused_add (p0: f32[4,8], p1: f32[8]) -> f32[4,8] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = f32[8]{0} parameter(1)
  %broadcast = f32[4,8]{1,0} broadcast(%p1), dimensions={1}
  %dot = f32[4,8]{1,0} multiply(%p0, %broadcast)
  ROOT %add = f32[4,8]{1,0} add(%p0, %dot)
}
"""
BODY = (
    FUSED
    + """
%turn (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[8]{0} constant({1,2,3,4,5,6,7,8})
  %y = f32[4,8]{1,0} fusion(%x, %w), kind=kLoop, calls=%fused_add, metadata={op_name="jit(f)/while/body/add"}
  %z = f32[4,8]{1,0} fusion(%y, %w), kind=kLoop, calls=%fused_add, metadata={op_name="jit(f)/physics/vmap()/add"}
  %copied = f32[4,8]{1,0} copy(%z)
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%i, /*index=1*/%copied)
}
%goes_on (state.1: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}
"""
)
KNOWN = ', backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}'
ARRAY, VECTOR = 4 * 8 * 4, 8 * 4  # bytes
TURN = Counts(kernels=3, physics=1, bytes=2 * (2 * ARRAY + VECTOR) + 2 * ARRAY)


def _module(entry: str, before: str = BODY) -> str:
    return f"HloModule jit_f, is_scheduled=true, entry_computation_layout={{(f32[4,8])->f32[4,8]}}\n{before}\n" + (
        f"ENTRY %main (a: f32[4,8]) -> f32[4,8] {{\n  %a = f32[4,8]{{1,0}} parameter(0)\n{entry}\n}}\n"
    )


def _loop(name: str, known: str, body: str = "turn") -> str:
    return (
        f"  {name} = (s32[], f32[4,8]{{1,0}}) while(%start), condition=%goes_on, body=%{body}{known}, "
        'metadata={op_name="jit(f)/while"}\n'
    )


START = "  %zero = s32[] constant(0)\n  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %a)\n"


def test_a_fusion_is_one_launch_whatever_it_holds():
    entry = "  %w = f32[8]{0} constant({...})\n  ROOT %y = f32[4,8]{1,0} fusion(%a, %w), kind=kLoop, calls=%fused_add"
    assert Program(_module(entry, FUSED)).counts == Counts(kernels=1, bytes=2 * ARRAY + VECTOR)


def test_a_loop_counts_once_an_iteration():
    program = Program(_module(START + _loop("ROOT %end", KNOWN)))
    assert program.counts == TURN * 5
    assert program.turn(5) == TURN
    assert program.turn(6) is None


def test_a_loop_of_unknown_length_counts_once_and_waits_for_the_host():
    """Its condition is a kernel too, and the host reads the result."""
    program = Program(_module(START + _loop("ROOT %end", "")))
    assert program.counts == TURN + Counts(kernels=1, bytes=4 + 4 + 1, waits=1)


def test_loops_nest():
    outer = BODY + (
        "%outer (state.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {\n  %start = (s32[], f32[4,8]{1,0}) parameter(0)\n"
        + _loop("ROOT %inner", KNOWN)
        + "}\n"
    )
    program = Program(_module(START + _loop("ROOT %end", KNOWN.replace('"5"', '"7"'), "outer"), outer))
    assert program.counts == TURN * 35
    assert program.turn(7) == TURN * 5
    assert program.turn(5) == TURN


def test_loops_inside_the_physics_are_physics():
    loop = _loop("ROOT %end", KNOWN).replace("jit(f)/while", "jit(f)/while/body/vmap(physics)/while")
    assert Program(_module(START + loop)).counts.physics == 5 * TURN.kernels


def test_of_a_conditional_the_larger_branch_counts_and_the_host_is_asked():
    branches = FUSED + "".join(
        f"%branch_{name} (b{name}: f32[4,8]) -> f32[4,8] {{\n  %b{name} = f32[4,8]{{1,0}} parameter(0)\n{lines}}}\n"
        for name, lines in {
            "small": "  ROOT %c1 = f32[4,8]{1,0} copy(%bsmall)\n",
            "large": "  %c2 = f32[4,8]{1,0} copy(%blarge)\n  ROOT %c3 = f32[4,8]{1,0} copy(%c2)\n",
        }.items()
    )
    for attributes in (
        "branch_computations={%branch_small, %branch_large}",
        "true_computation=%branch_small, false_computation=%branch_large",
    ):
        entry = f"  %p = pred[] constant(true)\n  ROOT %y = f32[4,8]{{1,0}} conditional(%p, %a, %a), {attributes}"
        assert Program(_module(entry, branches)).counts == Counts(kernels=2, bytes=4 * ARRAY, waits=1)


@pytest.mark.parametrize("attribute", ["to_apply=%command_buffer", "calls=%command_buffer"])
def test_a_call_counts_what_is_called(attribute):
    """XLA wraps kernels into command buffers, CUDA graphs, by calls."""
    buffer = FUSED + (
        "%command_buffer (b: f32[4,8]) -> f32[4,8] {\n  %b = f32[4,8]{1,0} parameter(0)\n"
        "  %c = f32[4,8]{1,0} copy(%b)\n  ROOT %d = f32[4,8]{1,0} copy(%c)\n}\n"
    )
    entry = f"  ROOT %y = f32[4,8]{{1,0}} call(%a), {attribute}"
    assert Program(_module(entry, buffer)).counts == Counts(kernels=2, bytes=4 * ARRAY)


def test_calls_of_libraries_and_triton_kernels_are_one_launch_each():
    entry = (
        '  %t = f32[4,8]{1,0} custom-call(%a), custom_call_target="__gpu$xla.gpu.triton", backend_config={}\n'
        "  %g = (f32[4,8]{1,0}, s8[33554432]{0}) custom-call(%t, %t), "
        'custom_call_target="__cublas$gemm"\n'
        "  ROOT %y = f32[4,8]{1,0} get-tuple-element(%g), index=0"
    )
    # The workspace of a library's product does not count as memory traffic.
    assert Program(_module(entry, "")).counts == Counts(kernels=2, bytes=2 * ARRAY + 3 * ARRAY)


@pytest.mark.parametrize(
    "root",
    [
        'ROOT %g1 = (f32[4,8]{1,0}, s8[33554432]{0}) custom-call(%r, %r), custom_call_target="__cublas$gemm"',
        '%g1 = (f32[4,8]{1,0}, s8[33554432]{0}) custom-call(%r, %r), custom_call_target="__cublas$gemm"\n'
        "  %p1 = f32[4,8]{1,0} get-tuple-element(%g1), index=0\n"
        "  %w1 = s8[33554432]{0} get-tuple-element(%g1), index=1\n"
        "  ROOT %both = (f32[4,8]{1,0}, s8[33554432]{0}) tuple(%p1, %w1)",
    ],
)
def test_a_library_product_of_a_slice_counts_the_slice_and_no_workspace(root):
    fused = (
        "%sliced (s0: f32[100,8], s1: s32[]) -> (f32[4,8], s8[33554432]) {\n  %s0 = f32[100,8]{1,0} parameter(0)\n"
        "  %s1 = s32[] parameter(1)\n"
        f"  %r = f32[4,8]{{1,0}} dynamic-slice(%s0, %s1, %s1), dynamic_slice_sizes={{4,8}}\n  {root}\n}}\n"
    )
    entry = (
        "  %i = s32[] constant(3)\n  %many = f32[100,8]{1,0} constant({...})\n"
        "  ROOT %y = (f32[4,8]{1,0}, s8[33554432]{0}) fusion(%many, %i), kind=kCustom, calls=%sliced"
    )
    assert Program(_module(entry, fused)).counts == Counts(kernels=1, bytes=ARRAY + 4 + ARRAY)


def test_an_asynchronous_kernel_counts_once():
    entry = (
        "  %w = f32[8]{0} constant({...})\n"
        "  %s = ((f32[4,8]{1,0}, f32[8]{0}), f32[4,8]{1,0}, u32[]) fusion-start(%a, %w), kind=kLoop, calls=%fused_add\n"
        "  %d = f32[4,8]{1,0} fusion-done(%s)\n"
        "  %cs = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[]) copy-start(%d)\n"
        "  ROOT %y = f32[4,8]{1,0} copy-done(%cs)"
    )
    assert Program(_module(entry, FUSED)).counts.kernels == 2


def test_slices_count_what_they_read_and_updates_in_place_what_they_write():
    """As in a scan over the layers of a network: a turn reads one layer of many, and writes one row of its outputs."""
    fused = """
%fused_slice (q0: f32[100,8], q1: s32[], q2: f32[50,8]) -> f32[50,8] {
  %q0 = f32[100,8]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = f32[50,8]{1,0} parameter(2)
  %zero.1 = s32[] constant(0)
  %row = f32[1,8]{1,0} dynamic-slice(%q0, %q1, %zero.1), dynamic_slice_sizes={1,8}
  ROOT %put = f32[50,8]{1,0} dynamic-update-slice(%q2, %row, %q1, %zero.1)
}
"""
    entry = (
        "  %i = s32[] constant(3)\n  %many = f32[100,8]{1,0} constant({...})\n  %out = f32[50,8]{1,0} constant({...})\n"
        "  ROOT %y = f32[50,8]{1,0} fusion(%many, %i, %out), kind=kLoop, calls=%fused_slice"
    )
    assert Program(_module(entry, fused)).counts == Counts(kernels=1, bytes=VECTOR + 4 + VECTOR)


@pytest.mark.parametrize(
    "line",
    [
        '  ROOT %y = f32[4,8]{1,0} custom-call(%a), custom_call_target="xla_ffi_python_gpu_callback"',
        "  ROOT %y = ((f32[4,8]{1,0}), token[]) infeed(%a)",
        "  ROOT %y = token[] outfeed(%a)",
    ],
)
def test_transfers_to_the_host_are_waits(line):
    assert Program(_module(line, "")).counts == Counts(waits=1)


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("module @jit_f attributes {mhlo.num_partitions = 1 : i32} {\n}\n")


def _waits(function, *arguments) -> int:
    return Program(jax.jit(function).lower(*arguments).compile().as_text()).counts.waits


def test_waits_of_real_programs_are_seen():
    """As XLA writes them for this machine: a callback in each of 5 turns, and a loop whose length depends on data."""

    def watched(x):
        def turn(x, _):
            jax.debug.callback(print, x[0])
            return jnp.sin(x), None

        return jax.lax.scan(turn, x, None, length=5)[0]

    x = jnp.ones(3)
    assert _waits(watched, x) == 5
    assert _waits(lambda x: jax.lax.while_loop(lambda x: x[0] > 0.1, jnp.sin, x), x) == 1
    assert _waits(lambda x: jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(x), x), x) == 0


@pytest.mark.slow
def test_nothing_in_a_training_step_waits_for_the_host():
    programs = toy_programs()
    for name in ("collect", "learn", "evaluate_policy", "reset_envs"):
        counts = Program(getattr(programs, name).as_text()).counts
        assert counts.kernels > 100  # the text was understood
        assert counts.waits == 0, name
    assert Program(programs.learn.as_text()).turn(toy_config().updates)
