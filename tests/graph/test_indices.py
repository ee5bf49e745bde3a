"""Data that goes on as indices (a quantiser in evaluation) is still the data: no layer is dead or cond for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import DeepPrism, convert, scan
from prismify.graph import capture
from prismify.graph.dataflow import roles
from tests.graph.nets import C, conv


def distances(z: Tensor, book: Tensor) -> Tensor:
    return (z.unsqueeze(-2) - book).square().sum(-1)


def nearest(z: Tensor, book: Tensor) -> Tensor:
    return F.embedding(distances(z, book).argmin(-1), book)


def by_minimum(z: Tensor, book: Tensor) -> Tensor:
    return book[distances(z, book).min(-1).indices]


def by_topk(z: Tensor, book: Tensor) -> Tensor:
    return book.index_select(0, (-distances(z, book)).topk(1).indices.flatten()).view_as(z)


def by_sorting(z: Tensor, book: Tensor) -> Tensor:
    return book[distances(z, book).argsort(-1)[..., 0]]


def by_gather(z: Tensor, book: Tensor) -> Tensor:
    index = distances(z, book).flatten(0, -2).argmin(-1, keepdim=True).expand(-1, z.shape[-1])
    return book.gather(0, index).view_as(z)


def by_one_hot(z: Tensor, book: Tensor) -> Tensor:
    return F.one_hot((z @ book.t()).argmax(-1), len(book)).to(z.dtype) @ book


def by_scattering(z: Tensor, book: Tensor) -> Tensor:
    index = distances(z, book).argmin(-1, keepdim=True)
    return torch.zeros(*z.shape[:-1], len(book)).scatter_(-1, index, 1) @ book


def by_sampling(z: Tensor, book: Tensor) -> Tensor:
    index = distances(z, book).neg().softmax(-1).flatten(0, -2).multinomial(1)
    return book[index.squeeze(1)].view_as(z)


def by_rounding(z: Tensor, book: Tensor) -> Tensor:
    levels = (z.sigmoid() * (len(book) - 1)).round().long()
    return book[levels, 0]


def by_sign(z: Tensor, book: Tensor) -> Tensor:
    return torch.where(z > 0, book.amax(), book.amin())


def by_bins(z: Tensor, book: Tensor) -> Tensor:
    return book[:, 0][torch.bucketize(z, book[:, 1])]


QUANTISERS = [
    nearest, by_minimum, by_topk, by_sorting, by_gather, by_one_hot, by_scattering, by_sampling, by_rounding, by_sign,
    by_bins,
]  # fmt: skip


class Quantised(nn.Module):
    """Straight-through in training only, as most quantisers have it."""

    def __init__(self, quantise, learned: bool) -> None:
        super().__init__()
        self.quantise = quantise
        self.enc = nn.Sequential(conv(3), nn.ReLU(), conv())
        self.dec = nn.Sequential(conv(), nn.ReLU(), conv(C, 3))
        book = torch.randn(8, C)
        if learned:
            self.book = nn.Parameter(book)
        else:
            self.register_buffer("book", book)

    def forward(self, x: Tensor) -> Tensor:
        z = self.enc(x).permute(0, 2, 3, 1)
        q = self.quantise(z, self.book)
        if self.training:
            q = z + (q - z).detach()
        return self.dec(q.permute(0, 3, 1, 2))


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "buffer"])
@pytest.mark.parametrize("quantise", QUANTISERS)
def test_layers_on_both_sides_of_a_quantiser_are_inner(quantise, learned):
    rows = {row.name: row for row in scan(Quantised(quantise, learned), (torch.rand(1, 3, 8, 8),)).layers}
    roles = {name: rows[name].role for name in ("enc.0", "enc.2", "dec.0", "dec.2")}
    assert roles == {"enc.0": "input", "enc.2": "inner", "dec.0": "inner", "dec.2": "output"}
    assert rows["enc.2"].decision == rows["dec.0"].decision == "replace"


def test_a_layer_before_a_quantiser_is_replaced_where_training_reaches_it():
    model, x = Quantised(nearest, True), torch.rand(1, 3, 8, 8)
    small = convert(model, args=(x,))
    assert isinstance(small.enc[2], DeepPrism)
    assert isinstance(small.dec[0], DeepPrism)
    small.train()(x).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters() if p is not small.book)


@pytest.mark.parametrize("straight_through", [False, True])
def test_a_quantiser_is_no_layer_between_the_data_and_the_next(straight_through):
    """As diffusers' VQModel has it: by itself, `decode` quantises once more."""

    class Halves(Quantised):
        def __init__(self) -> None:
            super().__init__(None, True)
            self.table = nn.Embedding(8, C)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = self.enc(x).permute(0, 2, 3, 1)
            index = distances(z, self.table.weight).argmin(-1)
            return self.through(z, index), index

        def through(self, z: Tensor, index: Tensor) -> Tensor:
            q = self.table(index)
            return z + (q - z).detach() if straight_through else q

        def decode(self, z: Tensor) -> Tensor:
            q = self.through(z, distances(z, self.table.weight).argmin(-1))
            return self.dec(q.permute(0, 3, 1, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x)[0])

    model, x = Halves(), torch.rand(1, 3, 8, 8)
    graphs = [capture(model, args, method=m) for m, args in (("encode", (x,)), ("decode", (torch.rand(1, 8, 8, C),)))]
    encode, decode = ({use.module: use.role for use in roles(graph)} for graph in graphs)
    assert (encode["enc.0"], encode["enc.2"]) == ("input", "output")
    assert (decode["dec.0"], decode["dec.2"]) == ("input", "output")


def test_classes_are_a_result_of_the_layers_that_they_are_read_off():
    class Classes(Quantised):
        def forward(self, x: Tensor) -> Tensor:
            return self.dec(self.enc(x)).argmax(1)

    plan = scan(Classes(nearest, False), (torch.rand(1, 3, 8, 8),))
    assert [row.role for row in plan.layers] == ["input", "inner", "inner", "output"]
