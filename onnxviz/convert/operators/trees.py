"""Ensembles of decision trees, all trees and images at once.

A tree is constant between its thresholds: its gradient is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxviz.convert.operators.class_scores import (
    Labels,
    classifier,
    floating,
    floats,
    integers,
    of_two,
    transform_name,
    transform_targets,
    transformed,
)
from onnxviz.convert.operators.operation import Conversion, NotConvertible, Operation, bounded
from onnxviz.core.errors import ModelError

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_LEQ, _LT, _GTE, _GT, _EQ, _NEQ, _MEMBER, _LEAF = range(8)
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_BINARY = 2
_DEPTH = 4096
"""Deepest tree; a tree that is deeper leads back into itself or is nobody's."""


@dataclass
class _Trees:
    """Nodes of all trees; children of a leaf are the leaf itself.

    Attributes:
        features: [nodes] which feature a node looks at.
        thresholds: [nodes] what it compares it with.
        modes: [nodes] index into `_MODES`, or `_LEAF`.
        children: [nodes, 2] where it goes on if the comparison is false, and true.
        missing: [nodes] whether NaN counts as true.
        roots: [trees].
        vote_nodes: [votes] leaf of each vote.
        vote_targets: [votes] target of each vote.
        vote_weights: [votes].
    """

    features: np.ndarray
    thresholds: np.ndarray
    modes: np.ndarray
    children: np.ndarray
    missing: np.ndarray
    roots: np.ndarray
    vote_nodes: np.ndarray
    vote_targets: np.ndarray
    vote_weights: np.ndarray

    def check(self, targets: int) -> int:
        """Return the depth of the deepest tree.

        Raises:
            NotConvertible: if the nodes are no trees.
        """
        count = len(self.features)
        lengths = {len(part) for part in (self.thresholds, self.modes, self.children, self.missing)}
        if lengths != {count} or not count or not len(self.roots):
            raise NotConvertible("the lists of its nodes have different lengths")
        if len(self.vote_nodes) != len(self.vote_targets) or len(self.vote_nodes) != len(self.vote_weights):
            raise NotConvertible("the lists of its leaves have different lengths")
        for indices, size in (
            (self.children, count), (self.roots, count), (self.vote_nodes, count), (self.vote_targets, targets),
        ):  # fmt: skip
            if indices.size and not 0 <= indices.min() <= indices.max() < size:
                raise NotConvertible("a tree leads to a node or target that is not there")
        if self.features.min() < 0:
            raise NotConvertible("a tree looks at a feature before the first")
        level = np.unique(self.roots)
        for depth in range(_DEPTH):
            level = level[self.modes[level] != _LEAF]
            if not len(level):
                return depth
            level = np.unique(self.children[level])
        raise NotConvertible(f"a tree is deeper than {_DEPTH} nodes or leads back into itself")


