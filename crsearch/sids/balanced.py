"""Balanced k-means: no code holds more than its share of the points.

Two steps in turns: points are dealt out to centroids at the least sum of squared distances that the capacity allows,
and centroids move to the means of their points. Dealing out is an auction: every code has a price that is added to the
distances to its centroid, and a code with too many points gets dearer until those go that lose least by going.

Source: the auction algorithm for transport problems (Bertsekas and Castanon 1989); the schedule, and the places of
what is left over at its end, are this project's.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from crsearch.sids.lloyd import Centroids, Codes, Vectors, add_up, blocks, distances, one_thread_per_block, tiles

_TURNS = 10
"""Times that points are dealt out and centroids moved."""
_NEAREST = 16
"""Codes that bid for a point: the nearest so many. What finds no place there goes where there is room."""
_BIDS = 300
"""Most rounds of bids of an auction."""
_STEP = 3e-3
"""A price rises by this share of the mean squared distance more than is needed, so that prices do not creep."""

Candidates = tuple[Int32[np.ndarray, "N K"], Float32[np.ndarray, "N K"]]
"""Codes that bid for each point, and the squared distances to their centroids."""


def balance(points_ND: Vectors, centroids_CD: Centroids, capacity: int) -> tuple[Centroids, Codes]:
    """Move centroids and give each point a code, so that no code has more than ``capacity`` points.

    Args:
        points_ND: in an order that only their values decide; at most ``capacity`` times the codes.
        centroids_CD: of k-means, to begin with.
        capacity: most points of a code.

    Returns:
        (centroids, the mean of their points where they have any; code of each point).
    """
    for _ in range(_TURNS):
        near = _candidates(points_ND, centroids_CD)
        code_N, price_C = _auction(near, len(centroids_CD), capacity)
        code_N = _placed(points_ND, centroids_CD, price_C, code_N, _too_many(near, price_C, code_N, capacity), capacity)
        centroids_CD = _means(points_ND, centroids_CD, code_N)
    return centroids_CD, code_N


def _candidates(points_ND: Vectors, centroids_CD: Centroids) -> Candidates:
    kept = min(_NEAREST, len(centroids_CD))

    def one_tile(points_tD: Float32[np.ndarray, "t D"]) -> Candidates:
        distance_tC = distances(points_tD, centroids_CD) + np.einsum("td,td->t", points_tD, points_tD)[:, None]
        code_tK = np.argpartition(distance_tC, kept - 1, axis=1)[:, :kept]
        return code_tK.astype(np.int32), np.take_along_axis(distance_tC, code_tK, axis=1)

    def one_block(block: slice) -> list[Candidates]:
        points_mD = points_ND[block]
        return [one_tile(points_mD[tile]) for tile in tiles(len(points_mD))]

    with one_thread_per_block() as blocks_map:
        found = [tile for part in blocks_map(one_block, blocks(len(points_ND), len(centroids_CD))) for tile in part]
    return np.concatenate([code for code, _ in found]), np.concatenate([distance for _, distance in found])


def _auction(near: Candidates, codes: int, capacity: int) -> tuple[Codes, Float32[np.ndarray, " C"]]:
    """Code of each point, few of them too many for their code, and the prices that led there."""
    code_NK, distance_NK = near
    price_C = np.zeros(codes, dtype=np.float32)
    code_N = _cheapest(near, price_C)[0]
    step = np.float32(_STEP * distance_NK.min(axis=1).mean(dtype=np.float64))
    for _ in range(_BIDS):
        load_C = np.bincount(code_N, minlength=codes)
        over = np.flatnonzero(load_C > capacity)
        if not len(over):
            break
        # only prices of codes with too many points rise, so only their points can find another one cheaper
        own = np.flatnonzero((load_C > capacity)[code_N])
        bidders = code_NK[own], distance_NK[own]
        code_m, margin_m = _cheapest(bidders, price_C)
        order, begin_C = _by_code(code_m, margin_m, codes)
        price_C[over] += margin_m[order[begin_C[over] + load_C[over] - capacity - 1]] + step
        code_N[own] = _cheapest(bidders, price_C)[0]
    return code_N, price_C


def _cheapest(
    near: Candidates, price_C: Float32[np.ndarray, " C"]
) -> tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """The code that is nearest with its price, and how much further the second is (infinite where there is none)."""
    cost_mK = near[1] + price_C[near[0]]
    row_m, best_m = np.arange(len(cost_mK)), cost_mK.argmin(axis=1)
    least_m = cost_mK[row_m, best_m]
    cost_mK[row_m, best_m] = np.inf
    return near[0][row_m, best_m].astype(np.int64), cost_mK.min(axis=1) - least_m


def _by_code(
    code_m: Int64[np.ndarray, " m"], value_m: Float32[np.ndarray, " m"], codes: int
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " C"]]:
    """Order of points by code and, within a code, by value; the place in it where each code begins."""
    load_C = np.bincount(code_m, minlength=codes)
    return np.lexsort((value_m, code_m)), np.cumsum(load_C) - load_C


def _first_of_code(
    code_m: Int64[np.ndarray, " m"], value_m: Float32[np.ndarray, " m"], room_C: Int64[np.ndarray, " C"]
) -> Bool[np.ndarray, " m"]:
    """Points that find room in their code, the lowest values first."""
    order, begin_C = _by_code(code_m, value_m, len(room_C))
    inside = np.empty(len(code_m), dtype=bool)
    inside[order] = np.arange(len(order)) - begin_C[code_m[order]] < room_C[code_m[order]]
    return inside


def _too_many(
    near: Candidates, price_C: Float32[np.ndarray, " C"], code_N: Codes, capacity: int
) -> Bool[np.ndarray, " N"]:
    """Points beyond the capacity of their code: those that lose least by going."""
    margin_N = _cheapest(near, price_C)[1]
    return ~_first_of_code(code_N, -margin_N, np.full(len(price_C), capacity))


def _placed(
    points_ND: Vectors,
    centroids_CD: Centroids,
    price_C: Float32[np.ndarray, " C"],
    code_N: Codes,
    homeless_N: Bool[np.ndarray, " N"],
    capacity: int,
) -> Codes:
    """Codes in which the homeless points have gone where it is cheapest among the codes with room."""
    room_C = capacity - np.bincount(code_N[~homeless_N], minlength=len(centroids_CD))
    rows = np.flatnonzero(homeless_N)
    for block in blocks(len(rows), len(centroids_CD)):
        waiting = rows[block]
        cost_mC = distances(points_ND[waiting], centroids_CD) + price_C
        while len(waiting):
            cost_mC[:, room_C == 0] = np.inf
            code_m = cost_mC.argmin(axis=1)
            placed_m = _first_of_code(code_m, cost_mC[np.arange(len(code_m)), code_m], room_C)
            code_N[waiting[placed_m]] = code_m[placed_m]
            room_C -= np.bincount(code_m[placed_m], minlength=len(room_C))
            waiting, cost_mC = waiting[~placed_m], cost_mC[~placed_m]
    return code_N


def _means(points_ND: Vectors, centroids_CD: Centroids, code_N: Codes) -> Centroids:
    """The means of the points of each code; a code without points keeps its centroid."""
    sum_CD = np.zeros(centroids_CD.shape)
    for tile in tiles(len(points_ND)):
        sum_CD = add_up(sum_CD, code_N[tile], np.ones(tile.stop - tile.start), points_ND[tile])
    load_C = np.bincount(code_N, minlength=len(centroids_CD))[:, None]
    return np.where(load_C > 0, sum_CD / np.maximum(load_C, 1), centroids_CD).astype(np.float32)
