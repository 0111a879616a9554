"""Which order prompts are visited in, what each takes over, and where its prefill is cut.

Planning knows prompts, not pixels, models or torch: the engine, the division of work among
processes and `longva-eval plan` all use this one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece

__all__ = [
    "BranchGroup",
    "Query",
    "VisitPlan",
    "pieces_from",
    "plan_branches",
    "plan_visits",
    "read_beside",
]

_MOST_AT_ONCE = 64
"""Tokens behind a shared beginning that are read side by side with those of other prompts."""
_MOST_OWN = 4096
"""Tokens of a branch that are held for it alone."""


@dataclass(frozen=True)
class Query:
    """A prompt, and from where on its logits are wanted."""

    prompt: Prompt
    read_from: int | None = None
    """First position whose logits are read; the last one if None."""
    press_at: int | None = None
    """Tokens after which the cache is pressed: what comes later is not shared."""
    cut_at: int | None = None
    """Another place to cut the prefill at: where a press begins to watch."""

    @property
    def first_read(self) -> int:
        return self.prompt.num_tokens - 1 if self.read_from is None else self.read_from


@dataclass(frozen=True)
class VisitPlan:
    """How a batch of prompts goes through one cache."""

    order: tuple[int, ...]
    """Indices of the queries, as they are visited."""
    kept: tuple[int, ...]
    """For each query, the tokens it takes over from the one visited before it."""
    cuts: tuple[tuple[int, ...], ...]
    """For each query, where its prefill is cut, ascending; the last is its length."""

    def only(self, indices: Collection[int]) -> VisitPlan:
        """The same plan with some of the visits, each through the same cuts."""
        chosen = set(indices)
        order, kept = [], list(self.kept)
        left = 0
        for index in self.order:
            # Of the prompt visited last, no more is left than every edge in between shares.
            left = min(left, self.kept[index])
            if index in chosen:
                order.append(index)
                kept[index] = left
                left = self.cuts[index][-1]
        return VisitPlan(tuple(order), tuple(kept), self.cuts)


def plan_visits(queries: Sequence[Query], *, chunk_tokens: int) -> VisitPlan:
    """Order prompts so that neighbours share most, and decide where their prefills are cut.

    A prompt is cut at multiples of `chunk_tokens`, at branch points, and at its end. A branch
    point is where some prompt leaves its neighbour, or where its logits begin to be read (a
    prefix is taken over only up to there). *Every* prompt that runs through a branch point is cut
    there, whether computed first or later, alone or not: that makes cached and uncached runs
    the same sequence of kernel calls.
    """
    order = _visiting_order([query.prompt for query in queries])
    # At each edge between neighbours: the prefix they share, and how much of it is taken over.
    common = [0] * (len(order) + 1)
    kept_at = [0] * (len(order) + 1)
    for edge in range(1, len(order)):
        one, two = queries[order[edge - 1]], queries[order[edge]]
        common[edge] = min(
            _shared_tokens(one.prompt.pieces, two.prompt.pieces),
            *(each.press_at for each in (one, two) if each.press_at is not None),
            *(each.prompt.num_tokens for each in (one, two)),
        )
        kept_at[edge] = min(common[edge], two.first_read)
    cuts: list[set[int]] = [set() for _ in queries]
    # In sorted order, the prompts that run through a branch point lie side by side around it:
    # carry it to the right and to the left while the shared prefix is long enough.
    for edges_before in (range(len(order)), range(len(order), 0, -1)):
        branch_points: set[int] = set()
        forward = edges_before.step == 1
        for edge in edges_before:
            branch_points = {point for point in branch_points if point <= common[edge]}
            branch_points.add(kept_at[edge])
            index = order[edge if forward else edge - 1]
            branch_points |= {
                point for point in (queries[index].press_at, queries[index].cut_at) if point
            }
            cuts[index].update(branch_points)
    chunks = []
    for query, points in zip(queries, cuts, strict=True):
        total = query.prompt.num_tokens
        points.update(range(chunk_tokens, total, chunk_tokens))
        chunks.append((*sorted(point for point in points if 0 < point < total), total))
    kept = [0] * len(queries)
    for place, index in enumerate(order):
        kept[index] = kept_at[place]
    return VisitPlan(tuple(order), tuple(kept), tuple(chunks))


@dataclass(frozen=True)
class BranchGroup:
    """Prompts that are decoded side by side."""

    members: tuple[int, ...]
    """Indices of their queries, as they are visited."""
    shared: int
    """Tokens they all have in common."""

    def own_ids(self, queries: Sequence[Query]) -> list[list[int]] | None:
        """Tokens of each member behind the shared ones.

        None if they are many, not all text, or if one is read from before them.
        """
        if any(queries[index].first_read < self.shared for index in self.members):
            return None
        found = []
        for index in self.members:
            ids: list[int] = []
            left = self.shared
            for piece in queries[index].prompt.pieces:
                if left < piece.num_tokens:
                    if not isinstance(piece, TextPiece):
                        return None
                    ids += piece.token_ids[max(0, left) :]
                left -= piece.num_tokens
            found.append(ids)
        return found if max(map(len, found)) <= _MOST_AT_ONCE else None


def plan_branches(
    queries: Sequence[Query], plan: VisitPlan, decoded: Collection[int], *, most: int
) -> list[BranchGroup]:
    """Which prompts are decoded side by side: neighbours in a plan that share their beginning.

    A group ends where a prompt would have too much of its own, or where so little would be shared
    that more than a quarter of what the branches hold would be held several times; `most` are its
    members at most.
    """
    groups: list[BranchGroup] = []
    members: list[int] = []
    links: list[int] = []  # tokens that each further member shares with the one before it
    link = 0

    def lengths(indices: Sequence[int]) -> list[int]:
        return [queries[index].prompt.num_tokens for index in indices]

    for index in plan.order:
        link = min(link, plan.kept[index])
        if index not in decoded:
            continue
        shared = min([*links, link])
        own = [length - shared for length in lengths([*members, index])]
        twice = sum(each - shared for each in (*links, link))
        fits = shared > 0 and max(own) <= _MOST_OWN and 4 * twice <= sum(own)
        if members and fits and len(members) < most:
            members, links = [*members, index], [*links, link]
        else:
            groups.append(BranchGroup(tuple(members), min(links, default=0)))
            members, links = [index], []
        link = queries[index].prompt.num_tokens
    groups.append(BranchGroup(tuple(members), min(links, default=0)))
    return [group for group in groups if len(group.members) > 1]


def _visiting_order(prompts: Sequence[Prompt]) -> list[int]:
    """Sort prompts so that those with a common prefix lie side by side.

    That is a depth-first walk through their prefix tree. Videos and pictures come in the order
    in which they were first seen.
    """
    seen: dict[str, int] = {}
    for prompt in prompts:
        for piece in prompt.visual_pieces:
            seen.setdefault(piece.key, len(seen))

    def elements(prompt: Prompt) -> list[tuple[int, int]]:
        sequence: list[tuple[int, int]] = []
        for piece in prompt.pieces:
            if isinstance(piece, VisualPiece):
                sequence.append((0, seen[piece.key]))
            else:
                sequence.extend((1, token_id) for token_id in piece.token_ids)
        return sequence

    keys = [elements(prompt) for prompt in prompts]
    return sorted(range(len(prompts)), key=keys.__getitem__)


def pieces_from(pieces: Sequence[Piece], start: int) -> list[VisualPiece]:
    """The visual pieces that reach beyond position `start`."""
    wanted: list[VisualPiece] = []
    position = 0
    for piece in pieces:
        position += piece.num_tokens
        if position > start and isinstance(piece, VisualPiece):
            wanted.append(piece)
    return wanted


def read_beside(queries: Sequence[Query], visited: Sequence[int]) -> list[list[VisualPiece]]:
    """Pieces of prompts that are not visited, of pictures and videos that are read anyway.

    Frames go through the vision tower in blocks. With the same frames asked for, they are the same
    blocks, to the last bits.
    """
    if len(visited) == len(queries):
        return []
    asked = {piece.key: piece for index in visited for piece in queries[index].prompt.visual_pieces}
    needed = {piece.source.media_key for piece in asked.values() if piece.source is not None}
    beside: dict[str, VisualPiece] = {}
    for index in set(range(len(queries))) - set(visited):
        for piece in queries[index].prompt.visual_pieces:
            if piece.key in asked or piece.source is None:
                continue
            if piece.source.media_key in needed:
                beside.setdefault(piece.key, piece)
    return [list(beside.values())] if beside else []


def _shared_tokens(one: Sequence[Piece], two: Sequence[Piece]) -> int:
    """Length in tokens of the longest common prefix of two prompts."""
    total = 0
    left, right = _runs(one), _runs(two)
    for a, b in zip(left, right, strict=False):
        if a == b:
            total += a.num_tokens
            continue
        if isinstance(a, TextPiece) and isinstance(b, TextPiece):
            for first, second in zip(a.token_ids, b.token_ids, strict=False):
                if first != second:
                    break
                total += 1
        break
    return total


def _runs(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces with neighbouring texts joined, so that equal token sequences compare equal."""
    text: list[int] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            text.extend(piece.token_ids)
            continue
        if text:
            yield TextPiece(tuple(text))
            text = []
        yield piece
    if text:
        yield TextPiece(tuple(text))
