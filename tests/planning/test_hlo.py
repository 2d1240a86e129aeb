"""Compiled programs: what runs how often, and what it moves and sends, on programs that are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.planning.collectives import Collective, collectives, group_size
from deberta_jax.planning.hlo import ArrayShape, Program, parse_arrays, parse_program
from deberta_jax.planning.scratch import scratch_bytes
from deberta_jax.planning.traffic import memory_bytes
from deberta_jax.sharding import make_mesh

_TRANSFER = '_xla_megascale_target="{1,2:3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"'
BETWEEN_SLICES = f"""
ENTRY %main.1 (a: f32[8,4]) -> f32[8,4] {{
  %a = f32[8,4]{{1,0}} parameter(0)
  %token = token[] after-all()
  %send = (f32[8,4]{{1,0}}, u32[], token[]) send(%a, %token), channel_id=2, frontend_attributes={{{_TRANSFER}}}
  %recv = (f32[8,4]{{1,0}}, u32[], token[]) recv(%token), channel_id=1, frontend_attributes={{{_TRANSFER}}}
  %done = (f32[8,4]{{1,0}}, token[]) recv-done(%recv), channel_id=1
  ROOT %sum = f32[8,4]{{1,0}} get-tuple-element(%done), index=0
}}
"""

# A loop of five trips around a loop of three, whose bound is in its condition; a conditional; a fusion of slices.
TEXT = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%slice_fusion (p0: f32[6,8,4], p1: s32[]) -> f32[8,4] {
  %p0 = f32[6,8,4]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %part = f32[1,8,4]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,4}
  ROOT %flat = f32[8,4]{1,0} bitcast(%part)
}

%update_fusion (q0: f32[6,8,4], q1: f32[8,4], q2: s32[]) -> f32[6,8,4] {
  %q0 = f32[6,8,4]{2,1,0} parameter(0)
  %q1 = f32[8,4]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %row = f32[1,8,4]{2,1,0} bitcast(%q1)
  %none = s32[] constant(0)
  ROOT %updated = f32[6,8,4]{2,1,0} dynamic-update-slice(%q0, %row, %q2, %none, %none)
}

%all-reduce-scatter.1 (r0: bf16[8,4]) -> bf16[2,4] {
  %r0 = bf16[8,4]{1,0} parameter(0)
  %reduced = bf16[8,4]{1,0} all-reduce(%r0), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%sum
  ROOT %mine = bf16[2,4]{1,0} slice(%reduced), slice={[0:2], [0:4]}
}

%chain.1 (s0: f32[2,4]) -> f32[8,4] {
  %s0 = f32[2,4]{1,0} parameter(0)
  ROOT %gathered.1 = f32[8,4]{1,0} all-gather(%s0), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="7"}
}

%chain.2 (t0: f32[2,4]) -> f32[8,4] {
  %t0 = f32[2,4]{1,0} parameter(0)
  ROOT %gathered.2 = f32[8,4]{1,0} all-gather(%t0), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="7"}
}

%inner_condition (u: (s32[], f32[8,4])) -> pred[] {
  %u = (s32[], f32[8,4]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%u), index=0
  %bound = s32[] constant(3)
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}

%inner_body (v: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %v = (s32[], f32[8,4]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%v), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%v), index=1
  %total = f32[8,4]{1,0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
  ROOT %pair = (s32[], f32[8,4]{1,0}) tuple(%number, %total)
}

%outer_body (w: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %w = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %inner = (s32[], f32[8,4]{1,0}) while(%w), condition=%inner_condition, body=%inner_body
}

%branch.1 (x1: f32[8,4]) -> f32[8,4] {
  ROOT %x1 = f32[8,4]{1,0} parameter(0)
}

%branch.2 (x2: f32[8,4]) -> f32[8,4] {
  %x2 = f32[8,4]{1,0} parameter(0)
  ROOT %negative = f32[8,4]{1,0} negate(%x2)
}

ENTRY %main (arg: f32[8,4], stack: f32[6,8,4], index: s32[]) -> f32[8,4] {
  %arg = f32[8,4]{1,0} parameter(0)
  %stack = f32[6,8,4]{2,1,0} parameter(1)
  %index = s32[] parameter(2)
  %start = (s32[], f32[8,4]{1,0}) tuple(%index, %arg)
  %outer = (s32[], f32[8,4]{1,0}) while(%start), condition=%c, body=%outer_body, backend_config={TRIPS}
  %layer = f32[8,4]{1,0} fusion(%stack, %index), kind=kLoop, calls=%slice_fusion
  %stacked = f32[6,8,4]{2,1,0} fusion(%stack, %layer, %index), kind=kLoop, calls=%update_fusion
  %half = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} convert(%layer)
  %scattered = bf16[2,4]{1,0:T(8,128)(2,1)S(1)} fusion(%half), kind=kCustom, calls=%all-reduce-scatter.1
  %shard = f32[2,4]{1,0:S(1)} convert(%scattered)
  %whole.1 = f32[8,4]{1,0:S(1)} fusion(%shard), kind=kCustom, calls=%chain.1
  %whole.2 = f32[8,4]{1,0:S(1)} fusion(%shard), kind=kCustom, calls=%chain.2
  ROOT %result = f32[8,4]{1,0} conditional(%index, %arg, %layer), branch_computations={%branch.1, %branch.2}
}
""".replace("TRIPS", '"known_trip_count":{"n":"5"}')
# Bytes of f32[8,4], and of f32[2,4].
WHOLE, PART = 128, 32


