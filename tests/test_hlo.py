"""The reader of compiled programs, on a program small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import hlo
from grpojax import sharding


PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%scattered (part: f32[8,4]) -> f32[4,4] {
  %part = f32[8,4]{1,0} parameter(0)
  ROOT %inner = f32[8,4]{1,0} all-reduce(%part), \
replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%add
}

%layers (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %carry = (s32[], f32[8,4]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%carry), index=0
  %hidden = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%carry), index=1
  %start = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-reduce-start(%hidden), \
replica_groups=[4,2]<=[8], to_apply=%add, \
metadata={op_name="jit(step)/rollout/while/dot"}
  %done = f32[8,4]{1,0} all-reduce-done(%start)
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%count, %done)
}

%one (carry: (s32[], f32[8,4])) -> pred[] {
  %carry.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%tokens (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %carry.2 = (s32[], /*index=1*/f32[8,4]{1,0}) parameter(0)
  ROOT %while.1 = (s32[], f32[8,4]{1,0}) while(%carry.2), condition=%one, \
body=%layers, backend_config={"known_trip_count":{"n":"24"}}
}

ENTRY %main (weight: bf16[4,2]) -> f32[8,4] {
  %weight = bf16[4,2]{1,0} parameter(0)
  %gathered = bf16[4,8]{1,0} all-gather(%weight), dimensions={1}, \
replica_groups=[2,4]<=[4,2]T(1,0), metadata={op_name="jit(step)/rollout/gather"}
  %begin = (s32[], f32[8,4]{1,0}) custom-call(%gathered), custom_call_target="begin"
  %while.2 = (s32[], f32[8,4]{1,0}) while(%begin), condition=%one, body=%tokens, \
metadata={op_name="jit(step)/rollout/while"}
  %last = f32[8,4]{1,0} get-tuple-element(%while.2), index=1
  ROOT %fused = f32[8,4]{1,0} fusion(%last), kind=kCustom, calls=%scattered
}
"""


def test_collectives_know_their_loops_and_bytes():
    gather, scattered, reduce = sorted(
        hlo.collectives(PROGRAM), key=lambda x: len(x.loops) or -len(x.scope)
    )
    assert (gather.kind, gather.bytes, gather.loops) == ("all-gather", 64, ())
    assert gather.devices == (0, 2, 4, 6)  # Every second: the first axis of two.
    assert gather.scope == "jit(step)/rollout/gather"
    assert (scattered.bytes, scattered.devices) == (128, (0, 1))
    assert (reduce.kind, reduce.bytes) == ("all-reduce", 128)  # Start and done: one.
    assert reduce.devices == (0, 1)
    assert [loop.trips for loop in reduce.loops] == [None, 24]
    assert reduce.loops[0].scope == "jit(step)/rollout/while"


def test_what_is_fused_is_marked():
    inner = [x for x in hlo.instructions(PROGRAM) if x.name == "inner"]
    assert [x.fused for x in inner] == [True]


def test_sizes():
    assert hlo.size_of("(s32[], bf16[2,8]{1,0:T(8,128)(2,1)}, pred[3])") == 4 + 32 + 3
    assert hlo.size_of("f8e4m3fn[16]") == 16


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        list(hlo.instructions("HloModule nothing"))


def test_a_compiled_program_is_read():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    cut = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=cut(None, "tensor"))
    weight = jax.ShapeDtypeStruct(
        (5, 16, 16), jnp.float32, sharding=cut(None, "tensor")
    )

    def layers(x, weight):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weight)[0]

    text = jax.jit(layers).lower(x, weight).compile().as_text()
    (added,) = (x for x in hlo.collectives(text) if x.kind == "all-reduce")
    assert [loop.trips for loop in added.loops] == [5]
    sizes = {abs(a - b) for a, b in zip(added.devices, added.devices[1:], strict=False)}
    assert len(added.devices) in (2, 4, 8) and len(sizes) == 1
