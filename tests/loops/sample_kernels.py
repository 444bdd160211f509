"""Hand-built kernels that between them use every construct of the loop IR."""

from __future__ import annotations

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Cast, Const, Fma
from glulam.compiler.loops.index import Bounded
from glulam.compiler.loops.ir import Access, ByteDot, IndexValue, LanePick, LaneReduce, Span


def conv_nest(lanes=16, blocks=2, size=4, kernel=2, tile=2, unroll=4):
    """A direct convolution over blocked channels, accumulated in a register tile carried through four loops."""
    b = Builder("conv")
    padded = size + kernel - 1
    x = b.param("x", (blocks, padded, padded, lanes))
    w = b.param("w", (blocks, blocks, kernel, kernel, lanes, lanes))
    bias = b.param("bias", (blocks, lanes))
    y = b.param("y", (blocks, size, size, lanes), Access.WRITE)
    with b.section(g=blocks, h=size, s=size // tile) as (g, h, s), b.vector("v", lanes) as v:
        acc = b.tile("acc", tile)
        with b.unrolled("t", tile) as t:
            b.store(acc[t], bias[g, v])
        with (
            b.serial("c", blocks) as c,
            b.serial("kh", kernel) as kh,
            b.serial("kw", kernel) as kw,
            b.serial("i", lanes // unroll) as i,
            b.unrolled("u", unroll) as u,
            b.unrolled("t", tile) as t,
        ):
            place = x[c, h + kh, s * tile + t + kw, i * unroll + u]
            b.store(acc[t], Fma(place, w[g, c, kh, kw, i * unroll + u, v], acc[t]))
        with b.unrolled("t", tile) as t:
            b.store(y[g, h, s * tile + t, v], ex.maximum(acc[t], 0))
    return b.kernel()


def banded(lanes=8, rows=9, columns=6):
    """Sums over some columns of each row, which a loop with a span goes through; rows may have none."""
    b = Builder("banded")
    ends = b.param("ends", (rows, 2), dtype=DType.I64)
    x = b.param("x", (rows, columns, lanes))
    y = b.param("y", (2, rows, lanes), Access.WRITE)
    with b.section(i=rows) as (i,), b.vector("v", lanes) as v:
        acc = b.tile("acc", 2)
        with b.unrolled("t", 2) as t:
            b.store(acc[t], 1.0)
        with b.serial("k", columns, Span(ends[i, 0], ends[i, 1])) as k, b.unrolled("t", 2) as t:
            b.store(acc[t], acc[t] * 0.5 + x[i, k, v])
        with b.serial("k", columns, Span(IndexValue(i - 2), IndexValue(i + 1))) as k:
            b.store(acc[1], acc[1] - x[i, k, v])
        with b.serial("k", 1, Span(IndexValue(i - 4), Const(1, DType.I64))) as k:
            b.store(acc[1], acc[1] + 3.0)
        with b.unrolled("t", 2) as t:
            b.store(y[t, i, v], acc[t])
    return b.kernel()


def gathers(lanes=16):
    """Rows by an index read from memory (one place) and elements by an index computed per lane; both clamped."""
    b = Builder("gathers")
    rows = b.param("rows", (9,), dtype=DType.I64)
    data = b.param("data", (20, lanes))
    y = b.param("y", (9, lanes), Access.WRITE)
    z = b.param("z", (9, lanes), Access.WRITE)
    with b.section(i=9) as (i,), b.vector("v", lanes) as v:
        row = Bounded(rows[i], 20)
        b.store(y[i, v], data[row, v])
        lane = Bounded(IndexValue(v * 5) - rows[i], lanes)
        b.store(z[i, v], data[row, lane] + data[i, v])
    return b.kernel()


def scatters(lanes=8):
    """Lanes written to places that an index names, and to every third place."""
    b = Builder("scatters")
    where = b.param("where", (lanes,), dtype=DType.I64)
    x = b.param("x", (4, lanes))
    y = b.param("y", (4, 32), Access.UPDATE)
    z = b.param("z", (4, 3 * lanes), Access.UPDATE)
    with b.section(i=4) as (i,), b.vector("v", lanes) as v:
        b.store(y[i, Bounded(where[v], 32)], x[i, v])
        b.store(z[i, v * 3 + 1], x[i, v] * 2.0)
    return b.kernel()


def strided(lanes=16):
    """Loads and stores with a step, forwards and backwards, and a matrix transposed."""
    b = Builder("strided")
    x = b.param("x", (5, lanes, 3))
    backward = b.param("backward", (5, lanes), Access.WRITE)
    planes = b.param("planes", (3, 5, lanes), Access.WRITE)
    turned = b.param("turned", (lanes, 5), Access.WRITE)
    with b.section(i=5) as (i,), b.vector("v", lanes) as v:
        b.store(backward[i, v * -1 + (lanes - 1)], x[i, v, 0])
        with b.unrolled("c", 3) as c:
            b.store(planes[c, i, v], x[i, v, c] + x[i, v * -1 + (lanes - 1), c])
        b.store(turned[v, i], x[i, v, 2])
    return b.kernel()


def lane_reductions(lanes):
    """Each fold of a vector, of a value that is the same in all lanes, and of an accumulator."""
    b = Builder("reductions")
    x = b.param("x", (6, lanes))
    y = b.param("y", (6, 5), Access.WRITE)
    with b.section(i=6) as (i,), b.vector("v", lanes) as v:
        for k, op in enumerate(("add", "mul", "maximum", "minimum")):
            b.store(y[i, k], LaneReduce(op, x[i, v]))
        b.store(y[i, 4], LaneReduce("add", x[i, 0]))
    return b.kernel()


def picked_lanes(lanes):
    """A vector's lanes in an order that is read at run time; numbers beyond the vector count around it."""
    b = Builder("picks")
    x = b.param("x", (6, lanes))
    order = b.param("order", (6, lanes), dtype=DType.I32)
    y = b.param("y", (6, lanes), Access.WRITE)
    with b.section(i=6) as (i,), b.vector("v", lanes) as v:
        b.store(y[i, v], LanePick(x[i, v] * 2.0, order[i, v]))
    return b.kernel()


def byte_dots(lanes):
    """Products of the four bytes of numbers, the first one the same in all lanes or not."""
    b = Builder("dots")
    x = b.param("x", (6, lanes), dtype=DType.I32)
    w = b.param("w", (6, lanes), dtype=DType.I32)
    y = b.param("y", (6, lanes), Access.WRITE, dtype=DType.I32)
    with b.section(i=6) as (i,), b.vector("v", lanes) as v:
        acc = b.tile("acc", 1, dtype=DType.I32)
        b.store(acc[0], ByteDot(x[i, v], w[i, v], w[i, v]))
        b.store(y[i, v], ByteDot(x[i, 0], w[i, v], acc[0]))
    return b.kernel()


def lookups(lanes, table):
    """Bytes of a table, for vectors and for one number, and floats that are made of them."""
    b = Builder("lookups")
    x = b.param("x", (6, lanes), dtype=DType.U8)
    y = b.param("y", (6, lanes), Access.WRITE, dtype=DType.U8)
    z = b.param("z", (6, lanes), Access.WRITE)
    with b.section(i=6) as (i,), b.vector("v", lanes) as v:
        b.store(y[i, v], ex.Lookup(ex.Lookup(x[i, v], table), table))
        b.store(z[i, v], ex.Cast(ex.Lookup(x[i, 0], table), DType.F32) * 0.5)
    return b.kernel()


def softmax(width=37, lanes=8):
    """Three passes over a row, with a tail shorter than a vector, through a private buffer."""
    b = Builder("softmax")
    x = b.param("x", (6, width))
    y = b.param("y", (6, width), Access.WRITE)
    row = b.scratch("row", (width,))
    total = b.scratch("total", (1,))
    whole, tail = width // lanes, width % lanes
    with b.section(i=6) as (i,):
        top, sum_ = b.tile("top", 1), b.tile("sum", 1)
        b.store(top[0], ex.Const(-3.4e38))
        b.store(sum_[0], ex.Const(0.0))
        with b.serial("j", width) as j:
            b.store(top[0], ex.maximum(top[0], x[i, j]))
        with b.serial("j", whole) as j, b.vector("v", lanes) as v:
            b.store(row[j * lanes + v], ex.exp(x[i, j * lanes + v] - top[0]))
            b.store(sum_[0], sum_[0] + LaneReduce("add", row[j * lanes + v]))
        if tail:
            with b.vector("v", tail) as v:
                b.store(row[v + whole * lanes], ex.exp(x[i, v + whole * lanes] - top[0]))
                b.store(sum_[0], sum_[0] + LaneReduce("add", row[v + whole * lanes]))
        b.store(total[0], 1.0 / sum_[0])
        with b.vector("v", width) as v:
            b.store(y[i, v], row[v] * total[0])
    return b.kernel()


def integers():
    """Bool, small and large integer buffers, with arithmetic, masks and selects between them."""
    b = Builder("integers")
    x = b.param("x", (40,), dtype=DType.I8)
    flags = b.param("flags", (40,), dtype=DType.BOOL)
    count = b.param("count", (40,), Access.WRITE, dtype=DType.I64)
    negative = b.param("negative", (40,), Access.WRITE, dtype=DType.BOOL)
    small = b.param("small", (40,), Access.WRITE, dtype=DType.U8)
    with b.section(i=5) as (i,), b.vector("v", 8) as v:
        wide = Cast(x[i * 8 + v], DType.I64)
        b.store(count[i * 8 + v], ex.where(flags[i * 8 + v], wide * 1000 + IndexValue(i * 8 + v), -1))
        b.store(negative[i * 8 + v], (x[i * 8 + v] < 0) ^ flags[i * 8 + v])
        b.store(small[i * 8 + v], Cast(wide & 0x7F, DType.U8))
    return b.kernel()


def late_tile():
    """A tile first written inside a loop and read after it; another declared anew in each iteration."""
    b = Builder("late")
    x = b.param("x", (7, 4, 8))
    y = b.param("y", (7, 2, 8), Access.WRITE)
    with b.section(n=7) as (n,), b.vector("v", 8) as v:
        last = b.tile("last", 2)
        with b.serial("i", 4) as i:
            inner = b.tile("inner", 1)
            b.store(inner[0], x[n, i, v])
            with b.serial("k", 3):
                b.store(inner[0], inner[0] * 0.5 + 1.0)
            with b.unrolled("u", 2) as u:
                b.store(last[u], inner[0] + x[n, u, v])
        with b.unrolled("u", 2) as u:
            b.store(y[n, u, v], last[u])
    return b.kernel()


def three_sections():
    """Sections of different shapes, one of them without any iteration."""
    b = Builder("sections")
    x = b.param("x", (3, 5, 7))
    y = b.param("y", (3, 5, 7), Access.WRITE)
    z = b.param("z", (11,), Access.WRITE)
    with b.section(i=3, j=5, k=7) as (i, j, k):
        b.store(y[i, j, k], x[i, j, k] * 2.0)
    with b.section(i=0) as (i,):
        b.store(z[i], ex.Const(5.0))
    with b.section(one=1, i=11, other=1) as (one, i, other):
        b.store(z[one + i + other], x[1, 2, 3] + Cast(IndexValue(i * 2), DType.F32))
    return b.kernel()