@pytest.fixture(scope="module")
def program():
    return parse_program(TEXT)


def test_each_instruction_runs_as_often_as_its_loops(program):
    executed = {instruction.name: times for _, instruction, times in program.executed()}
    assert executed["total"] == 5 * 3
    assert executed["layer"] == executed["negative"] == 1
    assert "counter" not in executed and "part" not in executed


def test_collectives_are_counted_by_kind_with_the_bytes_that_a_device_sends(program):
    assert collectives(program, 8) == [
        Collective("all-gather", 1, WHOLE * 3 / 4),
        Collective("all-reduce", 15, 15 * 2 * WHOLE * 3 / 4),
        Collective("reduce-scatter", 1, WHOLE // 2 * 3 / 4),
    ]


def test_memory_traffic_counts_slices_and_updates_as_their_parts_and_fast_memory_not_at_all(program):
    loops = 15 * 2 * WHOLE
    # The index is a scalar of four bytes. The fusion that updates reads and writes one layer.
    slices = (WHOLE + 4 + WHOLE) + (WHOLE + 4 + WHOLE)
    assert memory_bytes(program) == loops + slices + WHOLE + 2 * WHOLE


FUSION = """
%chain (x: f32[32]) -> f32[32] {
  %x = f32[32]{0} parameter(0)
  %one = f32[32]{0} add(%x, %x)
  %view = f32[8,4]{1,0} bitcast(%one)
  %two = f32[8,4]{1,0} negate(%view)
  %three = f32[8,4]{1,0} exponential(%two)
  %four = f32[8,4]{1,0} add(%three, %view)
  ROOT %result = f32[32]{0} bitcast(%four)
}

ENTRY %main (x: f32[32]) -> f32[32] {
  %x = f32[32]{0} parameter(0)
  ROOT %all = f32[32]{0} fusion(%x), kind=kCustom, calls=%chain, backend_config={"kind":"__ynn_fusion"}
}
"""


def test_a_result_inside_a_cpu_fusion_is_memory_until_its_last_use(program):
    assert scratch_bytes(program) == 0
    # "one", in use through its view, with "two" and "three"; "four" is the result, which has a buffer.
    assert scratch_bytes(parse_program(FUSION)) == 3 * WHOLE
    assert scratch_bytes(parse_program(FUSION.replace("(%three, %view)", "(%three, %x)"))) == 2 * WHOLE


def test_shapes_have_types_sizes_and_memory_spaces():
    arrays = parse_arrays("(bf16[4,2]{1,0:T(8,128)(2,1)S(1)}, pred[3]{0}, /*index=2*/s32[], u4[8]{0}, token[])")
    assert arrays[0] == ArrayShape("bf16", (4, 2), 1)
    assert [array.bytes for array in arrays] == [16, 3, 4, 4, 0]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups={}", 8),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", 2),
    ],
)
def test_groups_of_devices_are_read_in_every_form(program, groups, size):
    all_reduce = program.computations["inner_body"].instructions["total"]
    assert group_size(all_reduce._replace(attributes=f", {groups}, to_apply=%sum"), 8) == size


@pytest.fixture(scope="module")
def scanned():
    """Six layers over two devices, each with an all-reduce: the compiled program."""
    mesh = make_mesh(1, 1, 2, devices=jax.devices()[:2])

    def function(x, layers):
        return jax.lax.scan(lambda x, w: (jax.lax.psum(jnp.tanh(x @ w), "tensor"), None), x, layers)[0]

    spec = jax.P(None, "tensor"), jax.P(None, "tensor", None)
    function = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=jax.P(), check_vma=False)
    arrays = jax.ShapeDtypeStruct((16, 64), np.float32), jax.ShapeDtypeStruct((6, 64, 32), np.float32)
    return jax.jit(function).lower(*arrays).compile()


def test_a_scan_over_layers_sends_once_per_layer(scanned):
    [collective] = collectives(parse_program(scanned.as_text()), 2)
    assert collective == Collective("all-reduce", 6, 6 * 2 * (16 * 32 * 4) / 2)


def test_traffic_agrees_with_xla_where_loops_are_counted_once(scanned):
    class Once(Program):
        def trips(self, loop):
            return 1

    program = parse_program(scanned.as_text())
    once = memory_bytes(Once(*program))
    assert once == pytest.approx(scanned.cost_analysis()["bytes accessed"], rel=0.05)
    assert memory_bytes(program) > 3 * once


def test_a_transfer_between_slices_is_counted_where_it_is_sent():
    # Three slices: each device sends 2/3 of its 128 bytes twice.
    (sent,) = collectives(parse_program(BETWEEN_SLICES), 4)
    assert sent == Collective("all-reduce between slices", 1, pytest.approx(128 * 4 / 3))
