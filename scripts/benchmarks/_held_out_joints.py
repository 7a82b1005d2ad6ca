"""Joints of kinds that were not used to choose the method, of at most 256 sequences each."""

from __future__ import annotations

from functools import cache

import torch
from problems import Law, chain_joint, sequences
from torch import Tensor


def first_nine() -> dict[str, Law]:
    """Return parities, images, a hidden Markov chain, sentences and an urn, by name."""
    bits, triples, fours = sequences(2, 6), sequences(3, 4), sequences(4, 4)
    spins, depth = 2 * bits - 1, (1 - 2 * bits).cumsum(1)
    image = spins.reshape(-1, 2, 3)
    bonds = (image[:, 0] * image[:, 1]).sum(1) + (image[:, :, 1:] * image[:, :, :-1]).sum((1, 2))
    colors = triples.reshape(-1, 2, 2)
    equal = (colors[:, 0] == colors[:, 1]).sum(1) + (colors[..., 0] == colors[..., 1]).sum(1)
    stays = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    hidden = chain_joint(stays.mean(0), stays, 5)
    said = torch.tensor([[0.7, 0.25, 0.05], [0.05, 0.25, 0.7]], dtype=torch.float64)
    for _ in range(hidden.ndim):
        hidden = torch.tensordot(hidden, said, ([0], [0]))  # the new axis is the last one
    ones = bits.sum(1).double()
    urn = torch.lgamma(0.5 + ones) + torch.lgamma(6.5 - ones)  # shares of Beta(1/2, 1/2)
    parity = spins[:, 0] * spins[:, 2] * spins[:, 4] + spins[:, 1] * spins[:, 3] * spins[:, 5]
    return {
        "parities at a distance": _softmax(1.0 * parity, 2, 6),
        "first and last": _softmax(1.5 * spins[:, 0] * spins[:, 5], 2, 6),
        "Ising image": _softmax(0.4 * bonds, 2, 6),
        "Potts image": _softmax(1.0 * equal, 3, 4),
        "hidden Markov chain": hidden,
        "brackets": _only((depth >= 0).all(1) & (depth[:, -1] == 0), 2, 6),
        "copies": _only((triples[:, :2] == triples[:, 2:]).all(1), 3, 4),
        "permutations": _only((fours.sort(1).values == torch.arange(4)).all(1), 4, 4),
        "urn": _softmax(urn, 2, 6),
    }


def second_nine() -> dict[str, Law]:
    """Return random graphs and chains, a mixture, a grammar, a code, a process, by name."""
    bits, triples, fours = sequences(2, 6), sequences(3, 4), sequences(4, 4)
    spins = 2.0 * bits.double() - 1
    rows = torch.softmax(1.5 * _randn(3, 4, 4, seed=102), -1)
    tree = rows[0, fours[:, 0], fours[:, 1]] * rows[1, fours[:, 0], fours[:, 2]]
    tree = tree * rows[2, fours[:, 2], fours[:, 3]] / 4
    tokens = torch.softmax(0.7 * _randn(3, 4, 3, seed=103), -1)
    products = tokens[:, torch.arange(4), triples].prod(-1)
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    one = torch.tensor([[0.85, 0.3], [0.6, 0.1]], dtype=torch.float64)  # of a 1, after two bits
    chance = one[bits[:, :-2], bits[:, 1:-1]]
    second = torch.where(bits[:, 2:] == 1, chance, 1 - chance).prod(1) / 4
    checks = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])
    words = sequences(2, 3) @ checks % 2
    flips = (bits[:, None] != words).sum(-1).double()
    places = torch.arange(4)
    inverse = (0.8 ** (places[:, None] - places).abs().double()).inverse()
    values = fours.double() - 1.5
    return {
        "random Ising": _softmax(0.5 * _pairs(spins, 101), 2, 6),
        "random tree": tree.reshape([4] * 4),
        "mixture of products": (share @ products).reshape([3] * 4),
        "grammar": _grammar(bits),
        "second-order chain": second.reshape([2] * 6),
        "sorted": _only((fours.diff(dim=1) >= 0).all(1), 4, 4, 0.05),
        "linear code": _softmax((flips * _log_odds(0.05)).logsumexp(1), 2, 6),
        "Gaussian process": _softmax(-0.5 * ((values @ inverse) * values).sum(1), 4, 4),
        "weak pairs": _softmax(0.2 * _pairs(spins, 104), 2, 6),
    }


def _randn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _pairs(spins: Tensor, seed: int) -> Tensor:
    """Return the sum of all products of two spins, with normal weights."""
    weights = _randn(spins.shape[1], spins.shape[1], seed=seed).triu(1)
    return ((spins @ weights) * spins).sum(1)


def _log_odds(p: float) -> float:
    return float(torch.logit(torch.tensor(p).double()))


def _grammar(bits: Tensor) -> Law:
    """Return the law of palindromes around phrases `S -> A S | S A | bit`, `A -> A A | bit`."""

    def probability(word: tuple[int, ...]) -> float:
        @cache
        def phrase(i: int, j: int) -> float:
            if j - i == 1:
                return 0.2
            cuts = range(i + 1, j)
            return sum(0.35 * a(i, k) * phrase(k, j) + 0.25 * phrase(i, k) * a(k, j) for k in cuts)

        @cache
        def a(i: int, j: int) -> float:
            if j - i == 1:
                return 0.7 if word[i] else 0.1
            return sum(0.2 * a(i, k) * a(k, j) for k in range(i + 1, j))

        def palindrome(i: int, j: int) -> float:
            around = j - i >= 3 and word[i] == word[j - 1]
            return 0.15 * phrase(i, j) + (0.42 * palindrome(i + 1, j - 1) if around else 0.0)

        return palindrome(0, len(word))

    law = torch.tensor([probability(tuple(word)) for word in bits.tolist()], dtype=torch.float64)
    return (law / law.sum()).reshape([2] * bits.shape[1])


def _softmax(energy: Tensor, num_states: int, length: int) -> Law:
    return torch.softmax(energy.double(), 0).reshape([num_states] * length)


def _only(allowed: Tensor, num_states: int, length: int, noise: float = 0.01) -> Law:
    """Return equally probable sentences, and any sequence with probability `noise`."""
    law = (1 - noise) * allowed.double() / allowed.sum() + noise / len(allowed)
    return law.reshape([num_states] * length)
