"""FLOPs equal their formulas, including those of scans and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.sharding import make_mesh
from deberta_jax.training.chips import peak_flops
from deberta_jax.training.flops import count_flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_matrix_product_has_two_operations_per_term():
    assert (
        count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(2, 3, 5), shape(2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    )


def test_a_convolution_counts_its_kernel_per_output():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        )

    assert count_flops(convolve, shape(2, 10, 8), shape(3, 4, 6)) == 2 * (2 * 10 * 6) * 3 * 4


@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_counts_every_iteration_and_its_gradient_twice_as_much(remat):
    def loss(layers, x):
        def body(x, w):
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(body) if remat else body, x, layers)[0])

    forward = 6 * 2 * 4 * 8 * 8
    arguments = shape(6, 8, 8), shape(4, 8)
    assert count_flops(jax.jit(loss), *arguments) == forward
    both = count_flops(jax.grad(loss, argnums=(0, 1)), *arguments)
    assert both == (4 if remat else 3) * forward


def test_the_body_of_a_shard_map_counts_on_every_device():
    mesh = make_mesh(2, devices=jax.devices()[:2])
    split = jax.P("data")

    def product(a, b):
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(split, jax.P()), out_specs=split)(a, b)

    assert count_flops(product, shape(4, 8), shape(8, 3)) == 2 * 4 * 8 * 3


def test_the_largest_branch_of_a_cond_counts():
    def either(p, a, b):
        return jax.lax.cond(p, lambda: a @ b, lambda: jnp.zeros((4, 3)))

    assert count_flops(either, jax.ShapeDtypeStruct((), np.bool_), shape(4, 8), shape(8, 3)) == 2 * 4 * 8 * 3


def test_peaks_are_found_by_device_kind():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("TPU v99") is None
    assert peak_flops("cpu") is None