class _Ensemble(nn.Module):
    """Votes of all trees, added up."""

    features: torch.Tensor
    thresholds: torch.Tensor
    onward: torch.Tensor
    below: torch.Tensor
    equal: torch.Tensor
    above: torch.Tensor
    missing: torch.Tensor
    roots: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor

    def __init__(self, trees: _Trees, targets: int, aggregate: str = "SUM") -> None:
        super().__init__()
        if aggregate not in _AGGREGATES:
            raise NotConvertible(f"aggregate_function {aggregate[:40]!r} is unknown")
        self.depth = trees.check(targets)
        self.target_count, self.aggregate, self.tree_count = targets, aggregate, len(trees.roots)
        self.width = int(trees.features[trees.modes != _LEAF].max(initial=-1)) + 1
        modes = trees.modes
        # A leaf looks at feature 0; wherever that leads, it leads to the leaf.
        tensors = {
            "features": np.where(modes == _LEAF, 0, trees.features),
            "thresholds": trees.thresholds.astype(np.float32),
            "onward": trees.children.reshape(-1),
            "below": np.isin(modes, (_LEQ, _LT, _NEQ)),
            "equal": np.isin(modes, (_LEQ, _GTE, _EQ)),
            "above": np.isin(modes, (_GTE, _GT, _NEQ)),
            "missing": trees.missing.astype(bool) | (modes == _NEQ),
            "roots": trees.roots,
        }
        tensors["targets"], tensors["weights"] = self._votes(trees, targets)
        for name, array in tensors.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))
        self.mode = int(modes[modes != _LEAF][0]) if len(set(modes[modes != _LEAF])) == 1 else None
        if trees.missing.any():
            self.mode = None

    @staticmethod
    def _votes(trees: _Trees, targets: int) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and weights of each node's votes, [nodes, most votes]; target `targets` is nobody's."""
        order = np.argsort(trees.vote_nodes, kind="stable")
        nodes = trees.vote_nodes[order]
        counts = np.bincount(nodes, minlength=len(trees.features))
        most = max(int(counts.max(initial=0)), 1)
        if len(counts) * most > 16 * len(nodes) + (1 << 20):
            raise NotConvertible(f"a single leaf of it has {most} votes")
        place = np.arange(len(nodes)) - (np.cumsum(counts) - counts)[nodes]
        where = np.full((len(counts), most), targets, np.int64)
        weight = np.zeros((len(counts), most), np.float32)
        where[nodes, place] = trees.vote_targets[order]
        weight[nodes, place] = trees.vote_weights[order]
        return where, weight

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores [N, targets] of values [N, features], and whether any tree voted for a target."""
        if values.shape[1] < self.width:
            raise ModelError(f"trees that look at {self.width} features were given {values.shape[1]}")
        count = values.shape[0]
        bounded((count, max(self.tree_count * self.targets.shape[1], self.target_count)), "a tree ensemble")
        at = self.roots.expand(count, -1)
        for _ in range(self.depth):
            given = values.gather(1, self.features[at])
            at = self.onward[2 * at + self._goes(given, at)]
        where, weight = (part[at].reshape(count, -1) for part in (self.targets, self.weights))
        scores = values.new_zeros(count, self.target_count + 1)
        if self.aggregate in ("MIN", "MAX"):
            kind = "amin" if self.aggregate == "MIN" else "amax"
            scores = scores.scatter_reduce(1, where, weight.to(scores.dtype), kind, include_self=False)
        else:
            scores = scores.scatter_add(1, where, weight.to(scores.dtype))
        voted = torch.zeros_like(scores, dtype=torch.bool).scatter(1, where, True)[:, : self.target_count]
        scores = scores[:, : self.target_count]
        return (scores / self.tree_count if self.aggregate == "AVERAGE" else scores), voted

    def _goes(self, given: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Return 1 where the comparison of a node is true, else 0."""
        threshold = self.thresholds[at]
        if self.mode == _LEQ:
            return (given <= threshold).long()
        if self.mode == _LT:
            return (given < threshold).long()
        true = (given < threshold) & self.below[at] | (given == threshold) & self.equal[at]
        return (true | (given > threshold) & self.above[at] | given.isnan() & self.missing[at]).long()


def _numbered_trees(operation: Operation, prefix: str) -> _Trees:
    """Read the form of versions 1 and 3, where a node is named by the numbers of its tree and itself.

    Args:
        operation: the node.
        prefix: "class" or "target".
    """
    tree, number = integers(operation, "nodes_treeids"), integers(operation, "nodes_nodeids")
    modes = operation.attributes["nodes_modes"]
    names = {**{name: index for index, name in enumerate(_MODES)}, "LEAF": _LEAF}
    unknown = next((name for name in modes if name not in names or name == "BRANCH_MEMBER"), None)
    if unknown is not None:
        raise NotConvertible(f"its node mode {str(unknown)[:40]!r} is unknown")
    kinds = np.asarray([names[name] for name in modes], np.int64)
    count = len(tree)
    lists = [integers(operation, f"nodes_{side}nodeids") for side in ("false", "true")]
    features = integers(operation, "nodes_featureids")
    if {len(part) for part in (number, kinds, features, *lists)} != {count}:
        raise NotConvertible("the lists of its nodes have different lengths")
    place = {(int(t), int(n)): index for index, (t, n) in enumerate(zip(tree, number, strict=True))}
    own = np.arange(count)
    children = np.stack(
        [
            np.asarray(
                [own[i] if kinds[i] == _LEAF else place.get((int(tree[i]), int(side[i])), -1) for i in range(count)]
            )
            for side in lists
        ],
        axis=1,
    )
    thresholds = floats(operation, "nodes_values")
    missing = integers(operation, "nodes_missing_value_tracks_true")
    votes = [integers(operation, f"{prefix}_{name}") for name in ("treeids", "nodeids", "ids")]
    if len({len(part) for part in votes}) != 1:
        raise NotConvertible("the lists of its leaves have different lengths")
    _, roots = np.unique(tree, return_index=True)  # the first node of each tree
    return _Trees(
        features=np.where(kinds == _LEAF, 0, features),
        thresholds=thresholds if len(thresholds) else np.zeros(count, np.float32),
        modes=kinds,
        children=children.reshape(count, 2).astype(np.int64),
        missing=missing if len(missing) else np.zeros(count, np.int64),
        roots=np.sort(roots),
        vote_nodes=np.asarray(
            [place.get((int(t), int(n)), -1) for t, n in zip(votes[0], votes[1], strict=True)], np.int64
        ),
        vote_targets=votes[2],
        vote_weights=floats(operation, f"{prefix}_weights"),
    )


# --- TreeEnsembleRegressor, TreeEnsembleClassifier --------------------------------------------------------------------


def tree_regressor(operation: Operation) -> Conversion:
    """TreeEnsembleRegressor."""
    targets = int(operation.attributes.get("n_targets", 1))
    if targets < 1:
        raise NotConvertible(f"it has {targets} targets")
    aggregate = str(operation.attributes.get("aggregate_function", "SUM")).upper()
    trees = _Ensemble(_numbered_trees(operation, "target"), targets, aggregate)
    return Conversion(_Regressor(trees, floats(operation, "base_values"), transform_name(operation)))


class _Regressor(nn.Module):
    base: torch.Tensor | None

    def __init__(self, trees: _Ensemble, base: np.ndarray, transform: str) -> None:
        super().__init__()
        if len(base) not in (0, trees.target_count):
            raise NotConvertible(f"it has {len(base)} base values for {trees.target_count} targets")
        self.trees, self.transform = trees, transform
        self.register_buffer("base", torch.from_numpy(base) if len(base) else None)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [N, targets]."""
        scores: torch.Tensor
        scores, voted = self.trees(floating(values))
        if self.base is not None:
            # As in ONNX Runtime, what no tree spoke of stays zero where there are several targets.
            base = self.base.expand_as(scores)
            scores = scores + (base if self.trees.target_count == 1 else torch.where(voted, base, 0.0))
        return transform_targets(scores, self.transform)


def tree_classifier(operation: Operation) -> Conversion:
    """TreeEnsembleClassifier."""
    labels = Labels(operation, "classlabels_int64s")
    if not labels.count:
        raise NotConvertible("it has no labels")
    read = _numbered_trees(operation, "class")
    module = _TreeClassifier(operation, _Ensemble(read, labels.count), labels, read)
    return classifier(module, operation, labels)


class _TreeClassifier(nn.Module):
    base: torch.Tensor | None

    def __init__(self, operation: Operation, trees: _Ensemble, labels: Labels, read: _Trees) -> None:
        super().__init__()
        self.trees, self.labels, self.transform = trees, labels, transform_name(operation)
        used = set(read.vote_targets.tolist())
        self.only = used.pop() if len(used) == 1 else None
        self.positive = bool((read.vote_weights >= 0).all())
        base = floats(operation, "base_values")
        if len(base) not in (0, labels.count) and not (len(base) == 1 and labels.count == _BINARY):
            raise NotConvertible(f"it has {len(base)} base values for {labels.count} classes")
        if labels.count == _BINARY and len(base) and (len(base) > 1 or self.only != 0):
            raise NotConvertible("the standard does not say what base values mean for two classes")
        if labels.count == _BINARY and self.only == 0 and self.transform == "PROBIT":
            raise NotConvertible("the standard does not say what PROBIT of a single score for two classes is")
        self.register_buffer("base", torch.from_numpy(base) if len(base) else None)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return labels [N] and scores [N, classes]."""
        scores: torch.Tensor
        scores, voted = self.trees(floating(values))
        if self.labels.count == 1:
            scores = scores if self.base is None else scores + self.base
            return ((scores[:, 0] > 0).long(), scores if self.transform != "PROBIT" else self._of(scores))
        if self.labels.count == _BINARY and self.only is not None:
            return self._binary(scores)
        if self.base is not None:
            scores, voted = scores + self.base, torch.ones_like(voted)
        # A class that no tree spoke of does not win, however bad the others are.
        best = torch.where(voted, scores, torch.full_like(scores, -torch.inf)).argmax(1)
        return (self.labels(best), self._of(scores))

    def _of(self, scores: torch.Tensor) -> torch.Tensor:
        return transformed(scores, self.transform)

    def _binary(self, scores: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Two classes, of which the trees speak of one only, as ONNX Runtime has it."""
        score = scores[:, self.only]
        if self.base is not None:
            score = score + self.base[0]
        labels = self.labels((score > (0.5 if self.positive else 0.0)).long())
        if self.only == 1:
            return (labels, self._of(torch.stack([torch.zeros_like(score), score], 1)))
        return (labels, of_two(score, self.transform, self.positive))


# --- TreeEnsemble (5) -------------------------------------------------------------------------------------------------


def tree_ensemble(operation: Operation) -> Conversion:
    """TreeEnsemble: inner nodes and leaves in lists of their own; leaves are put behind the nodes."""
    attributes = operation.attributes
    inner = integers(operation, "nodes_featureids")
    leaf_targets = integers(operation, "leaf_targetids")
    count, leaves = len(inner), len(leaf_targets)
    sides = []
    for side in ("false", "true"):
        nodes, is_leaf = integers(operation, f"nodes_{side}nodeids"), integers(operation, f"nodes_{side}leafs")
        if len(nodes) != count or len(is_leaf) != count:
            raise NotConvertible("the lists of its nodes have different lengths")
        if nodes.size and not (nodes.min() >= 0 and (nodes < np.where(is_leaf, leaves, count)).all()):
            raise NotConvertible("a tree leads to a node that is not there")
        sides.append(np.where(is_leaf, nodes + count, nodes))
    missing = integers(operation, "nodes_missing_value_tracks_true")
    own = np.arange(count, count + leaves)
    thresholds = np.asarray(attributes["nodes_splits"], np.float32).reshape(-1)
    modes = np.asarray(attributes["nodes_modes"]).astype(np.int64).reshape(-1)
    if len(thresholds) != count or len(modes) != count or (modes.size and not 0 <= modes.min() <= modes.max() < _LEAF):
        raise NotConvertible("the lists of its nodes have different lengths or modes that are unknown")
    trees = _Trees(
        features=np.concatenate([inner, np.zeros(leaves, np.int64)]),
        thresholds=np.concatenate([thresholds, np.zeros(leaves, np.float32)]),
        modes=np.concatenate([modes, np.full(leaves, _LEAF)]),
        children=np.stack([np.concatenate([side, own]) for side in sides], 1),
        missing=np.concatenate([missing if len(missing) else np.zeros(count, np.int64), np.zeros(leaves, np.int64)]),
        roots=integers(operation, "tree_roots"),
        vote_nodes=own,
        vote_targets=leaf_targets,
        vote_weights=np.asarray(attributes["leaf_weights"], np.float32).reshape(-1),
    )
    members = np.asarray(attributes.get("membership_values", ()), np.float32).reshape(-1)
    targets, aggregate = int(attributes.get("n_targets", 1)), int(attributes.get("aggregate_function", 1))
    if targets < 1 or not 0 <= aggregate < len(_AGGREGATES):
        raise NotConvertible(f"it has {targets} targets and aggregate function {aggregate}")
    ensemble = _Ensemble(_without_membership(trees, members), targets, _AGGREGATES[aggregate])
    return Conversion(_Regressor(ensemble, np.zeros(0, np.float32), transform_name(operation)))


def _without_membership(trees: _Trees, members: np.ndarray) -> _Trees:
    """Write "is it one of these" as a chain of "is it this one"."""
    asking = np.flatnonzero(trees.modes == _MEMBER)
    if not len(asking):
        return trees
    ends = np.flatnonzero(np.isnan(members))
    sets = [part[~np.isnan(part)] for part in np.split(members, ends + 1)]
    sets = sets[: len(asking)]
    if len(sets) < len(asking) or not all(len(part) for part in sets):
        raise NotConvertible(f"it has {len(sets)} sets of members for {len(asking)} nodes that ask for them")
    features, thresholds, modes, children, missing = (
        part.copy() for part in (trees.features, trees.thresholds, trees.modes, trees.children, trees.missing)
    )
    extra: dict[str, list[Any]] = {name: [] for name in ("features", "thresholds", "children", "missing")}
    for node, part in zip(asking, sets, strict=True):
        modes[node], thresholds[node] = _EQ, part[0]
        no, yes = children[node]
        links = [node, *(len(features) + len(extra["features"]) + i for i in range(len(part) - 1))]
        for index, value in enumerate(part):
            onward = links[index + 1] if index + 1 < len(links) else no
            if index == 0:
                children[node] = (onward, yes)
                continue
            extra["features"].append(features[node])
            extra["thresholds"].append(value)
            extra["children"].append((onward, yes))
            extra["missing"].append(missing[node])
    more = len(extra["features"])
    return _Trees(
        features=np.concatenate([features, np.asarray(extra["features"], np.int64)]),
        thresholds=np.concatenate([thresholds, np.asarray(extra["thresholds"], np.float32)]),
        modes=np.concatenate([modes, np.full(more, _EQ)]),
        children=np.concatenate([children, np.asarray(extra["children"], np.int64).reshape(-1, 2)]),
        missing=np.concatenate([missing, np.asarray(extra["missing"], np.int64)]),
        roots=trees.roots,
        vote_nodes=trees.vote_nodes,
        vote_targets=trees.vote_targets,
        vote_weights=trees.vote_weights,
    )
